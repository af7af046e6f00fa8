"""A random Gemma 3 1B out to HF transformers and in again, beside a plain copy of its files: seconds and host memory.

python -m benchmarks.export [--size 1b] [--rounds 5] [--out benchmarks/results/export.json]

Each round copies the folder, imports it, exports that checkpoint and lets the gate read the export back, each in a
process of its own that has loaded its modules. Peaks are what a process holds beyond what JAX takes by itself.

All these steps fill the page cache, and a page that a virtual machine has given back costs it up to ten times what is
copied into it. So each deletes what it wrote in the round before, and begins when as much memory as it fills was just
used and freed.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import ml_dtypes
import numpy as np
import sentencepiece

from benchmarks import machine
from configs.gemma3 import text_model
from configs.schema import parse
from model.config import ModelConfig
from serving.import_hf import import_hf
from serving.interchange.copying import blocks
from serving.interchange.expressible import architecture_for
from serving.interchange.files import ARCHITECTURES
from serving.interchange.gate import Gate
from serving.interchange.source import Source
from serving.interchange.stacking import abstract_states
from serving.interchange.tensor_files import Shape, create_tensors
from serving.interchange.tensors import their_shape
from serving.interchange.write import write_folder
from train.checkpoint import Checkpoint

MAX_SHARD_BYTES = 1_000_000_000


def make(folder: pathlib.Path, size: str) -> None:
    """Random bits of a sensible size in every tensor, as `save_pretrained` would write them, and a tokenizer."""
    config, architecture = parse(ModelConfig, text_model(size)), ARCHITECTURES["gemma3_text"]
    vocab_size = 262_144
    one_by_one = dataclasses.replace(config, scan=False)
    ours = {path: leaf.shape for path, leaf in abstract_states(one_by_one, vocab_size)[0].items()}
    folder.mkdir(parents=True)
    shapes = {
        entry.theirs: Shape(their_shape(entry, ours[entry.ours]), np.dtype(ml_dtypes.bfloat16))
        for entry in architecture.entries(config)
    }
    rng = np.random.default_rng(0)
    noise = (0.02 * rng.standard_normal(1 << 24)).astype(ml_dtypes.bfloat16)
    for tensor in create_tensors(folder, shapes, MAX_SHARD_BYTES).values():
        with tensor.file.open("r+b") as file:
            file.seek(tensor.start)
            for block in blocks((tensor.shape.num_bytes // 2,), 2, noise.nbytes):
                file.write(noise[: block[0].stop - block[0].start].view(np.uint8))
    fields = architecture.write_config(config) | {"model_type": "gemma3_text", "vocab_size": vocab_size}
    (folder / "config.json").write_text(json.dumps(fields | {"dtype": "bfloat16"}))
    tokenizer = io.BytesIO()
    text = pathlib.Path("tests/assets/text/shakespeare.txt").read_text()[:30_000].splitlines()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(text), model_writer=tokenizer, model_type="bpe", vocab_size=400, minloglevel=2
    )
    (folder / "tokenizer.model").write_bytes(tokenizer.getvalue())


def run_import(work: pathlib.Path) -> None:
    import_hf(work / "hf", work / "imported")


def run_export(work: pathlib.Path) -> None:
    """The write alone; what `python -m serving.export` does before the gate."""
    source = Source(Checkpoint.open(work / "imported"))
    (work / "out").mkdir()
    write_folder(work / "out", source, architecture_for(source.config, source.vocabulary.size), MAX_SHARD_BYTES)


def run_gate(work: pathlib.Path) -> None:
    Gate(work / "out", Source(Checkpoint.open(work / "imported"))).check(None)


def run_copy(work: pathlib.Path) -> None:
    shutil.copytree(work / "hf", work / "copy")


STEPS: dict[str, Callable[[pathlib.Path], None]] = {
    "copy": run_copy,
    "import": run_import,
    "export": run_export,
    "gate": run_gate,
}
_WRITTEN = {"copy": "copy", "import": "imported", "export": "out"}


def measure(step: str, work: pathlib.Path) -> None:
    """Prints seconds and the bytes by which the peak grew."""
    import jax

    jax.numpy.zeros(1).block_until_ready()
    if step in _WRITTEN:
        shutil.rmtree(work / _WRITTEN[step], ignore_errors=True)
    fills = sum(file.stat().st_size for file in (work / "hf").iterdir())
    subprocess.run([sys.executable, "-c", f"import numpy; numpy.ones({int(1.5 * fills)}, numpy.uint8)"], check=True)
    before, began, busy = _peak(), time.perf_counter(), _cpu_seconds()
    STEPS[step](work)
    seconds = {"seconds": time.perf_counter() - began, "cpu_seconds": _cpu_seconds() - busy}
    print(json.dumps(seconds | {"bytes": _peak() - before}))


def _cpu_seconds() -> float:
    """Of all threads, in the kernel too: what a machine that does other things at the same time changes least."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak() -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) << 10


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", default="1b", choices=("270m", "1b", "4b"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/export.json"))
    parser.add_argument("--scratch", help="a folder with room for four copies of the model")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        work = pathlib.Path(folder)
        make(work / "hf", options.size)
        shard = max(file.stat().st_size for file in (work / "hf").glob("*.safetensors"))
        seen: dict[str, list[dict[str, float]]] = {step: [] for step in STEPS}
        for step in STEPS:  # so that every round finds what the one before it left
            _in_a_process(step, work)
        for _ in range(options.rounds):
            for step in STEPS:
                seen[step].append(_in_a_process(step, work))
    times = {kind: _medians(seen, kind) for kind in ("seconds", "cpu_seconds")}
    peaks = {step: max(run["bytes"] for run in runs) for step, runs in seen.items()}
    record = {
        "machine": machine.describe(("jax", "numpy", "tensorstore")),
        "size": options.size,
        "largest_shard_bytes": shard,
        **times,
        "times_a_copy": {
            kind: {step: found[step] / found["copy"] for step in STEPS if step != "copy"}
            for kind, found in times.items()
        },
        "peak_bytes": peaks,
        "memory_bar_bytes": int(1.3 * shard) + (1 << 30),
        "runs": seen,
    }
    print(json.dumps({name: value for name, value in record.items() if name != "runs"}, indent=1))
    options.out.write_text(json.dumps(record, indent=1) + "\n")


def _medians(seen: dict[str, list[dict[str, float]]], kind: str) -> dict[str, float]:
    return {step: statistics.median(run[kind] for run in runs) for step, runs in seen.items()}


def _in_a_process(step: str, work: pathlib.Path) -> dict[str, float]:
    # What the allocator keeps for threads and in huge pages is not what is measured.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "GLIBC_TUNABLES": ""}
    code = f"from benchmarks.export import *; measure({step!r}, pathlib.Path({str(work)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"error: {step} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
