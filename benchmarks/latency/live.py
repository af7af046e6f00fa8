"""The same policy against the clock on the wall: a backbone on its own thread, a decoder at every tick."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.latency.clock import Worlds
from serving.policy import Observation
from serving.split_policy import Look, SplitController, SplitPolicy


def live(policy: SplitPolicy, worlds: Worlds, latency: float, seconds: float, control_hz: int) -> dict[str, Any]:
    """Ticks for so many seconds; an answer takes `latency` seconds at least. Milliseconds of each `act`."""

    def far_away(observation: Observation) -> Look:
        began = time.perf_counter()
        look = policy.look([observation])[0]
        time.sleep(max(0.0, latency - (time.perf_counter() - began)))
        return look

    policy.decode(policy.look([worlds.observe(0, None)]), [worlds.worlds[0].proprio()], [0])  # compiles
    controller, spent, missed = SplitController(policy, far_away), [], 0
    controller.act(worlds.observe(0, None))  # waits for the first look
    due = time.perf_counter()
    for tick in range(int(seconds * control_hz)):
        due += 1 / control_hz
        observation = worlds.observe(0, None)
        began = time.perf_counter()
        action = controller.act(observation)
        spent.append(1000 * (time.perf_counter() - began))
        worlds.act(0, action, tick)
        left = due - time.perf_counter()
        if left < 0:  # the next tick begins now, so that one late tick does not make all after it late
            missed, due = missed + 1, due - left
        time.sleep(max(0.0, left))
    controller.close()
    p50, p95, p99 = np.percentile(spent, [50, 95, 99]).round(3).tolist()
    delays = np.array(controller.delays[1:])
    return {
        "act_ms": {"p50": p50, "p95": p95, "p99": p99},
        "ticks": len(spent),
        "missed": int(missed),
        "looks_per_second": round(len(delays) / seconds, 2),
        "delay_steps": {"median": float(np.median(delays)), "most": int(delays.max())} if len(delays) else None,
    }
