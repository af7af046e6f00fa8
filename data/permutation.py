"""Pseudo-random order as a function: the place of one item without the places of the others, the same everywhere."""

from __future__ import annotations

import hashlib

import numpy as np

_ROUNDS = 6


def key_of(*parts: int | str) -> int:
    """A 64-bit key from integers and names."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little")


def scramble(x_N: np.ndarray, key: np.ndarray | int) -> np.ndarray:
    """uint64[N] that look random, from integers and a key (SplitMix64; Steele, Lea and Flood 2014)."""
    x_N = x_N.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.asarray(key, np.uint64)
    x_N = (x_N ^ (x_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x_N = (x_N ^ (x_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x_N ^ (x_N >> np.uint64(31))


def permute(index_N: np.ndarray, size: int, key_N: np.ndarray | int) -> np.ndarray:
    """int64[N]: where the permutation of 0..size-1 chosen by the key sends each index.

    A Feistel network over the next power of four, walked until it is back inside 0..size-1 (Black and Rogaway 2002).
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    x_N = np.array(index_N, np.uint64)
    key_N = np.broadcast_to(np.asarray(key_N, np.uint64), x_N.shape)
    outside = np.arange(len(x_N))
    while len(outside):
        left, right = x_N[outside] >> half, x_N[outside] & mask
        for round in range(_ROUNDS):
            left, right = right, left ^ (scramble(right, key_N[outside] ^ np.uint64(round)) & mask)
        x_N[outside] = left << half | right
        outside = outside[x_N[outside] >= size]
    return x_N.astype(np.int64)
