"""Jobs on robots of other packages; each where its package is installed."""

from __future__ import annotations

import numpy as np
import pytest

from eval.config import RobotConfig
from eval.envs.registry import SUITES
from eval.envs.wordings import fetch as fetch_words
from eval.jobs.job import Job
from tests.eval.jobs.seer import checkpoint

CAMERAS = tuple(f"observation.images.{camera}" for camera in reversed(SUITES["fetch"].cameras))
CONDITIONS = ("normal", "shuffled_instruction", "camera", "typos")


class Still:
    """Commands nothing; remembers what it was shown."""

    def __init__(self, checkpoint, *, batch_size: int = 1, untrained: bool = False):
        self.seen = []
        Still.last = self

    def act(self, observations):
        self.seen += observations
        return [np.zeros((50, 4), np.float32) for _ in observations]


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """An episode of reaching under each condition."""
    pytest.importorskip("gymnasium_robotics")
    monkeypatch.setattr("eval.jobs.job.Policy", Still)
    found = checkpoint(tmp_path)
    episodes = {"root": "none", "num_slots": 4, "chunk": 50, "embodiment": "fetch", "cameras": CAMERAS}
    found.config["sources"] = {"fetch": episodes}
    found.config["phases"]["act"]["mixture"] = {"fetch": 1.0}
    fields = {"tasks": ("reach",), "conditions": CONDITIONS, "episodes": 1, "batch_size": 2, "execute": 50}
    job = Job("fetch", RobotConfig(policy="act", image_size=48, films=1, **fields), found, tmp_path / "out")
    try:
        assert job.execute()
    except ValueError as error:
        if "MUJOCO_GL=" in str(error):
            pytest.skip(str(error))
        raise
    return job


def test_a_robot_is_seen_through_its_policys_cameras_under_the_shifts_of_any_robot(fetched):
    records = {record["condition"]: record for record in fetched.records().values()}
    assert set(records) == set(CONDITIONS)
    assert all(not record["success"] and record["arm"] == "fetch" for record in records.values())
    told = {condition: record["instruction"] for condition, record in records.items()}
    sentences = {task: words["test"] for task, words in fetch_words.WORDINGS.items()}
    assert told["normal"] in sentences["reach"]
    after = SUITES["fetch"].tasks[SUITES["fetch"].tasks.index("reach") + 1]
    assert told["shuffled_instruction"] in sentences[after]
    assert told["typos"] != told["normal"] == told["camera"]
    first = {seen.instruction: seen for seen in reversed(Still.last.seen)}[told["normal"]]
    assert [image.shape for image in first.images] == [(48, 48, 3)] * 2
    assert np.abs(first.images[0].astype(int) - first.images[1]).mean() > 5  # two views
    films = sorted(path.stem for path in (fetched.out / "episodes").glob("*.npz"))
    assert films == [f"reach_fetch_{name}_0000" for name in ("camera", "normal", "typos")]
