"""Processes of one command on this machine, each told its place among them and writing its own log file."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

Platform = Literal["cpu", "cuda"]

# Linux sends SIGTERM to a process whose parent is gone, so that none trains on after its launcher was killed.
_TIED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execvp(sys.argv[1], sys.argv[1:])"


class Processes:
    """`count` ranks of one command; start them again after they ended as often as you like, from the same thread.

    command: run from the working folder. logs: the folder of `rank_<rank>.log`, which are appended to. devices: of each
    rank, virtual ones on a CPU, GPUs of this machine on "cuda"; None = what JAX finds on a CPU, an equal share of GPUs.
    environment: variables that all ranks get besides those of this process. Raises ValueError where the machine has
    too few GPUs.
    """

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        logs: str | Path,
        *,
        devices: int | None = None,
        platform: Platform = "cpu",
        environment: Mapping[str, str] | None = None,
    ):
        self.command, self.count, self.logs = list(command), count, Path(logs)
        self._common = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
        self._devices = _device_variables(self._common, count, devices, platform)
        self._ranks: list[subprocess.Popen] = []
        self._port: socket.socket | None = None

    def log(self, rank: int) -> Path:
        return self.logs / f"rank_{rank}.log"

    def environment(self, rank: int, port: int) -> dict[str, str]:
        """Everything that rank `rank` is started with."""
        place = {}
        if self.count > 1:
            address = f"127.0.0.1:{port}"
            place = {
                "KINEMA_COORDINATOR": address,
                "KINEMA_PROCESS_COUNT": str(self.count),
                "KINEMA_PROCESS_INDEX": str(rank),
                "JAX_COORDINATOR_BIND_ADDRESS": address,
            }
        return {**self._common, **self._devices[rank], **place}

    def start(self) -> None:
        """Starts all ranks, with a port of their own. None of an earlier start may run."""
        assert all(code is not None for code in self.poll()), "some ranks still run"
        self._release_port()
        self._port = _reserved_port()
        self.logs.mkdir(parents=True, exist_ok=True)
        tied = [sys.executable, "-c", _TIED] if sys.platform == "linux" else []
        self._ranks = []
        for rank in range(self.count):
            with self.log(rank).open("ab") as log:
                self._ranks.append(
                    subprocess.Popen(
                        [*tied, *self.command],
                        env=self.environment(rank, self._port.getsockname()[1]),
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,  # a ^C is the launcher's to pass on
                    )
                )

    @property
    def pids(self) -> list[int]:
        """Process ids by rank, of the last start."""
        return [rank.pid for rank in self._ranks]

    def poll(self) -> list[int | None]:
        """Exit codes by rank: None while it runs, -n where signal n ended it."""
        return [rank.poll() for rank in self._ranks]

    def running(self) -> list[int]:
        return [rank for rank, code in enumerate(self.poll()) if code is None]

    def wait(self, seconds: float | None = None) -> list[int | None]:
        """Exit codes once all ranks have ended, or after so many seconds."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while self.running() and (deadline is None or time.monotonic() < deadline):
            time.sleep(0.05)
        return self.poll()

    def send(self, number: int, ranks: Iterable[int] | None = None) -> None:
        """Sends a signal to the ranks that still run, or to those of `ranks`."""
        for rank in self.running() if ranks is None else set(ranks) & set(self.running()):
            self._ranks[rank].send_signal(number)

    def terminate(self) -> None:
        """Asks all ranks to save and to stop."""
        self.send(signal.SIGTERM)

    def kill(self) -> None:
        """Ends all ranks and what they started, at once; returns when they are gone."""
        for rank in self.running():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._ranks[rank].pid, signal.SIGKILL)
        for rank in self._ranks:
            rank.wait()

    def close(self) -> None:
        """Nothing runs afterwards."""
        self.kill()
        self._release_port()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _release_port(self) -> None:
        if self._port is not None:
            self._port.close()
            self._port = None


def _reserved_port() -> socket.socket:
    """A port that nobody else is given while the socket is open; the coordinator may bind it too, as both share it."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(("127.0.0.1", 0))
    return held


def _device_variables(
    environment: Mapping[str, str], count: int, devices: int | None, platform: Platform
) -> list[dict[str, str]]:
    """By rank, the variables that give each its devices."""
    if platform == "cpu":
        if devices is None:
            return [{"JAX_PLATFORMS": "cpu"}] * count
        # JAX refuses its own setting beside the older switch.
        switches = re.sub(r"--xla_force_host_platform_device_count=\d+", "", environment.get("XLA_FLAGS", ""))
        return [{"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "XLA_FLAGS": switches.strip()}] * count
    gpus = visible_gpus(environment)
    each = devices or (len(gpus) // count if len(gpus) % count == 0 else 0)
    if not each or each * count > len(gpus):
        wanted = f"{count} x {devices}" if devices else f"a multiple of {count}"
        raise ValueError(
            f"processes is {count}: they need {wanted} GPUs but this machine shows {len(gpus)}; lower processes or "
            "devices, or give CUDA_VISIBLE_DEVICES more"
        )
    return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[rank * each : (rank + 1) * each])} for rank in range(count)]


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Names by which CUDA knows the GPUs that processes may use here."""
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name.strip() not in ("", "-1")]
    found = (path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    return sorted(found, key=int)
