"""The same weights and prompts through this stack's prefill and decoding loop.

    python -m benchmarks.decode.ours FOLDER B T N

Answers as `theirs` does.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
import types
from typing import Any

import jax
import numpy as np

from benchmarks.cpu_step.ours import weights
from model.model import create, split
from serving.decoder import Decoder
from serving.interchange.files import ModelFolder
from serving.model import LoadedModel
from serving.prompts import text_tokens
from serving.sampling import Draws, Sampling


def main(folder: str, B: int, T: int, N: int) -> None:
    opened = ModelFolder(folder)
    config = dataclasses.replace(opened.config, dtype="float32", scan=False)
    graph = split(jax.eval_shape(lambda: create(config, opened.vocab_size, 0)))[0]
    # No id ends a text, so that all rows get all tokens.
    vocabulary: Any = types.SimpleNamespace(
        size=opened.vocab_size, text_size=opened.vocab_size, eos_id=-1, pad_id=0, has_symbols=False
    )
    decoder = Decoder(LoadedModel(config, vocabulary, {}, graph, *weights(opened, config)))
    prompts_BT = np.random.default_rng(0).integers(3, opened.vocab_size, (B, T))
    documents = [(text_tokens(row.tolist()),) for row in prompts_BT]
    draws = Draws.of([Sampling(temperature=0)] * B)

    def generate() -> list[list[int]]:
        _, drawn = decoder.decode(decoder.prefill(documents, N), draws, N)
        return np.asarray(drawn.ids_BN).tolist()

    generate()
    answer(jax=jax.__version__)
    for _ in sys.stdin:
        began = time.perf_counter()
        ids = generate()
        answer(seconds=time.perf_counter() - began, ids=ids)


def answer(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
