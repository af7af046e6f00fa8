"""Greedy decoding by HF `generate`; runs in an interpreter without JAX.

    python theirs.py THREADS FOLDER B T N

Answers each line on its input with the seconds of N new tokens after B prompts of T, and their ids.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch
import transformers


def main(threads: int, folder: str, B: int, T: int, N: int) -> None:
    torch.set_num_threads(threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # so that all rows get all tokens
    model.generation_config.pad_token_id = 0
    prompts_BT = torch.from_numpy(np.random.default_rng(0).integers(3, model.config.vocab_size, (B, T)))
    options = {"attention_mask": torch.ones_like(prompts_BT), "max_new_tokens": N, "do_sample": False}

    def generate() -> list[list[int]]:
        with torch.inference_mode():
            return model.generate(prompts_BT, **options)[:, T:].tolist()

    generate()
    answer(torch=torch.__version__, transformers=transformers.__version__, threads=torch.get_num_threads())
    for _ in sys.stdin:
        began = time.perf_counter()
        ids = generate()
        answer(seconds=time.perf_counter() - began, ids=ids)


def answer(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
