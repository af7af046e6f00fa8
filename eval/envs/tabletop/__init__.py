"""A table, coloured primitives and three arms in MuJoCo: language-conditioned tasks, drawn by ray casting.

env = Tabletop(arm="arm6", task="push")
observation = env.reset(seed=0)
while not env.success():
    observation, done = env.step(env.expert_action())
"""

from eval.envs.environment import EVALUATION_SEED
from eval.envs.tabletop.arms import ARMS, Arm
from eval.envs.tabletop.batch import TabletopBatch
from eval.envs.tabletop.demonstrate import Demonstration, demonstrate
from eval.envs.tabletop.env import CONTROL_HZ, Tabletop
from eval.envs.tabletop.language import WORDINGS
from eval.envs.tabletop.tasks import TASKS

__all__ = [
    "ARMS",
    "CONTROL_HZ",
    "EVALUATION_SEED",
    "TASKS",
    "WORDINGS",
    "Arm",
    "Demonstration",
    "Tabletop",
    "TabletopBatch",
    "demonstrate",
]
