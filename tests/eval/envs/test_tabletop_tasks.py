"""How episodes begin, and what counts as success."""

import dataclasses
import itertools

import numpy as np
import pytest

from eval.envs.tabletop import TASKS, Tabletop
from eval.envs.tabletop.scene import SHAPES, ZONE_RADIUS, Layout, Object, Zone
from eval.envs.tabletop.tasks import Goal, State

RED, BLUE = Object("red", "cube", (0.0, 0.0)), Object("blue", "disc", (0.15, 0.0))
GREEN_ZONE, RED_ZONE, BLUE_ZONE = Zone("green", (0.1, 0.1)), Zone("red", (0.1, 0.1)), Zone("blue", (-0.1, -0.1))


def _episodes(task, count=150):
    rng = np.random.default_rng(0)
    return [TASKS[task].sample(rng) for _ in range(count)]


def _state(red, blue=(0.15, 0.0, 0.014), tip=(0.3, 0.3, 0.3), opening=1.0):
    return State(np.array(tip), opening, np.array([red, blue]))


@pytest.mark.parametrize("task", TASKS)
def test_objects_start_apart_from_each_other_and_on_the_table(task):
    for layout, _ in _episodes(task):
        for a, b in itertools.combinations(layout.objects, 2):
            assert np.hypot(a.xy[0] - b.xy[0], a.xy[1] - b.xy[1]) > 0.1
        for a, b in itertools.combinations(layout.zones, 2):
            assert np.hypot(a.xy[0] - b.xy[0], a.xy[1] - b.xy[1]) > 2 * ZONE_RADIUS
        assert np.abs([o.xy for o in layout.objects]).max() <= 0.18
        assert 2 <= len(layout.objects) <= 4


@pytest.mark.parametrize("task", TASKS)
def test_names_are_unambiguous(task):
    for layout, _ in _episodes(task):
        names = [o.name for o in layout.objects] + [z.name for z in layout.zones]
        assert len(set(names)) == len(names)
        if task != "sort":  # there the instruction names no object
            colours = [thing.colour for thing in (*layout.objects, *layout.zones)]
            assert len(set(colours)) == len(colours)


@pytest.mark.parametrize("task", ["reach", "push"])
def test_there_are_always_distractors_and_the_target_is_no_favourite(task):
    episodes = _episodes(task)
    assert min(len(layout.objects) for layout, _ in episodes) >= 3
    targets = [layout.objects[goal.target] for layout, goal in episodes]
    assert len({t.colour for t in targets}) == 6
    assert {t.shape for t in targets} == set(SHAPES)
    spread = np.std([t.xy for t in targets], axis=0)
    assert (spread > 0.07).all()


def test_a_push_starts_outside_its_zone_at_a_moderate_distance():
    for layout, goal in _episodes("push"):
        assert len(layout.zones) == 2
        gap = np.subtract(layout.objects[goal.target].xy, layout.zones[goal.zone].xy)
        assert 0.13 <= np.hypot(*gap) <= 0.22


def test_sorting_starts_with_every_object_outside_the_zones_and_a_zone_for_its_colour():
    for layout, _ in _episodes("sort"):
        for item in layout.objects:
            assert item.colour in {zone.colour for zone in layout.zones}
            for zone in layout.zones:
                assert np.hypot(*np.subtract(item.xy, zone.xy)) > ZONE_RADIUS + 0.03


@pytest.mark.parametrize("task", TASKS)
def test_no_episode_starts_solved(task):
    env = Tabletop("arm5", task)
    for seed in range(10):
        env.reset(seed)
        assert not TASKS[task].holds(env.state(), env.layout, env.goal)


@pytest.mark.parametrize(
    ("tip", "holds"),
    [
        ((0.0, 0.0, 0.09), True),
        ((0.04, 0.0, 0.09), True),
        ((0.05, 0.0, 0.09), False),  # beside it
        ((0.0, 0.0, 0.16), False),  # far above it
        ((0.03, 0.0, 0.03), False),  # below its top
        ((0.15, 0.0, 0.05), False),  # over the other object
    ],
)
def test_reach_means_over_the_named_object(tip, holds):
    layout = Layout((RED, BLUE))
    assert TASKS["reach"].holds(_state((0, 0, 0.026), tip=tip), layout, Goal()) is holds


def test_a_pass_over_the_object_is_no_success():
    env = Tabletop("arm5", "reach")
    env.reset(0)
    while env._dwell < TASKS["reach"].dwell - 1:
        env.step(env.expert_action(), render=False)
    home = env.kinematics.inverse(np.array([-0.15, 0.0, 0.25]), env.kinematics.rest, 20)
    for _ in range(12):
        _, done = env.step(np.append(home, 0.0), render=False)
        # One more step may still be over the object while the arm starts to leave; a short dwell never adds up.
        if done:
            pytest.fail("the fingertip left and the episode still counted")
    assert env._dwell == 0


@pytest.mark.parametrize(
    ("place", "holds"),
    [
        ((0.1, 0.1, 0.026), True),
        ((0.17, 0.1, 0.026), True),
        ((0.18, 0.1, 0.026), False),
        ((0.1, 0.1, 0.1), False),
    ],
)
def test_push_means_the_centre_lies_in_the_zone_on_the_table(place, holds):
    layout = Layout((RED, BLUE), (GREEN_ZONE, BLUE_ZONE))
    assert TASKS["push"].holds(_state(place), layout, Goal()) is holds
    other = Goal(target=1)
    assert not TASKS["push"].holds(_state(place), layout, other)


def test_lift_means_the_named_object_alone_is_in_the_air():
    layout, holds = Layout((RED, BLUE)), TASKS["lift"].holds
    assert holds(_state((0, 0, 0.09)), layout, Goal())
    assert not holds(_state((0, 0, 0.06)), layout, Goal())
    assert not holds(_state((0, 0, 0.026), blue=(0.1, 0, 0.09)), layout, Goal())
    assert not holds(_state((0, 0, 0.09), blue=(0.1, 0, 0.09)), layout, Goal())


def test_stack_means_resting_on_the_named_object_and_let_go():
    layout, holds = Layout((RED, BLUE)), TASKS["stack"].holds
    on_top = (0.15, 0.0, 0.028 + 0.026)
    goal = Goal(target=0, support=1)
    assert holds(_state(on_top), layout, goal)
    assert not holds(_state(on_top, opening=0.7), layout, goal)
    assert not holds(_state((0.18, 0, 0.054)), layout, goal)
    assert not holds(_state((0.15, 0, 0.08)), layout, goal)
    assert not holds(_state(on_top), layout, Goal(target=1, support=0))


def test_sort_means_every_object_in_the_zone_of_its_colour():
    layout, holds = Layout((RED, BLUE), (RED_ZONE, BLUE_ZONE)), TASKS["sort"].holds
    assert holds(_state((0.1, 0.12, 0.026), blue=(-0.1, -0.1, 0.014)), layout, Goal())
    assert not holds(_state((0.1, 0.12, 0.026), blue=(0.1, 0.05, 0.014)), layout, Goal())
    assert not holds(_state((-0.1, -0.1, 0.026), blue=(0.1, 0.1, 0.014)), layout, Goal())


def test_an_arm_that_rests_never_succeeds():
    for task in TASKS:
        env = Tabletop("arm6", task)
        for seed in range(3):
            rest = env.reset(seed)["proprio"][: env.action_size]
            assert not any(env.step(rest, render=False)[1] for _ in range(20))


def test_layouts_are_values():
    layout = Layout((RED,))
    assert layout == Layout((dataclasses.replace(RED),))
