"""What checkpoints cost: how long steps wait for one that is written, and how much memory one that is read takes.

    python -m benchmarks.checkpoint stall      # the pre-training of configs/demo.py, one save every --every steps
    python -m benchmarks.checkpoint restore    # one of --gigabytes over 8 virtual devices, by a fresh process

Writes benchmarks/results/checkpoint.json. `stall` reads the data that `make demo` leaves in runs/demo.
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
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.machine import describe
from sharding.mesh import MeshConfig, make_mesh
from tests.train import tiny
from train.checkpoint import Assets, Checkpointer
from train.checkpoints.checksums import problems
from train.goodput.account import attempts_of
from train.step import Guard, TrainState

BAR_EVERY = 50  # steps between saves for which the stall is stated
NUM_ARRAYS, NUM_DEVICES = 16, 8
MESHES = {"as it was saved": {"fsdp": 8}, "on another mesh": {"fsdp": 4, "tensor": 2}, "on one device": {}}
ASSETS = Assets("benchmark", {}, b"", {}, {}, tiny.batch(0, 0, 2))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoint", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("stall", "restore", "save-one", "restore-one"))
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--saves", type=int, default=4)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--workdir", type=pathlib.Path)
    parser.add_argument("--mesh", choices=MESHES, default="as it was saved")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/checkpoint.json"))
    options = parser.parse_args(arguments)
    if options.what == "save-one":
        save_one(options.workdir, options.gigabytes)
        return
    if options.what == "restore-one":
        print(json.dumps(restore_one(options.workdir, options.gigabytes, MESHES[options.mesh])))
        return
    with tempfile.TemporaryDirectory() as folder:
        workdir = options.workdir or pathlib.Path(folder)
        found = stall(workdir, options) if options.what == "stall" else restore(workdir, options.gigabytes)
    kept = json.loads(options.out.read_text()) if options.out.exists() else {}
    kept[options.what] = {
        "machine": describe(("jax", "orbax-checkpoint", "tensorstore")),
        "load_average": os.getloadavg()[1],
        **found,
    }
    print(json.dumps(kept[options.what], indent=1))
    options.out.write_text(json.dumps(kept, indent=1) + "\n")


def stall(workdir: pathlib.Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds that a save keeps the loop waiting, and what its writing in the background does to the steps after."""
    steps = options.every * (options.saves + 1) - 1  # the last save of a phase is waited for, and is left out
    settings = {"steps": steps, "checkpoint_every": options.every, "log_every": max(options.every // 5, 1)}
    overrides = [f"--config.train.{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "train", "--config", "configs/demo.py", "--phase", "pretrain", *overrides]
    subprocess.run([*command, "--workdir", str(workdir)], check=True)
    (attempt,) = attempts_of(workdir / "pretrain" / "events" / "0.jsonl")
    folder = workdir / "pretrain" / "checkpoints" / str(steps)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {"bytes": size, **stall_of(attempt.lines, steps)}


def stall_of(lines: Sequence[dict[str, Any]], steps: int) -> dict[str, Any]:
    """From the events of a run of so many steps; the stretch that begins right after a save shares the machine with
    what is written in the background."""
    saves = [line for line in lines if line["kind"] == "checkpoint" and line["step"] < steps]
    stretches = [line for line in lines if line["kind"] == "steps"][1:]  # the first one is a step alone
    after = [line for line in stretches if line["first"] - 1 in {save["step"] for save in saves}]
    others = [line for line in stretches if line not in after]
    waited = statistics.mean(line["seconds"] for line in saves)
    return {
        "saves": len(saves),
        "waited_seconds_per_save": waited,
        "step_seconds": _per_step(others),
        "step_seconds_while_writing": _per_step(after),
        "share_of_steps": waited / (BAR_EVERY * _per_step(others)),
    }


def _per_step(stretches: Sequence[dict[str, Any]]) -> float:
    return sum(x["seconds"] for x in stretches) / sum(x["last"] - x["first"] + 1 for x in stretches)


def restore(workdir: pathlib.Path, gigabytes: float) -> dict[str, Any]:
    """Memory and seconds of fresh processes that read one checkpoint."""
    flags = f"--xla_force_host_platform_device_count={NUM_DEVICES}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    common = [sys.executable, "-m", "benchmarks.checkpoint"]
    given = ["--workdir", str(workdir), "--gigabytes", str(gigabytes)]
    subprocess.run([*common, "save-one", *given], env=environment, check=True)
    found: dict[str, Any] = {"gigabytes": gigabytes, "devices": NUM_DEVICES}
    for mesh in MESHES:
        command = [*common, "restore-one", *given, "--mesh", mesh]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        found[mesh] = json.loads(done.stdout.splitlines()[-1])
    return found


def state_on(axes: dict[str, int], gigabytes: float, *, abstract: bool) -> TrainState:
    """Arrays of `gigabytes` in all, random, so that compression gains nothing."""
    devices = jax.devices()[: int(np.prod(list(axes.values()) or [1]))]
    mesh = make_mesh(MeshConfig(data=1, fsdp=axes.get("fsdp", 1), tensor=axes.get("tensor", 1)), devices)
    cut, whole = (NamedSharding(mesh, spec) for spec in (PartitionSpec("fsdp", "tensor"), PartitionSpec()))
    shape = (1024, round(gigabytes * 1e9 / NUM_ARRAYS / 4 / 1024))
    shape = (shape[0], shape[1] // 8 * 8)

    def array(key: int) -> Any:
        if abstract:
            return jax.ShapeDtypeStruct(shape, np.float32, sharding=cut)
        return jax.jit(lambda: jax.random.normal(jax.random.key(key), shape), out_shardings=cut)()

    def scalar(kind: Any) -> Any:
        return jax.ShapeDtypeStruct((), kind, sharding=whole) if abstract else jax.device_put(kind(0), whole)

    params = {f"array{i}": array(i) for i in range(NUM_ARRAYS)}
    guard = Guard(scalar(np.float32), *(scalar(np.int32) for _ in range(3)))
    return TrainState(scalar(np.int32), params, {}, {"count": scalar(np.int32)}, None, guard)


def save_one(workdir: pathlib.Path, gigabytes: float) -> None:
    writer = Checkpointer(workdir, ASSETS)
    writer.save(state_on(MESHES["as it was saved"], gigabytes, abstract=False), step=1, next_row=0, progress={})
    writer.wait()
    writer.close()


def restore_one(workdir: pathlib.Path, gigabytes: float, axes: dict[str, int]) -> dict[str, float]:
    """Of this process: seconds, and memory above what it had, at most and in the end, as multiples of the arrays."""
    like = state_on(axes, gigabytes, abstract=True)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(like))
    start = time.perf_counter()
    assert not problems(workdir / "1")
    compared = time.perf_counter() - start
    before = _memory("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start = time.perf_counter()
    reader = Checkpointer(workdir, ASSETS)
    state, _ = reader.restore(like)
    jax.block_until_ready(state)
    seconds = time.perf_counter() - start
    return {
        "peak": (_memory("VmHWM") - before) / size,
        "held": (_memory("VmRSS") - before) / size,
        "seconds": seconds,
        "seconds_of_checksums": compared,
    }


def _memory(field: str) -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
