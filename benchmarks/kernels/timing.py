"""Medians with spread of calls that run asynchronously on a device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

REPEATS = 20
SAMPLE_SECONDS = 0.05  # of device time between two looks at the clock: a wait costs tens of microseconds
L2_BYTES = 60e6  # of an H200
MAX_COPIES = 8


def copies_of_inputs(num_bytes: int) -> int:
    """Sets of inputs to rotate among, so that together they are several times the cache."""
    return max(1, min(MAX_COPIES, math.ceil(4 * L2_BYTES / num_bytes)))


def measure(
    call: Callable[[int], Any],
    wait: Callable[[Any], Any],
    *,
    repeats: int = REPEATS,
    sample_seconds: float = SAMPLE_SECONDS,
) -> dict[str, float]:
    """Milliseconds of one `call(i)`: quartiles over the samples.

    A sample is many calls queued back to back and one `wait` on the last, so host time counts only where the device
    waits for it. Calls of other implementations are timed by the same clock in the same way.
    """
    wait(call(0))
    wait(call(1))  # the second has no compilation, no allocation and no tuning in it
    began = time.perf_counter()
    wait(call(2))
    loops = max(1, min(200, math.ceil(sample_seconds / (time.perf_counter() - began))))
    samples = []
    for repeat in range(repeats):
        began = time.perf_counter()
        result = None
        for i in range(loops):
            result = call(repeat * loops + i)
        wait(result)
        samples.append((time.perf_counter() - began) * 1e3 / loops)
    low, first, median, third, high = np.percentile(samples, (0, 25, 50, 75, 100))
    spread = {"median_ms": median, "min_ms": low, "q1_ms": first, "q3_ms": third, "max_ms": high}
    return {name: float(value) for name, value in spread.items()} | {"repeats": repeats, "calls_per_repeat": loops}
