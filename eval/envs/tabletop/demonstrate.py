"""Demonstrations: the expert acts under smooth disturbances while the recorded action stays what it meant to do."""

from __future__ import annotations

import dataclasses

import numpy as np

from eval.envs.disturbance import Disturbance
from eval.envs.tabletop.env import Tabletop
from eval.envs.tabletop.points import Point


@dataclasses.dataclass
class Demonstration:
    """An episode, one entry a step.

    image uint8[64,64,3], proprioception float32[n+4], action float32[n+1], points, plan float32[4].
    """

    instruction: str
    success: bool
    images: list[np.ndarray] = dataclasses.field(default_factory=list)
    proprio: list[np.ndarray] = dataclasses.field(default_factory=list)
    actions: list[np.ndarray] = dataclasses.field(default_factory=list)
    points: list[list[Point]] = dataclasses.field(default_factory=list)
    plans: list[np.ndarray] = dataclasses.field(default_factory=list)


def demonstrate(env: Tabletop, seed: int, noise: float = 0.0, anywhere: bool = False, hold: int = 0) -> Demonstration:
    """The expert in the episode of `seed`.

    The standard deviation of the disturbance of each joint is drawn for the episode between 0 and `noise` radians. A
    start `anywhere` over the table shows how to go on from where a policy gets by its own mistakes, without the
    disturbances that make a chunk of actions unpredictable. After success the expert goes on for `hold` steps, which
    show how to stay.
    """
    disturbance = Disturbance(seed, noise, env.num_joints)
    observation = env.reset(seed, anywhere)
    episode = Demonstration(env.instruction, success=False)
    left = env.max_steps
    while left:
        action = env.expert_action()
        episode.images.append(observation["image"])
        episode.proprio.append(observation["proprio"])
        episode.actions.append(action)
        episode.points.append(env.grounded())
        episode.plans.append(env.plan())
        _, solved = env.step(action + np.append(disturbance.next(), 0.0), render=False)
        observation = env.observe()
        left -= 1
        if solved and not episode.success:
            episode.success, left = True, hold
    return episode
