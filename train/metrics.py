"""What a run reports: windowed means, speed, and where they are written.

MFU = model FLOPs of the batches / seconds / peak FLOP/s; HFU counts what the program executes besides (recomputation).
Both take their FLOPs from the model definition; see `model.flops`.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tensorboardX import SummaryWriter

# Dense bfloat16 FLOP/s of one JAX device, from the vendors' data sheets. A TPU7x chip is two devices.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU7x": 1153.5e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}


def peak_flops() -> tuple[float, str]:
    """Peak FLOP/s of this host's devices together, and where the figure comes from.

    Unknown devices and CPUs, whose virtual devices share the cores, are measured: the best bfloat16 or float32 matmul.
    """
    devices = jax.local_devices()
    for kind, peak in PEAK_FLOPS.items():
        if devices[0].device_kind.startswith(kind):
            return peak * len(devices), f"data sheet, {len(devices)} x {devices[0].device_kind}"
    count = 1 if devices[0].platform == "cpu" else len(devices)
    return count * max(_matmul_flops(dtype) for dtype in (jnp.bfloat16, jnp.float32)), "measured matmul"


def _matmul_flops(dtype: Any, size: int = 1024, trials: int = 3) -> float:
    x = jnp.ones((size, size), dtype)
    matmul = jax.jit(jnp.matmul)
    matmul(x, x).block_until_ready()
    seconds = []
    for _ in range(trials):
        start = time.perf_counter()
        matmul(x, x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def peak_memory_bytes() -> int:
    """Largest memory in use so far: of the fullest local device, or resident memory where devices do not say."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    used = max(stat.get("peak_bytes_in_use", 0) for stat in stats)
    return used or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Window:
    """Means of (sum, weight) pairs since the last report; exact, because sums and weights are added separately."""

    def __init__(self):
        self._sums: dict[str, list[Any]] = {}

    def add(self, metrics: Mapping[str, tuple[Any, Any]]) -> None:
        for name, (total, weight) in metrics.items():
            old = self._sums.get(name, [0.0, 0.0])
            self._sums[name] = [old[0] + np.asarray(total, np.float64), old[1] + np.asarray(weight, np.float64)]

    def means(self) -> dict[str, Any]:
        """Means by name, those without any weight left out; the window starts anew."""
        means = {name: total / weight for name, (total, weight) in self._sums.items() if weight > 0}
        self._sums = {}
        return {name: mean.tolist() if np.ndim(mean) else float(mean) for name, mean in means.items()}


class Meter:
    """Speed of a phase. Compilation, evaluation and checkpoints do not count as training time.

    `totals` are sums since the phase began and travel in its checkpoints; `wall_seconds` counts everything.
    """

    def __init__(self, totals: Mapping[str, float]):
        self.peak, self.peak_source = peak_flops()
        self.totals = {**self._zeros(), "wall_seconds": 0.0, "all_tokens": 0.0, **totals}
        self._start = time.perf_counter() - self.totals["wall_seconds"]
        self._window = self._zeros()
        self._last: float | None = None  # when the last step was known to be finished
        self._waited = 0.0

    @contextlib.contextmanager
    def waiting(self):
        """Time inside is spent waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self):
        """Time inside is no training time."""
        start = time.perf_counter()
        yield
        if self._last is not None:
            self._last += time.perf_counter() - start

    def step_finished(self, tokens: float, model_flops: float, hardware_flops: float) -> None:
        """The first step of a process only starts the clock: it contains the compilation."""
        now = time.perf_counter()
        self.totals["all_tokens"] += tokens
        if self._last is not None:
            amounts = (now - self._last, tokens, model_flops, hardware_flops, self._waited)
            for name, amount in zip(_COUNTED, amounts, strict=True):
                self._window[name] += amount
                self.totals[name] += amount
        self._last, self._waited = now, 0.0
        self.totals["wall_seconds"] = now - self._start

    def window_rates(self) -> dict[str, float]:
        rates = self._rates(self._window)
        self._window = self._zeros()
        return rates

    def total_rates(self) -> dict[str, float]:
        return self._rates(self.totals)

    @staticmethod
    def _zeros() -> dict[str, float]:
        return dict.fromkeys(_COUNTED, 0.0)

    def _rates(self, counted: Mapping[str, float]) -> dict[str, float]:
        """data_wait: share of time in which the loop waited for the next batch, whether or not the device was busy."""
        seconds = counted["seconds"]
        if not seconds:
            return {}
        return {
            "tokens_per_second": counted["tokens"] / seconds,
            "mfu": counted["model_flops"] / seconds / self.peak,
            "hfu": counted["hardware_flops"] / seconds / self.peak,
            "data_wait": counted["waited"] / seconds,
        }


_COUNTED = ("seconds", "tokens", "model_flops", "hardware_flops", "waited")


class MetricWriter:
    """`metrics.jsonl`, one object a line, and TensorBoard event files. Only process 0 writes.

    Lines after `step`, where the run goes on, are dropped: they will be written again.
    """

    def __init__(self, folder: Path, step: int):
        self._file = self._board = None
        if jax.process_index() == 0:
            path = folder / "metrics.jsonl"
            _drop_lines_after(path, step)
            self._file = path.open("a")
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        if self._file is None or self._board is None:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            for label, scalar in _scalars(name, value):
                self._board.add_scalar(label, scalar, step)

    def close(self) -> None:
        if self._file is not None and self._board is not None:
            self._file.close()
            self._board.close()


def _scalars(name: str, value: Any) -> list[tuple[str, float]]:
    if isinstance(value, list):
        return [(f"{name}/{i}", v) for i, v in enumerate(value) if isinstance(v, (int, float))]
    return [(name, value)] if isinstance(value, (int, float)) else []


def _drop_lines_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):  # a line cut off by a kill
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    os.replace(temporary, path)
