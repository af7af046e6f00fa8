import json

import pytest

from benchmarks.checkpoint import MESHES, stall_of, state_on
from tests.train.goodput.runs import line, steps


def test_a_stall_is_stated_for_one_save_in_fifty_steps():
    lines = [
        steps(1001, 1, 1, 1),
        steps(1011, 10, 2, 11),
        line(1012, "checkpoint", 1, step=11),
        steps(1024, 12, 12, 21),
        steps(1034, 10, 22, 31),
        line(1036, "checkpoint", 2, step=31),
        line(1099, "checkpoint", 50, step=40),  # the last one, which is waited for
    ]
    found = stall_of([json.loads(text) for text in lines], 40)
    assert (found["saves"], found["waited_seconds_per_save"]) == (2, 1.5)
    assert (found["step_seconds"], found["step_seconds_while_writing"]) == (1.0, 1.2)
    assert found["share_of_steps"] == pytest.approx(1.5 / 50)


def test_the_state_has_the_size_asked_for():
    state = state_on(MESHES["on one device"], 0.1, abstract=True)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in state.params.values())
    assert size == pytest.approx(1e8, rel=0.01)
