"""Runs episodes to their end: simulators work in parallel, the policy sees what is ready of all of them in batches."""

from __future__ import annotations

import collections
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from eval.jobs.episodes import Episode
from eval.jobs.processes import Worker, ready
from eval.jobs.simulator import Act, Ended, Order, Seen, Start
from serving.policy import Actor, Observation

Cameras = Mapping[str, tuple[str, ...]]  # by arm: those that the policy looks through, in its order


def run(
    episodes: Iterable[Episode],
    actor_of: Callable[[Episode], Actor],
    cameras: Cameras,
    workers: Sequence[Worker],
    lanes: int,
    on_end: Callable[[Ended], None],
) -> None:
    """Every episode once, `lanes` at a time in each worker; `on_end` is told as each ends.

    While one worker's observations are with the policy, the others simulate. What an actor does for an observation
    follows from the observation (its noise from episode and step), so results do not depend on workers; the size of the
    policy's batches changes how its sums are rounded.
    """
    waiting = collections.deque(episodes)
    busy: list[Worker] = []

    def begin(lane: int) -> list[Order]:
        return [Start(lane, waiting.popleft())] if waiting else []

    def send(worker: Worker, orders: list[Order]) -> None:
        if orders:
            worker.send(orders)
            busy.append(worker)

    for worker in workers:
        send(worker, [order for lane in range(lanes) for order in begin(lane)])
    while busy:
        for worker in ready(busy):
            busy.remove(worker)
            reports = worker.reports()
            orders: list[Order] = []
            for report in reports:
                if isinstance(report, Ended):
                    on_end(report)
                    orders += begin(report.lane)
            orders += _answers([report for report in reports if isinstance(report, Seen)], actor_of, cameras)
            send(worker, orders)


def _answers(seen: Sequence[Seen], actor_of: Callable[[Episode], Actor], cameras: Cameras) -> list[Order]:
    """What each actor would do about what it is shown."""
    asked: dict[int, tuple[Actor, list[Seen]]] = {}
    for report in seen:
        actor = actor_of(report.episode)
        asked.setdefault(id(actor), (actor, []))[1].append(report)
    orders: list[Order] = []
    for actor, reports in asked.values():
        chunks = actor.act([_observation(report, cameras[report.episode.arm]) for report in reports])
        orders += [Act(report.lane, chunk) for report, chunk in zip(reports, chunks, strict=True)]
    return orders


def _observation(seen: Seen, cameras: Sequence[str]) -> Observation:
    return Observation(
        images=tuple(seen.images[camera] for camera in cameras),
        instruction=seen.instruction,
        proprio=seen.proprio,
        embodiment=seen.episode.arm,
        goal=tuple(seen.goal[camera] for camera in cameras) if seen.goal else (),
        running=seen.running,
        seed=zlib.crc32(f"{seen.episode.id}/{seen.step}".encode()),
    )
