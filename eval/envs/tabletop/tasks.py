"""The five tasks: what lies on the table at the start and when the goal holds. Success is computed from state alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from eval.envs.tabletop.scene import COLOURS, SHAPES, ZONE_RADIUS, Layout, Object, Zone

HALF_TABLE = 0.18  # objects start within this distance of the middle, along x and y (metres)
OBJECT_GAP = 0.12  # between object centres: room for the open gripper
ZONE_GAP = 0.17

REACH_RADIUS = 0.045
REACH_HEIGHT = 0.09  # the fingertip is between the top of the object and this much above it
LIFT_HEIGHT = 0.05
STACK_RADIUS = 0.022
STACK_SLACK = 0.008


@dataclasses.dataclass(frozen=True)
class State:
    """What success and the expert see: fingertip float[3], gripper opening 0..1, object centres float[n,3]; metres."""

    tip: np.ndarray
    opening: float
    objects: np.ndarray


@dataclasses.dataclass(frozen=True)
class Goal:
    """What the instruction names: indices into the objects and zones of the layout."""

    target: int = 0
    zone: int = 0
    support: int = 0


Episode = tuple[Layout, Goal]


@dataclasses.dataclass(frozen=True)
class Task:
    """How episodes begin, what must hold for `dwell` control steps in a row, and how many steps a policy gets.

    plan: float[3] each, where the object to move is and where it is to go.
    """

    sample: Callable[[np.random.Generator], Episode]
    holds: Callable[[State, Layout, Goal], bool]
    plan: Callable[[State, Layout, Goal], tuple[np.ndarray, np.ndarray]]
    dwell: int
    max_steps: int


def _distance(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    return float(np.hypot(a[0] - b[0], a[1] - b[1]))


def _scatter(
    rng: np.random.Generator,
    count: int,
    gap: float,
    half: float = HALF_TABLE,
    avoid: Sequence[np.ndarray] = (),
    margin: float = 0.0,
) -> list[np.ndarray] | None:
    """`count` points of a square, `gap` apart and `margin` from the points of `avoid`; None if they do not fit."""
    free_N2 = rng.uniform(-half, half, (40 * count, 2))
    for point in avoid:
        free_N2 = free_N2[np.hypot(*(free_N2 - point).T) >= margin]
    chosen: list[np.ndarray] = []
    while len(free_N2) and len(chosen) < count:
        chosen.append(free_N2[0])
        free_N2 = free_N2[np.hypot(*(free_N2 - chosen[-1]).T) >= gap]
    return chosen if len(chosen) == count else None


def _objects(rng: np.random.Generator, colours: Sequence[str], points: Sequence[np.ndarray]) -> tuple[Object, ...]:
    shapes, turns = rng.choice(list(SHAPES), len(points)), rng.uniform(-0.3, 0.3, len(points))
    return tuple(
        Object(colour, str(shape), (float(x), float(y)), float(turn))
        for colour, shape, (x, y), turn in zip(colours, shapes, points, turns, strict=True)
    )


def _zones(colours: Sequence[str], points: Sequence[np.ndarray]) -> tuple[Zone, ...]:
    return tuple(Zone(colour, (float(x), float(y))) for colour, (x, y) in zip(colours, points, strict=True))


def _sample_objects(low: int, high: int) -> Callable[[np.random.Generator], Episode]:
    """Between `low` and `high` objects of different colours and no zone; the first two are the ones that are named."""

    def sample(rng: np.random.Generator) -> Episode:
        count = int(rng.integers(low, high + 1))
        colours = rng.permutation(list(COLOURS))[:count].tolist()
        points = None
        while points is None:
            points = _scatter(rng, count, OBJECT_GAP)
        return Layout(_objects(rng, colours, points)), Goal(target=0, support=1)

    return sample


def _sample_push(rng: np.random.Generator) -> Episode:
    """Three objects and two zones; the target is 13 to 22 cm from its zone and nothing stands in the way."""
    colours = rng.permutation(list(COLOURS)).tolist()
    while True:
        zones, target = _scatter(rng, 2, ZONE_GAP, half=0.12), rng.uniform(-0.15, 0.15, 2)
        if zones is None:
            continue
        distance = _distance(target, zones[0])
        if not 0.13 <= distance <= 0.22 or _distance(target, zones[1]) < 0.09:
            continue
        ahead = (zones[0] - target) / distance
        path = [target + along * ahead for along in np.linspace(-0.09, distance + 0.02, 8)]
        others = _scatter(rng, 2, OBJECT_GAP, avoid=path, margin=0.11)
        if others is not None:
            return Layout(_objects(rng, colours[:3], [target, *others]), _zones(colours[3:5], zones)), Goal()


def _sample_sort(rng: np.random.Generator) -> Episode:
    """Two zones and two or three objects of their colours, all outside; one object at least for each zone."""
    colours, count = rng.permutation(list(COLOURS))[:2].tolist(), int(rng.integers(2, 4))
    points = zones = None
    while points is None or zones is None:
        zones = _scatter(rng, 2, ZONE_GAP, half=0.12)
        points = _scatter(rng, count, OBJECT_GAP, avoid=zones or (), margin=ZONE_RADIUS + 0.04)
    objects = _objects(rng, [*colours, colours[0]][:count], points)
    if count == 3 and objects[0].shape == objects[2].shape:  # names stay unique
        other = next(shape for shape in SHAPES if shape != objects[0].shape)
        objects = (*objects[:2], dataclasses.replace(objects[2], shape=other))
    return Layout(objects, _zones(colours, zones)), Goal()


def own_zone(layout: Layout, index: int) -> Zone:
    """The zone of an object's colour."""
    return next(zone for zone in layout.zones if zone.colour == layout.objects[index].colour)


