"""A policy without weights that sees and understands just enough of the tabletop to reach what it is told to."""

from __future__ import annotations

import pathlib
import types
from typing import ClassVar

import numpy as np

from eval.config import RobotConfig
from eval.envs.tabletop.env import Tabletop
from eval.envs.tabletop.render import LOOK
from eval.envs.tabletop.scene import COLOURS
from eval.jobs.job import Job

CHUNK = 8
ARMS = ("arm5", "arm7")


class Seer:
    """Takes the pixels most like the colour it is told and moves the fingertip over where they lie on the table."""

    asked: ClassVar[list] = []  # every observation of all of them, for tests to look at

    def __init__(self, checkpoint, *, batch_size: int = 1, untrained: bool = False):
        self.batch_size, self.untrained = batch_size, untrained
        self.kinematics = {arm: Tabletop(arm, "reach").kinematics for arm in ARMS}

    def act(self, observations):
        assert len(observations) <= self.batch_size
        Seer.asked += observations
        return [self._chunk(observation) for observation in observations]

    def _chunk(self, seen) -> np.ndarray:
        kinematics = self.kinematics[seen.embodiment]
        joints = seen.proprio[: kinematics.num_joints]
        named = [colour for colour in COLOURS if colour in seen.instruction]
        pixels_P3 = seen.images[0].reshape(-1, 3) / 255
        if named and not self.untrained:
            like_P = np.linalg.norm(pixels_P3 - 0.8 * np.array(COLOURS[named[0]]), axis=1) < 0.35
            if like_P.any():
                x, y = LOOK.ground_2P[:, like_P].mean(axis=1)
                joints = kinematics.inverse(np.array([x, y, 0.08]), joints, iterations=12)
        return np.tile(np.append(joints, 0), (CHUNK, 1)).astype(np.float32)


def checkpoint(folder: pathlib.Path, step: int = 3):
    """What a job reads of a checkpoint, of a policy that knows both arms."""
    episodes = {"root": "none", "num_slots": 4, "chunk": CHUNK}
    sources = {arm: episodes | {"embodiment": arm} for arm in ARMS}
    phase = {"mixture": dict.fromkeys(ARMS, 0.5), "pipeline": {"slots": 24}}
    config = {"sources": sources, "phases": {"act": phase}}
    path = folder / "some_run" / "act" / "checkpoints" / str(step)
    return types.SimpleNamespace(path=path, meta={"step": step}, phase="act", step=step, config=config)


def job(folder: pathlib.Path, out: str = "out", step: int = 3, **changes) -> Job:
    """A few episodes of reaching with both arms."""
    fields = {"tasks": ("reach",), "arms": ARMS, "episodes": 4, "batch_size": 3, "films": 1, "execute": 4}
    config = RobotConfig(policy="act", **({"conditions": ("normal",)} | fields | changes))
    return Job("tabletop", config, checkpoint(folder, step), folder / out)
