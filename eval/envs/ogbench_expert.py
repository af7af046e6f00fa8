"""OGBench's oracles reach one goal each; this says which goal comes next, and keeps one oracle until it is through."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from ogbench.manipspace.lie import SO3
from ogbench.manipspace.oracles.markov.button_markov import ButtonMarkovOracle
from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle
from ogbench.manipspace.oracles.markov.drawer_markov import DrawerMarkovOracle
from ogbench.manipspace.oracles.markov.window_markov import WindowMarkovOracle

ORACLES = {
    "cube": CubeMarkovOracle,
    "button": ButtonMarkovOracle,
    "drawer": DrawerMarkovOracle,
    "window": WindowMarkovOracle,
}
PATIENCE = 150  # steps before an oracle starts again
RETREAT = np.array([0.425, 0.0, 0.32])  # metres: where the hand goes after each goal
NEAR = 0.02  # metres from its place at which a thing is left alone
BESIDE = 0.05  # metres: cubes nearer than this are in each other's way
OPEN = -0.12  # metres: a drawer pulled further lets a cube in
SPARE = tuple(np.array([x, y, 0.02]) for x, y in ((0.55, 0.0), (0.3, 0.0), (0.425, 0.15)))  # for a cube in the way


@dataclasses.dataclass(frozen=True)
class Goal:
    """A kind of object, which one of them, and the place or state that it should get to."""

    kind: str
    index: int
    target: Any


class Expert:
    """What to do now in a running episode of `env`, a cube or scene environment of the package."""

    def __init__(self, env: Any):
        self._env = env
        self._goal: Goal | None = None

    def action(self) -> np.ndarray:
        """float64[5] in -1..1; rests once every goal is reached."""
        info = self._env.compute_ob_info()
        if self._goal is None or self._oracle.done:
            self._goal = next(goals(self._env), None)
            if self._goal is None:
                return np.zeros(5)
            self._oracle = ORACLES[self._goal.kind](env=self._env, max_step=PATIENCE)
            self._oracle.reset(None, info)
            # The package draws these at random, from NumPy's global generator.
            self._oracle._final_pos, self._oracle._final_yaw = RETREAT, 0.0
        return self._oracle.select_action(None, info | _privileged(self._env, self._goal))


def goals(env: Any) -> Iterator[Goal]:
    """What is still to be done, the first thing first."""
    if env._mode == "data_collection":
        yield _collected(env)
        return
    yield from _cubes(env)
    if hasattr(env, "_drawer_site_id"):
        for kind, lock in (("drawer", 0), ("window", 1)):
            target = getattr(env, f"_target_{kind}_pos")
            if abs(env._data.joint(f"{kind}_slide").qpos[0] - target) > NEAR:
                yield from _unlocked(env, lock)
                yield Goal(kind, 0, target)
        for i, state in enumerate(env._target_button_states):
            if env._cur_button_states[i] != state:
                yield Goal("button", i, state)


def _collected(env: Any) -> Goal:
    """The one random goal of an episode for collecting data."""
    kind = env._target_task
    if kind == "cube":
        return Goal(kind, env._target_block, env._data.mocap_pos[env._cube_target_mocap_ids[env._target_block]])
    if kind == "button":
        return Goal(kind, env._target_button, env._target_button_states[env._target_button])
    return Goal(kind, 0, getattr(env, f"_target_{kind}_pos"))


def _unlocked(env: Any, lock: int) -> Iterator[Goal]:
    if env._cur_button_states[lock] == 0:
        yield Goal("button", lock, 1)


def _cubes(env: Any) -> Iterator[Goal]:
    """Cubes that are not in their places: lower places first, and a cube that stands in another's place aside."""
    at = [env._data.joint(f"object_joint_{i}").qpos[:3].copy() for i in range(env._num_cubes)]
    to = [env._data.mocap_pos[mocap].copy() for mocap in env._cube_target_mocap_ids]
    far = [i for i in np.argsort([place[2] for place in to], kind="stable") if not _placed(env, at[i], to[i])]
    for i in far:
        if _in_drawer(to[i]):
            if env._data.joint("drawer_slide").qpos[0] > OPEN:
                yield from _unlocked(env, 0)
                yield Goal("drawer", 0, -0.16)
            yield Goal("cube", i, env._drawer_center)
        elif all(np.linalg.norm(at[j] - to[i]) > BESIDE for j in far if j != i):
            yield Goal("cube", i, to[i])
    if far:
        yield Goal("cube", far[0], next(s for s in SPARE if all(np.linalg.norm(s - a) > BESIDE for a in at)))


def _in_drawer(place: np.ndarray) -> bool:
    return bool(place[1] < -0.3)


def _placed(env: Any, at: np.ndarray, to: np.ndarray) -> bool:
    return bool(env._is_in_drawer(at)) if _in_drawer(to) else bool(np.linalg.norm(at - to) < NEAR)


def _privileged(env: Any, goal: Goal) -> dict[str, Any]:
    """The goal under the names by which the oracles look for it."""
    if goal.kind == "cube":
        mocap = env._cube_target_mocap_ids[goal.index]
        yaw = SO3(wxyz=env._data.mocap_quat[mocap]).compute_yaw_radians()
        named = {"block": goal.index, "block_pos": np.asarray(goal.target), "block_yaw": np.array([yaw])}
    elif goal.kind == "button":
        top = env._data.site_xpos[env._button_site_ids[goal.index]].copy()
        named = {"button": goal.index, "button_state": goal.target, "button_top_pos": top}
    else:
        handle = env._data.site_xpos[getattr(env, f"_{goal.kind}_site_id")]
        slide = env._data.joint(f"{goal.kind}_slide")
        named = {f"{goal.kind}_handle_pos": handle + (goal.target - slide.qpos[0]) * slide.xaxis}
    return {f"privileged/target_{name}": value for name, value in named.items()}
