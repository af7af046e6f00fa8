"""Models with random weights everywhere, also where initialisation gives zeros, and without compiling initialisers."""

import jax
import jax.numpy as jnp
import numpy as np

from model.config import ModelConfig
from model.model import create, split


def random_states(config: ModelConfig, vocab_size: int, seed: int = 0, std: float = 0.2):
    """(graph, params, buffers) as `model.model.split` gives them."""
    graph, *states = split(jax.eval_shape(lambda: create(config, vocab_size, seed=0)))
    return graph, *(random_like(state, seed + i, std) for i, state in enumerate(states))


def random_like(tree, seed: int = 0, std: float = 0.2):
    """Normal numbers in the shapes of `tree`."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(std * rng.normal(size=leaf.shape), jnp.float32), tree)
