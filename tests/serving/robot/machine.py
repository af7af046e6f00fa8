"""A policy whose actions are known, in place of a model."""

import threading
import time

import numpy as np

from serving.robot.fields import Reader, own_fields
from serving.robot.server import Limits, PolicyServer
from serving.robot.worker import Worker

CHUNK = 4
METADATA = {"action_horizon": CHUNK, "reset_pose": [0.0, -1.5]}


class Echo:
    """Step i of a chunk is proprioception + i. It refuses negative proprioception and falls over 1000."""

    def __init__(self, seconds=0.0):
        self.seconds, self.batches, self.gate, self.entered = seconds, [], threading.Event(), threading.Event()
        self.gate.set()

    def act(self, observations):
        self.entered.set()
        self.gate.wait(120)
        time.sleep(self.seconds)
        self.batches.append(len(observations))
        for observation in observations:
            if observation.proprio[0] < 0:
                raise ValueError(f"proprio is {observation.proprio}; this arm has positive angles")
            if observation.proprio[0] > 1000:
                raise RuntimeError("the policy's own mistake")
        return [o.proprio + np.arange(CHUNK, dtype=np.float32)[:, None] for o in observations]


def echo_server(policy=None, max_batch=8, **limits):
    reader = Reader({"arm": own_fields(("observation.images.front",))}, default="arm")
    return PolicyServer(Worker(policy or Echo(), max_batch), reader, METADATA, Limits(**limits))


def message(first=1.0, **changes):
    image = np.full((8, 6, 3), 7, np.uint8)
    return {"images": {"front": image}, "state": np.array([first, 2.0], np.float32), "prompt": "push"} | changes
