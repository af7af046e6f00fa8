"""Tokens per second of greedy generation on a CPU, ours beside HF `generate`, on equal weights and prompts in float32.

    python -m benchmarks.decode --reference PYTHON   # an interpreter with torch and transformers

The model is a Gemma 3 of 10M parameters; the sides take turns on the same cores, and reading the prompts counts.
PyTorch runs with a thread for each core and with a single one, and the faster is what counts: where other programs use
the cores too, its threads wait for one another.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks import machine
from benchmarks.turns import Worker, median_ratio, take_turns

MAKE = str(pathlib.Path(__file__).parents[1] / "cpu_step/theirs.py")
THEIRS = str(pathlib.Path(__file__).with_name("theirs.py"))
BAR = 2.0  # times as fast as theirs
SAME = 8  # first tokens of each row that must be equal; later ones may part at a near tie


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--reference", default=sys.executable, help="a Python with torch and transformers")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=128, help="new tokens of a row")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/decode.json"))
    options = parser.parse_args(arguments)
    records = json.loads(options.out.read_text()) if options.out.exists() else {}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([options.reference, MAKE, "make", folder], check=True)
        for batch in options.batch:
            record = measure(folder, options.reference, (batch, options.prompt, options.tokens), options.rounds)
            record["machine"] = machine.describe(("jax", "jaxlib", "flax"))
            records[f"batch {batch}, {options.prompt} + {options.tokens} tokens"] = record
            options.out.write_text(json.dumps(records, indent=1) + "\n")
            print(line(batch, record), flush=True)


def measure(folder: str, reference: str, sizes: tuple[int, int, int], rounds: int) -> dict[str, Any]:
    """Raises SystemExit where the two sides do not write the same."""
    numbers = [folder, *map(str, sizes)]
    huge_pages = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # for both sides
    workers = {"ours": Worker([sys.executable, "-m", "benchmarks.decode.ours", *numbers], huge_pages)}
    for threads in sorted({1, len(os.sched_getaffinity(0))}):
        workers[f"theirs, {threads} threads"] = Worker([reference, THEIRS, str(threads), *numbers], huge_pages)
    answers = take_turns(workers, "", rounds)
    for worker in workers.values():
        worker.close()
    seconds = {name: [turn["seconds"] for turn in turns] for name, turns in answers.items()}
    theirs = min(list(seconds)[1:], key=lambda name: statistics.median(seconds[name]))
    ids = [answers[name][0]["ids"] for name in ("ours", theirs)]
    if [row[:SAME] for row in ids[0]] != [row[:SAME] for row in ids[1]]:
        sys.exit("error: the two sides do not write the same tokens, so they do not run the same model")
    pairs = [pair for rows in zip(*ids, strict=True) for pair in zip(*rows, strict=True)]
    batch, _, tokens = sizes
    rate = {name: batch * tokens / statistics.median(times) for name, times in seconds.items()}
    return {
        "versions": {name: worker.ready for name, worker in workers.items()},
        "tokens_per_second": rate,
        "best_tokens_per_second": {name: batch * tokens / min(times) for name, times in seconds.items()},
        "compared_with": theirs,
        "times_as_fast": median_ratio(seconds["ours"], seconds[theirs]),
        "times_as_fast_at_best": min(seconds[theirs]) / min(seconds["ours"]),
        "equal_tokens": sum(a == b for a, b in pairs) / len(pairs),
        "seconds": seconds,
    }


def line(batch: int, record: dict[str, Any]) -> str:
    rate, ratio, theirs = record["tokens_per_second"], record["times_as_fast"], record["compared_with"]
    verdict = "met" if ratio >= BAR else "missed"
    return (
        f"batch {batch}: ours {rate['ours']:.0f} tokens/s, HF {rate[theirs]:.0f} ({theirs[8:]}): {ratio:.2f}x "
        f"(bar {BAR:g}x: {verdict}; best against best {record['times_as_fast_at_best']:.2f}x; "
        f"{record['equal_tokens']:.1%} of the tokens equal)"
    )


if __name__ == "__main__":
    main()
