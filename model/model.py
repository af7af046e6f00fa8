"""The whole model: embed -> stack -> heads, as one sequence of slots."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from model.block import KeysValues
from model.cache import Cache
from model.config import ImageConfig, ModelConfig
from model.embedders.image import ImageEmbedder
from model.embedders.siglip import SiglipEmbedder
from model.embedders.text import TokenEmbedder
from model.embedders.vector import VectorEmbedder
from model.heads.bins import BinsHead
from model.heads.flow import FlowHead, Prefix
from model.heads.l1 import L1Head
from model.heads.local_decoder import LocalDecoder
from model.heads.reward import RewardHead
from model.heads.tokens import TokenHead
from model.init import Buffer, Init
from model.moe import RouterStats
from model.norm import RMSNorm
from model.stack import Stack
from model.structure import Structure, structure_of
from sharding.activations import on_slots


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Output:
    """What a forward pass gives: hidden_BTD (normalised), keys and values if wanted, router statistics, the
    structure."""

    hidden_BTD: jax.Array
    keys_values: tuple[KeysValues, ...]
    router: tuple[RouterStats, ...]
    structure: Structure


class Model(nnx.Module):
    """`batch` is anything with the fields of `data.batch.Batch`."""

    def __init__(self, config: ModelConfig, vocab_size: int, key: jax.Array):
        init, D = Init(key), config.model_dim
        self.config, self.vocab_size = config, vocab_size
        codes = config.num_codes, config.num_other_codes
        self.tokens = TokenEmbedder(init / "tokens", vocab_size, D, config.scale_embeddings, *codes)
        if isinstance(config.image, ImageConfig):
            self.image = ImageEmbedder(init / "image", config.image, D)
        elif config.image is not None:
            self.image = SiglipEmbedder(init / "image", config.image, config)
        if config.robot is not None:
            self.proprio = VectorEmbedder(init / "proprio", config.robot.num_embodiments, config.robot.width, D)
        self.stack = Stack(init / "stack", config)
        self.norm = RMSNorm(init / "norm", D, config=config.norm)
        self.token_head = TokenHead(init / "token_head", vocab_size, D, config.tied_head, config.final_softcap)
        if config.bins is not None:
            assert config.robot is not None
            self.bins = BinsHead(init / "bins", config.bins, config.robot, D)
        if config.l1 is not None:
            assert config.robot is not None
            self.l1 = L1Head(init / "l1", config.l1, config.robot, D)
        if config.flow is not None:
            self.flow = FlowHead(init / "flow", config)
        if config.reward:
            self.reward = RewardHead(init / "reward", D)
        if config.local_decoder is not None:
            assert config.robot is not None
            self.local_decoder = LocalDecoder(init / "local_decoder", config.local_decoder, config.robot, D)

    def __call__(self, batch: Any, *, want_keys_values: bool = False) -> Output:
        structure = structure_of(batch.segment_ids, batch.positions, batch.span_ids)
        x_BTD, keys_values, router = self.stack(self.embed(batch), structure, want_keys_values=want_keys_values)
        return Output(self.norm(on_slots(x_BTD)), keys_values, router, structure)

    def extend(self, batch: Any, cache: Cache) -> tuple[jax.Array, Cache]:
        """hidden_BTD (normalised) of the slots that come after those in the cache, and the cache with them.

        `batch` holds one slot for each row, or a piece of each row as `structure_of` asks; needs `config.scan=False`.
        """
        structure = structure_of(batch.segment_ids, batch.positions, batch.span_ids, cache.past)
        x_BTD, layers = self.stack.extend(self.embed(batch), structure, cache.layers)
        return self.norm(x_BTD), Cache(cache.past.then(structure, batch.segment_ids), layers)

    def embed(self, batch: Any) -> jax.Array:
        """Token embeddings, with the slots of images and vectors taken by their embedders' outputs."""
        dtype = jnp.dtype(self.config.dtype)
        x_BTD = self.tokens(batch.tokens, dtype)
        if self.config.image is not None and "image" in batch.media:
            patches_BMPD = self.image(batch.media["image"], dtype)
            x_BTD = _place(x_BTD, patches_BMPD, batch.media["image_slot"])
        if self.config.robot is not None and "proprio" in batch.values:
            vectors_BKD = self.proprio(batch.values["proprio"], batch.values["embodiment"], dtype)
            x_BTD = _place(x_BTD, vectors_BKD[:, :, None], batch.values["proprio_slot"])
        return x_BTD

    def unembedding(self) -> Callable[[jax.Array], jax.Array]:
        """Hidden states [..., D] -> next-token logits float32[..., V]. The table is made here: call this outside of
        what runs on blocks of positions (`heads.tokens.positionwise`)."""
        table_VD = self.tokens.weights() if self.config.tied_head else self.token_head.table[...]
        return lambda hidden: self.token_head.logits(hidden, table_VD)

    def token_logits(self, hidden: jax.Array) -> jax.Array:
        """Next-token logits float32[..., V] of a few hidden states [..., D]."""
        return self.unembedding()(hidden)

    def action_prefix(self, output: Output, values: Mapping[str, jax.Array]) -> Prefix:
        """What the action expert sees: the segment of each action slot, up to and with that slot, and the state."""
        action_slot_BK = values["action_slot"]
        slot_BK = jnp.maximum(action_slot_BK, 0)
        at_slot = lambda x_BT: jnp.take_along_axis(x_BT, slot_BK, axis=1)  # noqa: E731
        lo_BK = at_slot(output.structure.start_BT)
        hi_BK = jnp.where(action_slot_BK >= 0, slot_BK + 1, lo_BK)
        hidden_BKD = jnp.take_along_axis(output.hidden_BTD, slot_BK[..., None], axis=1)
        position_BK = at_slot(output.structure.positions_BT) + 1
        return Prefix(output.keys_values, hidden_BKD, values["proprio"], lo_BK, hi_BK, position_BK)


