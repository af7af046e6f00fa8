"""What each suite of simulated robots offers to a job: tasks with arms, conditions, and environments under a shift."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from eval.envs import registry, shifted
from eval.envs.environment import Environment
from eval.envs.shifted import Kind, Shifted
from eval.envs.tabletop.adapter import TabletopEnvironment
from eval.envs.tabletop.shifts import SHIFTS
from eval.jobs.episodes import CONTROLS, NORMAL, Episode
from eval.jobs.simulator import Stage, Told

KINDS: tuple[Kind, ...] = ("visual", "instruction", "action")
ATTEMPTS = 20  # seeds tried for an instruction of another meaning


def shifts_of(suite: str) -> Mapping[str, Kind]:
    """The shifts of a suite and their kinds: the tabletop has its own, the others those of any robot."""
    if suite == "tabletop":
        return {name: shift.kind for name, shift in SHIFTS.items()}
    return shifted.SHIFTS


def conditions_of(suite: str, names: Sequence[str]) -> tuple[str, ...]:
    """Conditions in order, with every kind of shift replaced by the suite's shifts of that kind.

    Raises ValueError for a name that the suite does not have.
    """
    kinds, found = shifts_of(suite), []
    for name in names:
        if name not in (NORMAL, *CONTROLS, *KINDS, *kinds):
            allowed = ", ".join((NORMAL, *CONTROLS, *KINDS, *kinds))
            raise ValueError(f"conditions has {name!r}; {suite} has {allowed}")
        found += [shift for shift in kinds if kinds[shift] == name] if name in KINDS else [name]
    return tuple(dict.fromkeys(found))


@dataclasses.dataclass(frozen=True)
class Views:
    """How a suite's robots are made: the sentences they hear, their cameras, how they are told what to do, pixels a
    side of a picture."""

    suite: str
    wording: str
    cameras: Mapping[str, tuple[str, ...]]  # by arm
    told: Mapping[str, Told]  # by arm
    image_size: int | None = None

    def make(self, task: str, arm: str, shift: str) -> Environment:
        """Raises ValueError for names that are not known and where the suite's packages are not installed."""
        if self.suite == "tabletop":
            return TabletopEnvironment(task, arm, self.wording, SHIFTS[shift] if shift else None)
        env = registry.make(
            self.suite, task, arm, wording=self.wording, cameras=self.cameras[arm], image_size=self.image_size
        )
        return Shifted(env, shift) if shift else env


def stage_of(views: Views, execute: int, films: int) -> Stage:
    """How the episodes of a suite run, see `Stage`."""
    return Stage(
        make=views.make,
        others=functools.partial(others, views.suite),
        shifts=tuple(shifts_of(views.suite)),
        told=views.told,
        execute=execute,
        films=films,
    )


def others(suite: str, episode: Episode) -> Sequence[Episode]:
    """Episodes of which one is likely told something of another meaning than `episode`.

    On the tabletop the next ones of the task; elsewhere, where all sentences of a task mean the same, the one of the
    suite's next task.
    """
    if suite == "tabletop":
        later = range(episode.index + 1, episode.index + ATTEMPTS)
        return [dataclasses.replace(episode, index=index) for index in later]
    tasks = registry.SUITES[suite].tasks
    return [dataclasses.replace(episode, task=tasks[(tasks.index(episode.task) + 1) % len(tasks)])]
