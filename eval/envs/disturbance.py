"""Smooth noise on an expert's actions.

The disturbance leads the robot off the expert's path and the labels lead back, so a policy trained on them has seen how
to mend its own mistakes (DART, arXiv 1703.09327).
"""

from __future__ import annotations

import numpy as np

MEMORY = 0.8  # share of a disturbance that is still there one control step later


class Disturbance:
    """float64[width] a control step, the same for a seed.

    The standard deviation is drawn for the episode between 0 and `noise`.
    """

    def __init__(self, seed: int, noise: float, width: int):
        self._rng = np.random.default_rng([seed, 1])
        self._level, self._push = self._rng.uniform(0, noise), np.zeros(width)

    def next(self) -> np.ndarray:
        fresh = self._rng.normal(0, self._level, len(self._push))
        self._push = MEMORY * self._push + np.sqrt(1 - MEMORY**2) * fresh
        return self._push
