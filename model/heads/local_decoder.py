"""Local action decoder: between two looks of the backbone, what the robot feels now corrects what was planned then.

Gemini Robotics (arXiv 2503.20020, section 3.1) splits its model in two: a large backbone that answers late, and a small
decoder on the robot that makes up for the delay. Here the backbone leaves a chunk and a latent behind, its `Guide`; the
decoder adds a correction to the action that the chunk has for now. Before training the correction is zero, so a split
model begins as the policy that plays its chunks back.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from model.config import LocalDecoderConfig, RobotConfig
from model.dense import Dense
from model.embedders.vector import VectorEmbedder
from model.init import Init, fan_in, normal, zeros
from model.norm import rms_normalise


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guide:
    """What one look of the backbone leaves behind, all of it as of that look.

    chunk_BKCA: the predicted chunk, normalised.
    hidden_BKD: the backbone's output at the slot the chunk is predicted from.
    proprio_BKA: what the robot felt, normalised.
    embodiment_BK: int32.
    """

    chunk_BKCA: jax.Array
    hidden_BKD: jax.Array
    proprio_BKA: jax.Array
    embodiment_BK: jax.Array


class LocalDecoder(nnx.Module):
    """A residual network over the guide, how old it is, and what the robot feels now."""

    def __init__(self, init: Init, config: LocalDecoderConfig, robot: RobotConfig, model_dim: int):
        self.config, self.num_steps = config, robot.chunk * config.steps
        W, E, A = config.width, robot.num_embodiments, robot.width
        self.latent = init.param("latent", (model_dim, W), ("embed", "embed_out"), fan_in(model_dim))
        self.chunk = VectorEmbedder(init / "chunk", E, robot.chunk * A, W)
        self.action = VectorEmbedder(init / "action", E, A, W)
        self.state = VectorEmbedder(init / "state", E, A, W)
        self.moved = VectorEmbedder(init / "moved", E, A, W)
        self.delay = init.param("delay", (self.num_steps, W), ("chunk", "embed"), normal(0.5))
        self.layers = nnx.List(
            [Dense(init / f"layer{i}", W, config.hidden_dim, "gelu") for i in range(config.num_layers)]
        )
        self.out = init.param("out", (E, W, A), ("embodiment", "embed", "vector"), zeros)

    def __call__(self, guide: Guide, delay_BKN: jax.Array, proprio_BKNA: jax.Array) -> jax.Array:
        """The action of now, float32[B,K,N,A] and normalised as the chunk is, for N moments after each look.

        delay_BKN: int32. Control steps since the look, from 0; past the end of the chunk its last step goes on.
        proprio_BKNA: what the robot feels at that moment, normalised.
        """
        dtype, robot = guide.hidden_BKD.dtype, guide.embodiment_BK
        planned_BKNA = self.planned_actions(guide, delay_BKN)
        delay_BKN = jnp.minimum(delay_BKN, self.num_steps - 1)
        seen_BKW = guide.hidden_BKD @ self.latent[...].astype(dtype)
        seen_BKW += self.chunk(guide.chunk_BKCA.reshape(*robot.shape, -1), robot, dtype)
        x_BKNW = seen_BKW[:, :, None] + self.delay[...].astype(dtype)[delay_BKN]
        x_BKNW += self.action(planned_BKNA, robot, dtype) + self.state(proprio_BKNA, robot, dtype)
        x_BKNW += self.moved(proprio_BKNA - guide.proprio_BKA[:, :, None], robot, dtype)
        for layer in self.layers:
            x_BKNW += layer(rms_normalise(x_BKNW).astype(dtype))
        one_hot_BKE = jax.nn.one_hot(robot, self.out.shape[0], dtype=jnp.float32)
        by_embodiment = jnp.einsum("bknw,ewa->bknea", rms_normalise(x_BKNW), self.out[...])
        return planned_BKNA + jnp.einsum("bknea,bke->bkna", by_embodiment, one_hot_BKE)

    def planned_actions(self, guide: Guide, delay_BKN: jax.Array) -> jax.Array:
        """What the chunk alone has for these moments, float32[B,K,N,A]; its last step goes on for ever."""
        step_BKN = jnp.minimum(delay_BKN // self.config.steps, guide.chunk_BKCA.shape[2] - 1)
        return jnp.take_along_axis(guide.chunk_BKCA, step_BKN[..., None], axis=2)
