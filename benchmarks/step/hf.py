"""Training steps of Gemma 3 with HF transformers, compiled by torch: what a PyTorch user runs on one device.

    python -m benchmarks.step.hf ATTENTION REMAT SCALE TOKENS STEPS RECORD

Float32 parameters and bfloat16 autocast, as ours; fused AdamW; the loss in the same blocks, so that neither side holds
all logits. ATTENTION is a name that transformers knows: flash_attention_2, flex_attention or sdpa.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import Gemma3TextConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextModel

from benchmarks.step.shapes import Shape, shape

LOSS_BLOCK = 4096
WARM_UP = 2
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main(arguments: list[str]) -> None:
    attention, remat, scale, tokens, steps, record = arguments
    try:
        found = run(shape("dense", scale), attention, remat, int(tokens), int(steps))  # type: ignore[arg-type]
    except torch.OutOfMemoryError as error:
        found = {"status": "out of memory", "reason": str(error)[:300]}
    pathlib.Path(record).write_text(json.dumps(found))


def run(shape: Shape, attention: str, remat: str, tokens: int, steps: int) -> dict[str, Any]:
    """The same fields as `ours.run`; the first step's time, which holds the compilation, is `compile_seconds`."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    with torch.device(DEVICE):
        model = Gemma3TextModel(hf_config(shape, tokens, attention))
    model.train()
    if remat == "block":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4, fused=DEVICE == "cuda")
    backbone, block_loss = torch.compile(model), torch.compile(_block_loss)
    random = np.random.default_rng(0)
    seconds, loss = [], torch.tensor(float("nan"))
    for _ in range(WARM_UP + steps):
        tokens_BT = torch.from_numpy(random.integers(0, shape.vocab_size, (1, tokens))).to(DEVICE)
        _wait()
        began = time.perf_counter()
        loss = _step(model, backbone, block_loss, optimizer, tokens_BT)
        _wait()
        seconds.append(time.perf_counter() - began)
    return {
        "status": "ok",
        "seconds": seconds[WARM_UP:],
        "loss": float(loss),
        "peak_bytes": torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None,
        "compile_seconds": seconds[0],
        "remat": remat,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def hf_config(shape: Shape, tokens: int, attention: str) -> Gemma3TextConfig:
    """The same model in transformers' words."""
    ours = shape.config
    local = ours.attention("local")
    assert ours.dense is not None
    assert local.window is not None
    kinds = {"local": "sliding_attention", "global": "full_attention"}
    return Gemma3TextConfig(
        vocab_size=shape.vocab_size,
        hidden_size=ours.model_dim,
        intermediate_size=ours.dense.hidden_dim,
        num_hidden_layers=ours.num_layers,
        num_attention_heads=local.num_heads,
        num_key_value_heads=local.num_kv_heads,
        head_dim=local.head_dim,
        query_pre_attn_scalar=local.head_dim,
        sliding_window=local.window,
        layer_types=[kinds[mixer] for mixer in ours.mixers],
        max_position_embeddings=tokens,
        use_cache=False,
        attn_implementation=attention,
    )


def _step(model, backbone, block_loss, optimizer, tokens_BT: torch.Tensor) -> torch.Tensor:
    with torch.autocast(DEVICE, torch.bfloat16):
        hidden_ND = backbone(input_ids=tokens_BT).last_hidden_state[0]
        target_N = tokens_BT[0].roll(-1)
        losses = [
            checkpoint(block_loss, hidden, model.embed_tokens.weight, target, use_reentrant=False)
            for hidden, target in zip(hidden_ND.split(LOSS_BLOCK), target_N.split(LOSS_BLOCK), strict=True)
        ]
    loss = torch.stack(losses).sum() / target_N.numel()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def _block_loss(hidden_ND: torch.Tensor, table_VD: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
    return cross_entropy((hidden_ND @ table_VD.T).float(), target_N, reduction="sum")


def _wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(sys.argv[1:])
