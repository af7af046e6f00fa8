"""Backbone and local decoder: the demo's policy behind a slow link, with a decoder at 50 Hz on the robot.

    make demo                                                        # the policy that is split, about ten minutes
    python -m benchmarks.latency --record runs/split/data            # the same tasks at 50 Hz
    python -m train --config configs/split.py
    python -m benchmarks.latency --checkpoint runs/split/decode      # with and without 250 ms between seeing and acting

The demo's chunks are of 10 Hz; the decoder acts five times for each of their steps. `prefix` teaches the chunks to
begin with given actions, `decode` teaches the decoder alone; ten minutes on two CPU cores that others use too.

Expect with 250 ms, over 45 episodes each of reach and push: 76 % for guided chunks under the decoder (93 and 58 %),
and 37 % (69 and 4 %) where the same weights are a far policy of single actions; chunks played back without any delay
reach 73 %. A new chunk parts from the running one by 110 mrad a joint, guided by 16, with a prefix by nothing.
"""

from ml_collections import ConfigDict

from configs import demo

RUN = "runs/split"
STEPS = 5  # control steps in a step of the demo's chunks
DELAY = 3  # steps of a chunk that pass before the next one is there, at most
HORIZON = demo.CHUNK * STEPS  # control steps that the decoder goes on after a look, at most


def get_config(variant: str = "") -> ConfigDict:
    if variant:
        raise ValueError(f"configs/split.py has no variant {variant!r}; leave it out")
    config = demo.get_config()
    episodes = {f"{arm}_chunks": config.sources[f"{arm}_chunks"].to_dict() for arm in demo.ARMS}
    controls = {
        f"{arm}_controls": episodes[f"{arm}_chunks"]
        | {"root": f"{RUN}/data/{arm}", "chunk": HORIZON, "stride": STEPS, "holdout": 0.05}
        for arm in demo.ARMS
    }
    config.sources = episodes | controls
    for robot in config.embodiments.values():
        robot.statistics = f"{demo.RUN}/specialise/checkpoints/{demo.specialise()['steps']}/files/statistics.json"
    flow = demo.policy()["flow"] | {"prefix": DELAY}
    decoder = {"width": 128, "hidden_dim": 256, "num_layers": 2, "steps": STEPS}
    config.models = {
        "policy": demo.policy() | {"flow": flow},
        "split": demo.policy() | {"flow": flow, "local_decoder": decoder},
    }
    config.train.phases = ("prefix", "decode")
    config.phases = {"prefix": prefix(), "decode": decode()}
    del config.evaluate
    return config


def prefix() -> dict:
    phase = demo.specialise() | {"init": f"path:{demo.RUN}/specialise", "steps": 100}
    return phase | {
        "pipeline": phase["pipeline"] | {"batch_size": 64},
        "optimizer": phase["optimizer"] | {"learning_rate": 3e-4},
    }


def decode() -> dict:
    phase = demo.specialise()
    return phase | {
        "objective": "local_decoder",
        "model": "split",
        "mixture": {f"{arm}_controls": 1.0 for arm in demo.ARMS},
        "pipeline": phase["pipeline"] | {"batch_size": 32, "chunk": HORIZON, "chunk_proprio": True},
        "steps": 300,
        "init": "phase:prefix",
        "options": {},
        "optimizer": phase["optimizer"] | {"freeze": ("^(tokens|image|proprio|stack|norm|flow)/",)},
    }
