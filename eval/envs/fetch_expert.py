"""Scripted experts for Fetch: where the hand goes next, read off the present state alone.

Positions are float[3] in metres. What looks like phases is decided anew at every step, so an expert that was pushed
off its path finds back.
"""

from __future__ import annotations

import numpy as np

STEP = 0.05  # metres that an action of 1 asks for
GAIN = 0.8  # share of the way that is left, asked for in one step: the arm comes 0.6 of it
OPEN, CLOSED = 1.0, -1.0  # fingers
HOVER = 0.1  # metres above the block from where the hand comes down
GRIPPED = 0.0255  # metres: a finger that is no further open holds the block, which is 5 cm wide
BEHIND = 0.085  # metres from the middle of the block to where pushing it begins


def towards(hand: np.ndarray, place: np.ndarray, fingers: float) -> np.ndarray:
    """float[4]: the action that takes the hand to `place`, straight."""
    step = GAIN * (place - hand) / STEP
    return np.append(step / max(1.0, np.abs(step).max()), fingers)


def reach(hand: np.ndarray, goal: np.ndarray) -> np.ndarray:
    return towards(hand, goal, CLOSED)


def pick_and_place(hand: np.ndarray, finger: float, block: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Over the block, down, grip, to the goal."""
    across = float(np.linalg.norm((block - hand)[:2]))
    inside = across < 0.015 and abs(hand[2] - block[2]) < 0.015
    if inside and finger < GRIPPED:
        return towards(hand, goal, CLOSED)
    if inside:
        return np.append(np.zeros(3), CLOSED)
    height = HOVER if across > 0.02 else 0.0
    return towards(hand, block + np.array([0, 0, height]), OPEN)


def push(hand: np.ndarray, block: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Over the block to behind it, down, and forward along the line to the goal."""
    way = (goal - block)[:2]
    if np.linalg.norm(way) < 0.02:
        return np.array([0, 0, 0, CLOSED])
    ahead = np.append(way / max(float(np.linalg.norm(way)), 1e-6), 0.0)
    offset = hand - block
    along = float(offset @ ahead)
    aside = float(np.linalg.norm(offset[:2] - along * ahead[:2]))
    if along < -0.02 and aside < 0.02 and offset[2] < 0.03:  # in place: keep on the line while pushing
        return towards(hand, block - 0.02 * ahead, CLOSED)
    start = block - BEHIND * ahead
    if float(np.linalg.norm((start - hand)[:2])) > 0.02:
        start = start + np.array([0, 0, HOVER])
        if hand[2] < block[2] + 0.05:  # up first, or the block is swept along
            start[:2] = hand[:2]
    return towards(hand, start, CLOSED)
