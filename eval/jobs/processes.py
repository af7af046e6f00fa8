"""Simulators in this process or in processes of their own, behind one pair of calls: send orders, take reports."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Protocol

from eval.jobs.simulator import Order, Report, Simulator, Stage


class SimulatorError(RuntimeError):
    """A simulator process that ended before its work did; what was finished is kept."""


class Worker(Protocol):
    """A simulator that takes orders one list at a time."""

    def send(self, orders: Sequence[Order]) -> None: ...

    def reports(self) -> list[Report]:
        """Of the orders sent last. Raises ValueError for what the simulator refused, SimulatorError if it died."""
        ...


class Here:
    """A simulator in this process; it works when its reports are asked for."""

    def __init__(self, stage: Stage):
        self._simulator, self._orders = Simulator(stage), ()

    def send(self, orders: Sequence[Order]) -> None:
        self._orders = orders

    def reports(self) -> list[Report]:
        return self._simulator.carry_out(self._orders)

    def close(self) -> None:
        self._simulator.close()


class Elsewhere:
    """A simulator in a fresh process: a forked one would inherit a broken JAX."""

    def __init__(self, stage: Stage):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(stage, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, orders: Sequence[Order]) -> None:
        with contextlib.suppress(BrokenPipeError):  # `reports` says what happened
            self.connection.send(orders)

    def reports(self) -> list[Report]:
        try:
            reports = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise SimulatorError(
                f"a simulator process ended with exit code {self._process.exitcode}; run the same command again to go "
                "on, with fewer --processes if memory ran out"
            ) from None
        if isinstance(reports, Exception):
            raise reports
        return reports

    def close(self) -> None:
        self.connection.close()
        self._process.join()


@contextlib.contextmanager
def workers(stage: Stage, count: int) -> Iterator[list[Here] | list[Elsewhere]]:
    """`count` simulators; a single one runs in this process."""
    made = [Here(stage)] if count == 1 else [Elsewhere(stage) for _ in range(count)]
    try:
        yield made
    finally:
        for worker in made:
            worker.close()


def ready(waiting: Sequence[Worker]) -> list[Worker]:
    """Those of the workers whose reports can be taken, at least one; blocks until then."""
    elsewhere = [worker for worker in waiting if isinstance(worker, Elsewhere)]
    if not elsewhere:
        return list(waiting)
    found = wait([worker.connection for worker in elsewhere])
    return [worker for worker in elsewhere if worker.connection in found]


def _serve(stage: Stage, connection: Connection) -> None:
    simulator = Simulator(stage)
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):  # the other side is gone: so is the work
        while True:
            orders = connection.recv()
            try:
                reports: list[Report] | Exception = simulator.carry_out(orders)
            except Exception as error:  # told to the process that asked, which ends the job
                reports = error
            connection.send(reports)
    simulator.close()
