"""Small recorded datasets of made-up arms, for the tests of what is built from them."""

import json
import pathlib

import numpy as np

from data.lerobot import LeRobotWriter

FRONT = "observation.images.front"
SIZE = 16  # pixels along each side of an image
TASKS = ("reach the red cube", "push it")


def write_arm(root: pathlib.Path, proprio_width: int, action_width: int, lengths: tuple[int, ...]) -> str:
    """One episode for each length, of random images, states, actions and one annotated point a frame."""
    rng = np.random.default_rng(0)
    features = {
        FRONT: {"dtype": "image", "shape": [SIZE, SIZE, 3], "names": None},
        "observation.state": {"dtype": "float32", "shape": [proprio_width], "names": None},
        "action": {"dtype": "float32", "shape": [action_width], "names": None},
        "annotation.points": {"dtype": "string", "shape": [1], "names": None},
    }
    with LeRobotWriter(root, 5, features, root.name) as writer:
        for episode, length in enumerate(lengths):
            points = [json.dumps([{"label": "cube", "point": [100 * t, 50 * t]}]) for t in range(length)]
            frames = {
                FRONT: list(rng.integers(0, 256, (length, SIZE, SIZE, 3), np.uint8)),
                "observation.state": list(rng.normal(5, 2, (length, proprio_width)).astype("f4")),
                "action": list(rng.normal(-3, 4, (length, action_width)).astype("f4")),
                "annotation.points": points,
            }
            writer.add_episode(frames, TASKS[episode % len(TASKS)])
    return str(root)
