"""A simulated clock: what is seen at control step t can be acted on from step t + delay."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from eval.envs.tabletop import EVALUATION_SEED, Tabletop
from serving.policy import Observation
from serving.split_policy import Look, SplitPolicy

PERIOD = 20  # control steps between two looks, at least


@dataclasses.dataclass(frozen=True)
class Mode:
    """What happens between seeing and acting.

    single: the whole policy is far away and sends one action for every observation. Otherwise it looks again once it
    has answered and `PERIOD` is over; in between its chunk is played back, or corrected by the local decoder (`local`).
    """

    local: bool = True
    single: bool = False


@dataclasses.dataclass
class Outcome:
    """Success of each world, the control steps it took, and how far a new chunk's first action was from the old
    chunk's for the same step (mean over joints, radians)."""

    success: np.ndarray
    steps: np.ndarray
    gaps: list[float]


class Worlds:
    """Episodes of one task, all arms, stepped together; one that has succeeded is left alone."""

    def __init__(self, task: str, arms: Sequence[str], episodes: int, control_hz: int):
        self.worlds = [Tabletop(arm, task, "test", control_hz=control_hz) for arm in arms for _ in range(episodes)]
        for index, world in enumerate(self.worlds):
            world.reset(EVALUATION_SEED + index % episodes)
        self.max_steps = self.worlds[0].max_steps
        self.success = np.zeros(len(self.worlds), bool)
        self.steps = np.full(len(self.worlds), self.max_steps)

    def active(self) -> list[int]:
        return np.flatnonzero(~self.success).tolist()

    def observe(self, index: int, running: np.ndarray | None) -> Observation:
        world = self.worlds[index]
        seen = world.observe()
        return Observation((seen["image"],), world.instruction, seen["proprio"], world.arm, running=running, seed=index)

    def hold(self, index: int) -> np.ndarray:
        """The joints and the gripper as they are."""
        world = self.worlds[index]
        return world.proprio()[: world.action_size]

    def act(self, index: int, action: np.ndarray, step: int) -> None:
        action = np.append(action[:-1], np.clip(action[-1], 0, 1))
        _, self.success[index] = self.worlds[index].step(action, render=False)
        if self.success[index]:
            self.steps[index] = step + 1


def run(worlds: Worlds, policy: SplitPolicy, mode: Mode, delay: int) -> Outcome:
    """Every episode to its end. Until the first answer the arms hold still, and the time counts."""
    looks: dict[int, Look] = {}
    pending: collections.deque[tuple[int, dict[int, Look]]] = collections.deque()
    seen, gaps = 0, []
    for step in range(worlds.max_steps):
        active = worlds.active()
        if not active:
            break
        age = step - seen
        if mode.single or not (pending or age % policy.steps or (looks and age < PERIOD)):
            pending.append((step, _look(worlds, policy, looks, age, mode)))
        changed = None
        if pending and pending[0][0] + delay <= step:
            changed = looks, seen
            seen, looks = pending.popleft()
        if not looks:
            actions = {index: worlds.hold(index) for index in active}
        else:
            actions = _actions(worlds, policy, looks, active, 0 if mode.single else step - seen, mode)
        if changed and changed[0] and not mode.single:
            old = _actions(worlds, policy, changed[0], active, step - changed[1], mode)
            gaps += [float(np.abs(actions[i] - old[i])[:-1].mean()) for i in active]
        for index in active:
            worlds.act(index, actions[index], step)
    return Outcome(worlds.success, worlds.steps, gaps)


def _look(worlds: Worlds, policy: SplitPolicy, looks: dict[int, Look], age: int, mode: Mode) -> dict[int, Look]:
    """What the backbone makes of the present."""
    active = worlds.active()
    running = {i: None if mode.single or not looks else policy.running_of(looks[i], age) for i in active}
    return dict(zip(active, policy.look([worlds.observe(i, running[i]) for i in active]), strict=True))


def _actions(worlds, policy: SplitPolicy, looks: dict[int, Look], active: Sequence[int], age: int, mode: Mode):
    """The action of each active world; the far policy decodes with what it saw, the local decoder with what is."""
    if not mode.local and not mode.single:
        planned = min(age // policy.steps, len(looks[active[0]].chunk_Ca) - 1)
        return {i: looks[i].chunk_Ca[planned] for i in active}
    felt = [looks[i].observation.proprio if mode.single else worlds.worlds[i].proprio() for i in active]
    return dict(zip(active, policy.decode([looks[i] for i in active], felt, [age] * len(active)), strict=True))
