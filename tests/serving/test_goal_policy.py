"""From hindsight to action: what a policy does follows from the picture that it is given as its goal."""

import numpy as np
import pytest

from data.lerobot import LeRobotWriter
from serving.policy import Observation, Policy
from tests.data.tiny_robots import FRONT, SIZE
from tests.train.tiny_config import CHUNK, PATCHES, robot_config
from train.build import build_phase
from train.phases import run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compilation")]
LENGTH, SHADE = 5, 25


def grey(shade: int) -> np.ndarray:
    return np.full((SIZE, SIZE, 3), shade, np.uint8)


def write_dimmers(root, episodes: int) -> str:
    """The first action makes the picture brighter or darker; all begin with the same grey and the same words."""
    rng = np.random.default_rng(0)
    features = {
        FRONT: {"dtype": "image", "shape": [SIZE, SIZE, 3], "names": None},
        "observation.state": {"dtype": "float32", "shape": [4], "names": None},
        "action": {"dtype": "float32", "shape": [2], "names": None},
    }
    with LeRobotWriter(root, 5, features, "dimmer") as writer:
        for episode in range(episodes):
            way = 1 if episode % 2 else -1
            frames = {
                FRONT: [grey(128 + way * SHADE * t) for t in range(LENGTH)],
                "observation.state": list(rng.normal(size=(LENGTH, 4)).astype("f4")),
                "action": [np.array([way, rng.normal()], "f4") for _ in range(LENGTH)],
            }
            writer.add_episode(frames, "turn the light")
    return str(root)


def test_one_look_and_the_same_words_lead_where_the_picture_of_the_goal_says(tmp_path, monkeypatch):
    monkeypatch.setattr("train.metrics.peak_flops", lambda: (1e9, "given"))
    config = robot_config(tmp_path)
    source = {"kind": "episodes", "num_slots": PATCHES, "chunk": CHUNK, "goal": "both", "goal_dropout": 0.5}
    config.sources = {"dimmer": source | {"root": write_dimmers(tmp_path / "dimmer", 32), "embodiment": "arm2"}}
    config.embodiments.arm2.relative = 0
    del config.models["policy"]["flow"]
    config.models["policy"].l1 = {"hidden_dim": 16}
    config.phases["act"].update({"objective": "l1", "steps": 150})
    config.phases["act"].mixture = {"dimmer": 1.0}
    config.phases["act"].pipeline.update({"batch_size": 16, "slots": 40, "images": 2})
    run(config, tmp_path / "run", build_phase)
    policy = Policy.load(tmp_path / "run/act", batch_size=8)
    rng = np.random.default_rng(1)
    for instruction in ("", "turn the light"):
        ways = np.array([1, -1] * 4)
        seen = [
            Observation(
                (grey(128),), instruction, rng.normal(size=4).astype("f4"), "arm2", (grey(128 + way * SHADE * 3),)
            )
            for way in ways
        ]
        first = np.stack(policy.act(seen))[:, 0, 0]
        assert (np.sign(first) == ways).all()
        assert np.abs(first - ways).mean() < 0.4
