"""Held-out loss of weights in few bits: rounded after training, and after quantisation-aware training.

    python -m benchmarks.quantization --workdir runs/quantized --out benchmarks/results/quantization.json

Runs configs/quantized.py where it is not finished. Every figure is nats a token on the held-out tenth of the text;
`bytes` is the closed form of what the matmuls' weights take, `stored` what an export's tensors take.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import types
from typing import Any

import jax

from benchmarks.machine import describe
from configs.quantized import FORMS, get_config
from model.quantization import Quantization, rounded_weights
from model.startup import prepare_kernels
from serving.exported.weights import Weights
from serving.interchange.source import Source
from train.build import build_phase
from train.checkpoint import Checkpoint
from train.phases import run
from train.sections import completed


def measure(workdir: pathlib.Path) -> dict[str, Any]:
    config = completed(get_config())
    reports = run(config, workdir, build_phase)
    pretrained = Checkpoint.open(workdir / "pretrain")
    unrounded = build_phase(config, "further", pretrained)
    losses = {"pretrained": reports["pretrain"]["evaluation"]["loss/text"]}
    losses["further"] = reports["further"]["evaluation"]["loss/text"]
    found = {}
    for name, form in FORMS.items():
        if form is None:
            continue
        quantization = Quantization(**form)
        rounded = jax.jit(lambda p, q=quantization: rounded_weights(p, unrounded.axes, q, tied_head=True))
        state = types.SimpleNamespace(params=rounded(pretrained.weights), ema=None, buffers=pretrained.buffers)
        assert unrounded.evaluate is not None
        after, aware = unrounded.evaluate(state)["loss/text"], reports[name]["evaluation"]["loss/text"]
        weights = Weights.of(Source(Checkpoint.open(workdir / name)), quantization)
        found[name] = {
            "rounded_after_training": after,
            "trained_rounded": aware,
            "worse_after_%": 100 * (after / losses["pretrained"] - 1),
            "worse_trained_%": 100 * (aware / losses["further"] - 1),
            "bytes": weights.num_bytes,
        }
    return {"machine": describe(("jax", "qwix")), "full": losses, "forms": found}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantization", description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/quantized"))
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    prepare_kernels()
    result = measure(options.workdir)
    text = json.dumps(result, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
