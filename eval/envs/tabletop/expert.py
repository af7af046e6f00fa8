"""A scripted expert: where the fingertip goes next and how far the gripper opens, from the present state alone.

It keeps no memory. What looks like phases (approach, grasp, carry, release) is read off the state at every step, so a
disturbed demonstration shows how to recover and one picture always asks for the same action.
"""

from __future__ import annotations

import numpy as np

from eval.envs.tabletop.scene import Layout
from eval.envs.tabletop.tasks import Goal, State, own_zone

SPEED, PUSH_SPEED = 0.05, 0.025  # metres a control step
CRUISE = 0.12  # fingertip height at which a carried object clears those on the table
HOVER = 0.035  # reach: above the top of the object
FUNNEL_SLOPE, FUNNEL_RADIUS = 5.0, 0.006
BEHIND, PUSH_HEIGHT = 0.075, 0.012
GRASP_DEPTH = 0.012  # the fingertip goes this far below the middle of the object
OPEN, GRIPPING = 0.92, 0.86  # openings above and below which the gripper is open and holds something

Command = tuple[np.ndarray, float]


def expert(task: str, state: State, layout: Layout, goal: Goal) -> Command:
    """The next fingertip position float[3] in metres, at most one step away, and the gripper opening in 0..1."""
    return EXPERTS[task](state, layout, goal)


def _limit(step: np.ndarray, speed: float) -> np.ndarray:
    return step * min(1.0, speed / max(float(np.linalg.norm(step)), 1e-9))


def _approach(tip: np.ndarray, place: np.ndarray, speed: float = SPEED) -> np.ndarray:
    """One step down a funnel over `place`: level at `CRUISE` while far away, and never sideways below its wall."""
    across = place[:2] - tip[:2]
    wall = place[2] + FUNNEL_SLOPE * max(0.0, float(np.linalg.norm(across)) - FUNNEL_RADIUS)
    rise = min(wall, max(CRUISE, place[2])) - tip[2]
    sideways = np.clip(1 - rise / 0.03, 0, 1)
    return tip + _limit(np.array([*(sideways * across), rise]), speed)


def _reach(state: State, layout: Layout, goal: Goal) -> Command:
    place = state.objects[goal.target] + (0, 0, layout.objects[goal.target].height / 2 + HOVER)
    return state.tip + _limit(place - state.tip, SPEED), 0.0


def _push(state: State, layout: Layout, goal: Goal) -> Command:
    tip, place = state.tip, state.objects[goal.target]
    left = np.array(layout.zones[goal.zone].xy) - place[:2]
    distance = float(np.linalg.norm(left))
    ahead = left / max(distance, 1e-6)
    offset = tip[:2] - place[:2]
    along = float(offset @ ahead)
    lateral = offset - along * ahead
    if distance < 0.01:
        return tip, 0.0
    if tip[2] < 0.04 and along < -0.02 and float(np.linalg.norm(lateral)) < 0.03:
        step = min(PUSH_SPEED, distance) * ahead - _limit(lateral, PUSH_SPEED / 2)
        return tip + np.array([*step, PUSH_HEIGHT - tip[2]]), 0.0
    behind = np.array([*(place[:2] - BEHIND * ahead), PUSH_HEIGHT])
    return _approach(tip, behind), 0.0


def _grasp_point(place: np.ndarray) -> np.ndarray:
    return place - (0, 0, GRASP_DEPTH)


def _aligned(state: State, index: int) -> bool:
    error = np.abs(state.tip - _grasp_point(state.objects[index]))
    return bool((error < 0.012).all())


def _pick(state: State, index: int) -> Command:
    """Opens, comes down around the object and closes."""
    grasp = _grasp_point(state.objects[index])
    if _aligned(state, index):
        return state.tip + _limit(grasp - state.tip, SPEED), 0.0
    if state.opening < OPEN:
        grasp = np.array([*grasp[:2], CRUISE])
    return _approach(state.tip, grasp), 1.0


def _lift(state: State, layout: Layout, goal: Goal) -> Command:
    if _aligned(state, goal.target) and state.opening < GRIPPING:
        up = max(0.0, CRUISE + 0.02 - state.tip[2])
        return state.tip + np.array([0, 0, min(up, SPEED / 2)]), 0.0
    return _pick(state, goal.target)


def _place(state: State, index: int, where: np.ndarray) -> Command | None:
    """Carries an object to `where`, float[3] of its centre, and lets go; None once it lies there alone."""
    place, tip = state.objects[index], state.tip
    if float(np.linalg.norm(place[:2] - where[:2])) < 0.02 and abs(place[2] - where[2]) < 0.007:
        if np.linalg.norm(tip[:2] - place[:2]) > 0.05 or tip[2] > place[2] + 0.05:
            return None
        if state.opening < OPEN:
            return tip, 1.0
        return tip + np.array([0, 0, SPEED]), 1.0
    if _aligned(state, index) and state.opening < GRIPPING:
        return _approach(tip, where + (tip - place), SPEED * 0.7), 0.0
    return _pick(state, index)


def _stack(state: State, layout: Layout, goal: Goal) -> Command:
    height = (layout.objects[goal.target].height + layout.objects[goal.support].height) / 2
    where = state.objects[goal.support] + (0, 0, height)
    return _place(state, goal.target, where) or (state.tip, 1.0)


def _sort(state: State, layout: Layout, goal: Goal) -> Command:
    for index, item in enumerate(layout.objects):
        sharing = [i for i, other in enumerate(layout.objects) if other.colour == item.colour]
        # Two objects of one zone lie one behind the other, where the open fingers pass beside them.
        shift = 0.036 * (2 * sharing.index(index) - 1) if len(sharing) > 1 else 0.0
        x, y = own_zone(layout, index).xy
        command = _place(state, index, np.array([x + shift, y, item.height / 2]))
        if command is not None:
            return command
    return state.tip, 1.0


EXPERTS = {"reach": _reach, "push": _push, "lift": _lift, "stack": _stack, "sort": _sort}
