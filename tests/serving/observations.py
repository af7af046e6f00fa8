"""What the two made-up arms of `tests.train.tiny_config` see, are told and feel."""

import numpy as np

from serving.policy import Observation
from tests.data.tiny_robots import SIZE, TASKS

WIDTHS = {"arm2": (4, 2), "arm3": (5, 3)}  # proprioception, action


def observation(arm: str, seed: int = 0, **changes) -> Observation:
    rng = np.random.default_rng(seed)
    fields = {
        "images": (rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8),),
        "instruction": TASKS[seed % 2],
        "proprio": rng.normal(5, 2, WIDTHS[arm][0]).astype("f4"),
        "embodiment": arm,
    }
    return Observation(**fields | changes)
