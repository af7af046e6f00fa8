"""What a robot waits for besides the policy: round trips over loopback against calls in process.

    python -m benchmarks.policy_server --checkpoint runs/demo/specialise --out benchmarks/results/policy_server.json

The server is `python -m serving.policy` in a process of its own. Requests and calls in process take turns, each with an
observation of 300 kB. `overhead_ms` is a round trip less what the policy took inside it. Then 32 clients ask at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from websockets.sync.client import ClientConnection, connect

from benchmarks.machine import describe
from model.startup import prepare_kernels
from serving.policy import Observation, Policy
from serving.robot.__main__ import example_of
from serving.robot.wire import pack, unpack

BYTES = 300_000
REQUESTS, CLIENTS, SECONDS, WARM = 400, 32, 10.0, 20
BARS = {"overhead p50 ms": 2.0, "overhead p99 ms": 5.0}


def message(observation: Observation) -> bytes:
    """Of 300 kB: what the policy does not read stands for larger pictures."""
    content = {
        "images": {"front": observation.images[0]},
        "state": observation.proprio,
        "prompt": "push the red cube to the blue zone",
        "embodiment": observation.embodiment,
    }
    return pack(content | {"observation/wrist_image": np.zeros(BYTES - len(pack(content)), np.uint8)})


@contextlib.contextmanager
def serving(checkpoint: str) -> Iterator[str]:
    """Address of a server that is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "serving.policy", checkpoint, "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            while True:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz")
                    break
                if process.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
                time.sleep(0.2)
            yield f"ws://127.0.0.1:{port}"
        finally:
            process.terminate()


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds, and what came of it."""
    start = time.perf_counter()
    result = call()
    return (time.perf_counter() - start) * 1e3, result


def ask(robot: ClientConnection, frame: bytes) -> dict[str, Any]:
    robot.send(frame)
    answer = robot.recv()
    if isinstance(answer, str):
        raise RuntimeError(answer)
    return unpack(answer)


def quantiles(values: list[float]) -> dict[str, float]:
    return {name: round(float(np.quantile(values, q)), 3) for name, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))}


def one_client(address: str, policy: Policy, seen: Observation) -> dict[str, Any]:
    frame, bare, trips, overhead = message(seen), [], [], []
    with connect(address, compression=None, max_size=None) as robot:
        robot.recv()
        for i in range(WARM + REQUESTS):
            call, _ = timed(lambda: policy.act([seen]))
            trip, answer = timed(lambda: ask(robot, frame))
            if i >= WARM:
                bare.append(call)
                trips.append(trip)
                overhead.append(trip - answer["policy_timing"]["infer_ms"])
    return {
        "frame_bytes": len(frame),
        "bare_call_ms": quantiles(bare),
        "round_trip_ms": quantiles(trips),
        "overhead_ms": quantiles(overhead),
    }


def many_clients(address: str, seen: Observation) -> dict[str, Any]:
    """All of them as fast as they are answered."""
    frame, counts, dropped = message(seen), [0] * CLIENTS, []
    end = time.monotonic() + SECONDS

    def work(i: int) -> None:
        try:
            with connect(address, compression=None, max_size=None, open_timeout=60) as robot:
                robot.recv()
                while time.monotonic() < end:
                    ask(robot, frame)
                    counts[i] += 1
        except Exception as error:
            dropped.append(f"client {i}: {error}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers = {"least": min(counts), "most": max(counts), "per_second": round(sum(counts) / SECONDS, 1)}
    return {"clients": CLIENTS, "dropped": dropped, "answers": answers}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.policy_server", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--checkpoint", default="runs/demo/specialise")
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    prepare_kernels()
    policy = Policy.load(options.checkpoint)
    seen = example_of(policy, policy.embodiments[0])
    with serving(options.checkpoint) as address:
        result = {"machine": describe(("jax", "aiohttp", "websockets")), "bars": BARS}
        result |= {"one": one_client(address, policy, seen), "many": many_clients(address, seen)}
    text = json.dumps(result, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
