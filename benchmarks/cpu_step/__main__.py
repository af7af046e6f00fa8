"""Training steps of a Gemma 3 of 10M parameters on a CPU, ours beside HF transformers in PyTorch, eager and compiled.

python -m benchmarks.cpu_step --reference PYTHON   # an interpreter with torch and transformers
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

from benchmarks import machine
from benchmarks.turns import Worker, median_ratio, take_turns

THEIRS = str(pathlib.Path(__file__).with_name("theirs.py"))
MODES = ("eager", "compile")
SAME_LOSS = {"float32": 1e-4, "bfloat16": 2e-2}  # of the first step, on equal weights and tokens


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_step", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--reference", default=sys.executable, help="a Python with torch and transformers")
    parser.add_argument("--dtype", choices=tuple(SAME_LOSS), default="float32", help="of activations")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="of PyTorch")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256, help="of a row")
    parser.add_argument("--steps", type=int, default=5, help="of one turn")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/cpu_step.json"))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([options.reference, THEIRS, "make", folder], check=True)
        numbers = [folder, options.dtype, str(options.batch), str(options.tokens)]
        huge_pages = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # for both sides
        workers = {"ours": Worker([sys.executable, "-m", "benchmarks.cpu_step.ours", *numbers], huge_pages)}
        for mode in options.modes:
            workers[mode] = Worker([options.reference, THEIRS, mode, *numbers], huge_pages)
    first = {name: worker.ready["first_losses"][0] for name, worker in workers.items()}
    apart = max(abs(first["ours"] - loss) for loss in first.values())
    if apart > SAME_LOSS[options.dtype]:
        sys.exit(f"error: the sides do not train the same model: first losses {first}")
    answers = take_turns(workers, str(options.steps), options.rounds)
    for worker in workers.values():
        worker.close()
    seconds = {name: [answer["seconds"] for answer in turns] for name, turns in answers.items()}
    tokens = options.batch * options.tokens * options.steps
    record = {
        "machine": machine.describe(("jax", "jaxlib", "flax")),
        "reference": {name: worker.ready for name, worker in workers.items()},
        "tokens_per_second": {name: tokens / statistics.median(times) for name, times in seconds.items()},
        "times_as_fast": {mode: median_ratio(seconds["ours"], seconds[mode]) for mode in options.modes},
        "seconds": seconds,
        "last_losses": {name: turns[-1]["loss"] for name, turns in answers.items()},
    }
    print(json.dumps({k: v for k, v in record.items() if k not in ("machine", "seconds")}, indent=1))
    kept = json.loads(options.out.read_text()) if options.out.exists() else {}
    kept[f"{options.dtype} {options.batch}x{options.tokens}"] = record
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