def _over(state: State, layout: Layout, goal: Goal) -> bool:
    place = state.objects[goal.target]
    above = float(state.tip[2] - place[2]) - layout.objects[goal.target].height / 2
    return _distance(state.tip, place) < REACH_RADIUS and 0 <= above < REACH_HEIGHT


def _raised(state: State, layout: Layout, index: int) -> float:
    return float(state.objects[index, 2]) - layout.objects[index].height / 2


def _in_zone(state: State, layout: Layout, index: int, zone: Zone) -> bool:
    return _distance(state.objects[index], zone.xy) < ZONE_RADIUS and abs(_raised(state, layout, index)) < 0.015


def _pushed(state: State, layout: Layout, goal: Goal) -> bool:
    return _in_zone(state, layout, goal.target, layout.zones[goal.zone])


def _lifted(state: State, layout: Layout, goal: Goal) -> bool:
    others = [_raised(state, layout, i) for i in range(len(layout.objects)) if i != goal.target]
    return _raised(state, layout, goal.target) > LIFT_HEIGHT and max(others) < LIFT_HEIGHT / 2


def _stacked(state: State, layout: Layout, goal: Goal) -> bool:
    top, below = state.objects[goal.target], state.objects[goal.support]
    height = (layout.objects[goal.target].height + layout.objects[goal.support].height) / 2
    resting = _distance(top, below) < STACK_RADIUS and abs(top[2] - below[2] - height) < STACK_SLACK
    return resting and state.opening > 0.9


def _sorted(state: State, layout: Layout, goal: Goal) -> bool:
    return all(_in_zone(state, layout, i, own_zone(layout, i)) for i in range(len(layout.objects)))


def _plan_in_place(state: State, layout: Layout, goal: Goal) -> tuple[np.ndarray, np.ndarray]:
    return state.objects[goal.target], state.objects[goal.target]


def _plan_to_zone(state: State, layout: Layout, goal: Goal) -> tuple[np.ndarray, np.ndarray]:
    return state.objects[goal.target], np.array([*layout.zones[goal.zone].xy, 0.0])


def _plan_to_support(state: State, layout: Layout, goal: Goal) -> tuple[np.ndarray, np.ndarray]:
    return state.objects[goal.target], state.objects[goal.support]


def _plan_to_own_zone(state: State, layout: Layout, goal: Goal) -> tuple[np.ndarray, np.ndarray]:
    outside = [i for i in range(len(layout.objects)) if not _in_zone(state, layout, i, own_zone(layout, i))]
    first = (outside or [0])[0]
    return state.objects[first], np.array([*own_zone(layout, first).xy, 0.0])


TASKS = {
    "reach": Task(_sample_objects(3, 4), _over, _plan_in_place, dwell=5, max_steps=50),
    "push": Task(_sample_push, _pushed, _plan_to_zone, dwell=3, max_steps=100),
    "lift": Task(_sample_objects(2, 3), _lifted, _plan_in_place, dwell=5, max_steps=80),
    "stack": Task(_sample_objects(3, 3), _stacked, _plan_to_support, dwell=5, max_steps=120),
    "sort": Task(_sample_sort, _sorted, _plan_to_own_zone, dwell=5, max_steps=250),
}
