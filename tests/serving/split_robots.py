"""A tiny run whose model has a local decoder: chunks of 4 steps that last 2 control steps each, on two made-up arms."""

from tests.train.tiny_config import robot_config
from train.build import build_phase
from train.checkpoint import Checkpoint
from train.phases import run

CHUNK, STEPS, HORIZON, PREFIX = 4, 2, 5, 2


def split_config(folder):
    """`act` teaches the local decoder for two steps; documents have HORIZON control steps."""
    config = robot_config(folder)
    model, phase = config.models.policy, config.phases.act
    model.robot.chunk = CHUNK
    model.flow.prefix = PREFIX
    model.local_decoder = {"width": 8, "hidden_dim": 8, "num_layers": 1, "steps": STEPS}
    phase.objective = "local_decoder"
    phase.pipeline.update(chunk=HORIZON, chunk_proprio=True)
    for source in config.sources.values():
        source.chunk = HORIZON
    return config


def train(config, workdir) -> Checkpoint:
    run(config, workdir, build_phase)
    return Checkpoint.open(workdir / "act")
