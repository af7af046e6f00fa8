"""Whole training steps on one device, ours against HF transformers.

    python -m benchmarks.step [--model dense hybrid] [--tokens 8192 32768] [--impl ours hf_flex hf_sdpa hf_flash]
    python -m benchmarks.step --scale small --tokens 64      # tiny shapes, on a CPU too

A row is one document of so many tokens; a step is forward, backward and AdamW. Each run is a process of its own and the
result file keeps runs of other settings, so that settings can be measured one by one: one or two end within ten minutes
on an H200, most of them compilation, which `--remat` shortens where the policy that fits is known.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from benchmarks import machine
from benchmarks.step.report import Record, table, with_rates

DEFAULT_OUT = "benchmarks/results/step.json"
PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "flax", "optax", "torch", "triton", "transformers", "flash-attn")
ATTENTION = {"hf_flex": "flex_attention", "hf_sdpa": "sdpa", "hf_flash": "flash_attention_2"}
IMPLEMENTATIONS = ("ours", *ATTENTION)
SECONDS = 560.0  # of ten minutes, shared by the runs that one command asks for
LEAST_SECONDS = 280.0  # of one run
ENVIRONMENT = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95", "TF_CPP_MIN_LOG_LEVEL": "2"}

Launch = Callable[[list[str], float], str]


def in_a_process(arguments: list[str], seconds: float) -> str:
    """Run `python -m benchmarks.step.<arguments>`; returns what went wrong, or nothing."""
    command = [sys.executable, "-m", f"benchmarks.step.{arguments[0]}", *arguments[1:]]
    try:
        done = subprocess.run(command, env={**ENVIRONMENT, **os.environ}, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s"
    return "" if done.returncode == 0 else f"the process ended with code {done.returncode}"


def measure(impl: str, model: str, remat: str, numbers: list[str], launch: Callable[[list[str]], str]) -> Record:
    """One run; `numbers` are scale, tokens and steps.

    With remat "auto" HF keeps all activations and, if they do not fit, recomputes each layer's; ours chooses by itself.
    """
    if (refusal := refused(impl, model)) is not None:
        return refusal
    if impl == "ours":
        return _launched(["ours", model, remat, *numbers], launch)
    hf = ["hf", ATTENTION[impl]]
    record = _launched([*hf, "none" if remat == "auto" else remat, *numbers], launch)
    if remat == "auto" and record["status"] == "out of memory":
        record = _launched([*hf, "block", *numbers], launch)
    return record


def refused(impl: str, model: str) -> Record | None:
    """Why a run cannot be, without starting it."""
    if impl == "ours":
        return None
    if model != "dense":
        return {"status": "not supported", "reason": "transformers has no model of this shape"}
    needed = ("torch", "transformers", *(("flash_attn",) if impl == "hf_flash" else ()))
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    return {"status": "not installed", "reason": f"needs {', '.join(missing)}"} if missing else None


def _launched(arguments: list[str], launch: Callable[[list[str]], str]) -> Record:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "record.json"
        problem = launch([*arguments, str(path)])
        if problem or not path.exists():
            return {"status": "failed", "reason": problem or "no record was written"}
        return json.loads(path.read_text())


def main(arguments: list[str] | None = None, launch: Launch = in_a_process) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description="Speed of whole training steps.")
    parser.add_argument("--model", nargs="+", choices=("dense", "hybrid"), default=["dense", "hybrid"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[8192, 32768])
    parser.add_argument("--impl", nargs="+", choices=IMPLEMENTATIONS, default=list(IMPLEMENTATIONS))
    parser.add_argument("--remat", choices=("auto", "none", "dots", "block"), default="auto", help="HF has no dots")
    parser.add_argument("--steps", type=int, default=10, help="timed steps, after two that are not")
    parser.add_argument("--scale", choices=("full", "small"), default="full")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(DEFAULT_OUT))
    options = parser.parse_args(arguments)
    if options.remat == "dots" and options.impl != ["ours"]:
        parser.error("--remat dots is a policy of ours: give --impl ours with it")
    described = machine.describe(PACKAGES)
    accelerator = str(described["accelerator"]) if options.scale == "full" else None
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {"runs": {}}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    settings = [(m, tokens, impl) for m in options.model for tokens in options.tokens for impl in options.impl]
    started = sum(refused(impl, model) is None for model, _, impl in settings)
    seconds = max(LEAST_SECONDS, SECONDS / max(started, 1))
    for model, tokens, impl in settings:
        numbers = [options.scale, str(tokens), str(options.steps)]
        record = measure(impl, model, options.remat, numbers, lambda line: launch(line, seconds))
        record = with_rates(record, model, options.scale, tokens, accelerator)
        here = results["runs"].setdefault(f"{model} {tokens}", {})
        here[impl] = record | {"scale": options.scale, "machine": described}
        options.out.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{model} {tokens} {impl}: {record['status']} {record.get('reason', '')}", flush=True)
    print(table(results["runs"]))


if __name__ == "__main__":
    main()
