"""What need not be stored: weights that follow from a tensor's name, sketches of its gradient, pictures of noise."""

import zlib

import numpy as np

SKETCHES = 32


def weight(name: str, dims: tuple[int, ...]) -> np.ndarray:
    """float32; factors of LayerNorm are near 1, those of RMSNorm near 0, as Gemma adds 1."""
    if len(dims) > 1:
        return (1.5 * dims[-1] ** -0.5 * _normal(name, dims)).astype(np.float32)
    is_factor = "layer_norm" in name or "vision_tower.post_layernorm" in name or "vision_model.post_layernorm" in name
    return (is_factor * name.endswith(".weight") + 0.3 * _normal(name, dims)).astype(np.float32)


def sketch(name: str, gradient: np.ndarray) -> np.ndarray:
    """float64[1 + SKETCHES]: the norm, and products with random arrays.

    The mean square of a difference's products is its squared norm, up to chance: a fifth of it at one deviation.
    """
    flat = np.asarray(gradient, np.float64).reshape(-1)
    rng = np.random.default_rng(zlib.crc32(name.encode()) + 1)
    return np.array([np.linalg.norm(flat), *(rng.standard_normal(flat.size) @ flat for _ in range(SKETCHES))])


def pictures(seed: int, num: int, side: int) -> np.ndarray:
    """uint8[num,side,side,3] of noise."""
    return np.random.default_rng(seed).integers(0, 256, (num, side, side, 3), np.uint8)


def _normal(name: str, dims: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(dims)