def _place(x_BTD: jax.Array, vectors_BMPD: jax.Array, slot_BM: jax.Array) -> jax.Array:
    """Write P vectors into the slots from slot_BM on; entries with a negative slot are dropped."""
    B, M, P, D = vectors_BMPD.shape
    slot_BMP = jnp.where(slot_BM < 0, x_BTD.shape[1], slot_BM)[:, :, None] + jnp.arange(P)
    rows = jnp.arange(B)[:, None]
    return x_BTD.at[rows, slot_BMP.reshape(B, M * P)].set(vectors_BMPD.reshape(B, M * P, D), mode="drop")


def create(config: ModelConfig, vocab_size: int, seed: int) -> Model:
    """A model with float32 parameters; each depends on the seed and its path alone."""
    return Model(config, vocab_size, jax.random.key(seed))


def split(model: Model) -> tuple[Any, Any, Any]:
    """(graph, params, buffers): the one place where module and state part. Both states are nested dicts of arrays."""
    graph, params, buffers = nnx.split(model, nnx.Param, Buffer)
    return graph, _rekey(nnx.to_pure_dict(params), str), _rekey(nnx.to_pure_dict(buffers), str)


def join(graph: Any, params: Any, buffers: Any) -> Model:
    """The module again, inside a pure function."""
    index = lambda key: int(key) if key.isdigit() else key  # noqa: E731
    return nnx.merge(graph, _rekey(params, index), _rekey(buffers, index))


def axes_of(model: Model) -> tuple[Any, Any]:
    """The logical axes of every parameter and buffer, in the structure of `split`'s states."""
    _, params, buffers = nnx.split(model, nnx.Param, Buffer)
    axes = lambda state: nnx.to_pure_dict(jax.tree.map(_axes, state, is_leaf=_is_variable))  # noqa: E731
    return _rekey(axes(params), str), _rekey(axes(buffers), str)


def next_buffers(config: ModelConfig, buffers: Any, router: tuple[RouterStats, ...]) -> Any:
    """The buffers for the next step: every MoE layer's balancing bias as its router left it."""
    moe_layers = [i for i, kind in enumerate(config.feed_forwards) if kind != "dense"]
    bias_E = {layer: jax.lax.stop_gradient(stats.bias_E) for layer, stats in zip(moe_layers, router, strict=True)}
    scanned = config.num_repeats * config.period

    def updated(path, _):
        group, index = path[1].key, int(path[2].key)
        if group == "remainder":
            return bias_E[scanned + index]
        return jnp.stack([bias_E[layer] for layer in range(index, scanned, config.period)])

    return jax.tree_util.tree_map_with_path(updated, buffers)


def _rekey(tree: Any, key: Any) -> Any:
    return {key(k): _rekey(v, key) for k, v in tree.items()} if isinstance(tree, dict) else tree


def _is_variable(leaf: Any) -> bool:
    return isinstance(leaf, nnx.Variable)


def _axes(variable: nnx.Variable) -> tuple[str | None, ...]:
    return variable.get_metadata("axes")
