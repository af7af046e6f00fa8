"""Workers answer in turn, so that a disturbance meets all of them."""

import sys

import pytest

from benchmarks.turns import Worker, median_ratio, take_turns

ECHO = """
import json, sys
print("a library says something"); print(json.dumps({"ready": sys.argv[1]}), flush=True)
for line in sys.stdin:
    print(json.dumps({"name": sys.argv[1], "asked": line.strip()}), flush=True)
"""


def test_every_worker_answers_every_round():
    workers = {name: Worker([sys.executable, "-c", ECHO, name]) for name in "ab"}
    assert [worker.ready for worker in workers.values()] == [{"ready": "a"}, {"ready": "b"}]
    answers = take_turns(workers, "3", rounds=2)
    assert answers == {name: [{"name": name, "asked": "3"}] * 2 for name in "ab"}
    for worker in workers.values():
        worker.close()


def test_a_worker_that_dies_is_named():
    with pytest.raises(RuntimeError, match="ended with code 3 instead of an answer"):
        Worker([sys.executable, "-c", "raise SystemExit(3)"])


def test_the_ratio_is_that_of_the_middle_round():
    assert median_ratio([1.0, 1.0, 2.0], [3.0, 2.0, 20.0]) == 3.0
