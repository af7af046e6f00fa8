"""A Gemma 3 of 10M parameters trained by PyTorch and HF transformers; runs in an interpreter without JAX.

    python theirs.py make FOLDER          # random weights, as `save_pretrained` writes them
    python theirs.py eager|compile FOLDER DTYPE B T

Answers each line N on its input with the seconds of N training steps and the last loss.
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

MODEL = {
    "vocab_size": 2048, "hidden_size": 320, "intermediate_size": 1024, "num_hidden_layers": 8, "head_dim": 64,
    "num_attention_heads": 4, "num_key_value_heads": 1, "query_pre_attn_scalar": 64, "sliding_window": 128,
    "layer_types": [*["sliding_attention"] * 5, "full_attention", *["sliding_attention"] * 2],
}  # fmt: skip


def make(folder: str) -> None:
    torch.manual_seed(0)
    Gemma3ForCausalLM(Gemma3TextConfig(**MODEL)).save_pretrained(folder)


def serve(mode: str, folder: str, dtype: str, B: int, T: int) -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    model = Gemma3ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    run = torch.compile(model) if mode == "compile" else model
    random = np.random.default_rng(0)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")

    def step() -> torch.Tensor:
        tokens_BT = torch.from_numpy(random.integers(0, MODEL["vocab_size"], (B, T)))
        with autocast:
            loss = run(input_ids=tokens_BT, labels=tokens_BT, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    losses = [step().item() for _ in range(2)]
    answer(first_losses=losses, torch=torch.__version__)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            loss = step()
        answer(seconds=time.perf_counter() - began, loss=loss.item())


def answer(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(sys.argv[2])
    else:
        mode, folder, dtype, B, T = sys.argv[1:]
        serve(mode, folder, dtype, int(B), int(T))
