"""Wilson score interval: honest error bars for success rates, also near 0 and 1 and with few episodes."""

from __future__ import annotations

import math
import statistics


def wilson_interval(successes: int, episodes: int, confidence: float = 0.95) -> tuple[float, float]:
    """Bounds of a success rate (Wilson 1927): the rates p with |successes/n - p| <= z sqrt(p (1 - p) / n).

    Returns (0, 1) for no episodes, when nothing is known.

    Raises:
        ValueError: if not 0 <= successes <= episodes, or confidence is outside (0, 1).
    """
    if not 0 <= successes <= episodes:
        raise ValueError(f"successes is {successes}; it must be 0 .. episodes = {episodes}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must be between 0 and 1, such as 0.95")
    if episodes == 0:
        return 0.0, 1.0
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    rate, penalty = successes / episodes, z * z / episodes
    centre = rate + penalty / 2
    margin = math.sqrt(penalty * (rate * (1 - rate) + penalty / 4))
    low, high = (centre - margin) / (1 + penalty), (centre + margin) / (1 + penalty)
    return (0.0 if successes == 0 else low), (1.0 if successes == episodes else high)  # exact, not within rounding
