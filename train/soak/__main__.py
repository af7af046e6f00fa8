"""Breaks a run on purpose and compares its result with the same run left alone.

    python -m train.soak                                          # configs/soak.py, 20 faults
    python -m train.soak --config C --config.train.steps=300 --faults 5 --processes 4 --devices 2

Processes are killed, stopped and asked to stop, no file can be written, the newest checkpoint is corrupted: in a random
order that --seed fixes, each as soon as the run has recovered from the one before. Exit code 0 if every fault was
noticed within a minute and the results are the same in every bit; 1 if not. The config's last phase is broken; it must
be the only one to run, and its steps few enough to be run three times.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import jax
import jaxlib

from configs import command
from data.whole import write_whole
from train.build import check
from train.phases import read_sections
from train.sections import completed
from train.soak.faults import KINDS, draw
from train.soak.run import report, run_alone, run_under_faults

NOTICED_WITHIN = 60.0  # seconds


def main(argv: Sequence[str] | None = None) -> None:
    try:
        sys.exit(_soak(*_read(sys.argv[1:] if argv is None else list(argv))))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def _soak(config_path: str, overrides: Sequence[str], given: argparse.Namespace) -> int:
    config = command.read(config_path, overrides, completed)
    settings, phases = read_sections(config)
    check(config)
    if len(settings.phases) != 1:
        raise ValueError(f"config.train.phases is {settings.phases}; leave one, whose result is compared")
    name = settings.phases[0]
    kinds = tuple(given.kinds.split(","))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ValueError(f"--kinds has {unknown[0]!r}; allowed: {', '.join(KINDS)}")
    first = settings.keep * settings.checkpoint_every + 1  # so that a broken checkpoint always has one before it
    steps = settings.steps or phases[name].steps
    faults = draw(given.seed, given.faults, kinds, given.processes, steps, first)
    reference, soaked = (Path(given.workdir).resolve() / part for part in ("reference", "soaked"))
    if soaked.exists():
        raise ValueError(f"{soaked} exists; remove it, or choose another --workdir")

    line = [sys.executable, "-m", "train", f"--config={config_path}", *overrides]
    print(f"{steps} steps left alone, in {reference}", flush=True)
    alone = run_alone(line, reference, given.processes, given.devices)
    print(f"{alone:.0f} s; now with {len(faults)} faults, in {soaked}", flush=True)
    began = time.monotonic()
    code, injected, starts = run_under_faults(line, soaked, name, given.processes, given.devices, faults, given.seed)
    found = report(code, reference / name, soaked / name, injected, len(faults), NOTICED_WITHIN)
    told = {
        "identical": not found["problems"],
        "config": config_path,
        "overrides": list(overrides),
        "seed": given.seed,
        "processes": given.processes,
        "devices": given.devices,
        "steps": steps,
        "starts": starts,
        "seconds_alone": round(alone, 1),
        "seconds_under_faults": round(time.monotonic() - began, 1),
        "noticed_within": max((fault.noticed_after or 0.0 for fault in injected), default=0.0),
        "versions": {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "python": sys.version.split()[0]},
        **found,
    }
    out = Path(given.out or Path(given.workdir) / "report.json")
    write_whole(out, json.dumps(told, indent=1) + "\n")
    for problem in found["problems"]:
        print(f"problem: {problem}")
    verdict = "the same in every bit" if not found["problems"] else f"{len(found['problems'])} problems"
    print(f"{len(injected)} faults, {starts} starts, {told['seconds_under_faults']:.0f} s: {verdict}; see {out}")
    return bool(found["problems"])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _read(argv: Sequence[str]) -> tuple[str, list[str], argparse.Namespace]:
    path, overrides, others = command.sort_arguments(argv)
    parser = _Parser(prog="python -m train.soak", description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--workdir", default="runs/soak", help="where both runs go (runs/soak)")
    parser.add_argument("--out", help="the report, JSON; <workdir>/report.json if not given")
    parser.add_argument("--faults", type=int, default=20, help="how many (20)")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {','.join(KINDS)} (all)")
    parser.add_argument("--seed", type=int, default=0, help="of kinds, moments and processes (0)")
    parser.add_argument("--processes", type=int, default=2, help="of the run (2)")
    parser.add_argument("--devices", type=int, default=1, help="virtual CPU devices of each process (1)")
    given = parser.parse_args(others)
    for name, least in (("faults", 0), ("processes", 1), ("devices", 1)):
        if getattr(given, name) < least:
            raise ValueError(f"--{name} is {getattr(given, name)}; it must be at least {least}")
    return path or "configs/soak.py", list(overrides), given


if __name__ == "__main__":
    main()
