"""The functions of one model that are exported: of weights, caches and inputs as dictionaries of arrays.

    prefill(weights, cache, inputs) -> logits float32[b,V] after each row's last token, cache
    decode(weights, cache, inputs) -> the same, one token for each row
    policy(weights, inputs) -> action chunks float32[b,C,A], normalised; plan(weights, inputs) -> codes int32[b,L]

Symbols: `b` rows, `t` tokens of the longest prompt, `s` tiles of `TILE` slots that a row has room for, `m` images in a
row. The kernels are the reference ones, which lower for every platform; a TPU or GPU kernel lowers for its own alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from data.batch import PADDING_SEGMENT, Batch
from data.layout import collate, lay_out
from data.vocabulary import Vocabulary
from model.cache import Cache, empty_cache
from model.config import ModelConfig
from model.model import create, join, split
from serving.acting import ChunkHead, normalised_chunks
from serving.exported.weights import Weights
from serving.observing import ObservationRows

TILE = 128  # slots; prompts are padded to whole tiles inside
Arrays = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Function:
    """What is exported under a name: the function and the shapes of its arguments."""

    run: Callable[..., Any]
    arguments: tuple[Arrays, ...]
    names: tuple[str, ...]  # of the arguments


def portable(config: ModelConfig) -> ModelConfig:
    """The same model, layer by layer and with kernels that every platform has."""
    return dataclasses.replace(config, scan=False, kernels="reference", remat="none")


class Functions:
    """Those that a model has, by name."""

    def __init__(
        self,
        config: ModelConfig,
        vocabulary: Vocabulary,
        weights: Weights,
        rows: ObservationRows | None,
        head: ChunkHead | None = None,
    ):
        """rows and head: how observations are laid out and what acts, for a model that predicts chunks."""
        self.config, self.vocabulary, self.weights = portable(config), vocabulary, weights
        self.rows = rows
        self.head: ChunkHead | None = head
        self._graph = split(jax.eval_shape(lambda: create(self.config, vocabulary.size, 0)))[0]

    def all(self) -> dict[str, Function]:
        found = {"prefill": self._extension(whole=True), "decode": self._extension(whole=False)}
        if self.rows is not None:
            found["policy"] = self._of_observations(self._policy)
            if self.rows.plan_length:
                found["plan"] = self._of_observations(self._plan)
        return found

    def model(self, weights: Arrays) -> Any:
        return join(self._graph, *self.weights.states(weights, jnp))

    def _extension(self, *, whole: bool) -> Function:
        window = max((self.config.attention(m).window or 0 for m in self.config.mixers if m != "recurrent"), default=0)
        rules = [f"s >= {-(-window // TILE)}"] if window > TILE else []
        if not whole:
            b, s = export.symbolic_shape("b, s", constraints=rules)
            t = m = 1
        else:
            b, t, s, m = export.symbolic_shape(
                "b, t, s, m", constraints=[*rules, f"floordiv(t + {TILE - 1}, {TILE}) <= s"]
            )
        inputs = {"tokens": _int32(b, t), "length": _int32(b)}
        image = self.config.image
        if whole and image is not None:
            pixels = jax.ShapeDtypeStruct((b, m, image.height, image.width, 3), jnp.uint8)
            inputs |= {"image": pixels, "image_slot": _int32(b, m), "span": _int32(b, t)}
        sizes: tuple[Any, Any] = (b, TILE * s)
        cache = jax.eval_shape(lambda: empty_cache(self.config, *sizes))
        leaves, treedef = jax.tree_util.tree_flatten(cache)
        names = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(cache)]
        shapes = dict(zip(names, leaves, strict=True))

        def run(weights: Arrays, cache: Arrays, inputs: Arrays) -> tuple[jax.Array, Arrays]:
            past = jax.tree_util.tree_unflatten(treedef, [cache[name] for name in names])
            logits_BV, extended = self._extend(weights, past, inputs)
            return logits_BV, dict(zip(names, jax.tree.leaves(extended), strict=True))

        return Function(run, (self._weight_shapes(), shapes, inputs), ("weights", "cache", "inputs"))

    def _extend(self, weights: Arrays, cache: Cache, inputs: Arrays) -> tuple[jax.Array, Cache]:
        tokens_BT, length_B = inputs["tokens"], inputs["length"]
        T = tokens_BT.shape[1]
        more = 0 if isinstance(T, int) else TILE * ((T + TILE - 1) // TILE) - T
        padded = lambda x_BT: jnp.pad(x_BT, ((0, 0), (0, more)))  # noqa: E731
        tokens_BT = padded(tokens_BT)
        slot_T = jnp.arange(tokens_BT.shape[1], dtype=jnp.int32)
        real_BT = slot_T < length_B[:, None]
        zeros_BT = jnp.zeros_like(tokens_BT)
        media, spans_BT = {}, zeros_BT
        if "image" in inputs:
            media, spans_BT = {name: inputs[name] for name in ("image", "image_slot")}, padded(inputs["span"])
        batch = Batch(
            tokens=tokens_BT,
            segment_ids=jnp.where(real_BT, 1, PADDING_SEGMENT),
            positions=jnp.where(real_BT, cache.past.num_B[:, None] + slot_T, 0),
            span_ids=spans_BT,
            loss_weights=zeros_BT,
            kinds=zeros_BT,
            media=media,
            values={},
        )
        model = self.model(weights)
        hidden_BTD, cache = model.extend(batch, cache)
        last_BD = jnp.take_along_axis(hidden_BTD, jnp.maximum(length_B - 1, 0)[:, None, None], axis=1)[:, 0]
        return model.token_logits(last_BD), cache

    def _of_observations(self, function: Callable[..., Any]) -> Function:
        """Rows have as many slots as in training; only their number is a symbol."""
        assert self.rows is not None
        (b,) = export.symbolic_shape("b")
        example = collate([lay_out([], self.rows.shape)])
        inputs = {
            _name(path): jax.ShapeDtypeStruct((b, *leaf.shape[1:]), leaf.dtype)
            for path, leaf in jax.tree_util.tree_leaves_with_path(example)
        }
        for unused in ("loss_weights", "kinds"):
            del inputs[unused]
        action = inputs.pop("values/action")
        if function == self._policy and self.head == "flow":
            inputs["noise"] = action  # standard normal

        def run(weights: Arrays, inputs: Arrays) -> jax.Array:
            return function(self.model(weights), observed(inputs), inputs.get("noise"))

        return Function(run, (self._weight_shapes(), inputs), ("weights", "inputs"))

    def _policy(self, model: Any, batch: Batch, noise_BKCA: jax.Array | None) -> jax.Array:
        assert self.head is not None
        return normalised_chunks(model, batch, self.head, noise_BKCA)

    def _plan(self, model: Any, batch: Batch, _: None) -> jax.Array:
        assert self.rows is not None
        return self.rows.plan(model, batch, self.vocabulary)

    def _weight_shapes(self) -> Arrays:
        tensors = self.weights.tensors().items()
        return {name: jax.ShapeDtypeStruct(shape.dims, shape.dtype) for name, shape in tensors}


def observed(inputs: Mapping[str, Any]) -> Batch:
    """The rows of observations from the inputs of `policy` and `plan`."""
    groups: dict[str, Any] = {"media": {}, "values": {}}
    for name, array in inputs.items():
        group, _, key = name.partition("/")
        if key:
            groups[group][key] = array
        elif name != "noise":
            groups[name] = array
    zeros_BT = jnp.zeros_like(groups["tokens"])
    return Batch(loss_weights=zeros_BT, kinds=zeros_BT, **groups)


def _int32(*dims: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(dims, jnp.int32)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
