"""The layers: one scan over repeats of the pattern, then the truncated remainder."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from model.block import Block, KeysValues
from model.cache import LayerCache
from model.config import ModelConfig
from model.init import Init
from model.moe import RouterStats
from model.remat import rematerialised
from model.structure import Structure
from sharding.activations import on_slots


class Stack(nnx.Module):
    """`repeated[p]` holds the layers p, p + period, p + 2 period ... stacked; `remainder` the layers after the last
    repeat."""

    def __init__(self, init: Init, config: ModelConfig):
        self.config = config
        period, repeats = config.period, config.num_repeats
        self.repeated = nnx.List(
            [Block(init.stacked(tuple(range(p, repeats * period, period))), config, p) for p in range(period)]
            if repeats
            else []
        )
        self.remainder = nnx.List([Block(init.at(i), config, i) for i in range(repeats * period, config.num_layers)])

    def __call__(
        self, x_BTD: jax.Array, structure: Structure, *, want_keys_values: bool = False
    ) -> tuple[jax.Array, tuple[KeysValues, ...], tuple[RouterStats, ...]]:
        """Returns x_BTD, (k, v) of every attention layer if wanted, and the router statistics of every MoE layer, in
        order."""
        split = [nnx.split(block) for block in self.repeated]

        def repeat(x_BTD, states):
            blocks = [nnx.merge(graph, state) for (graph, _), state in zip(split, states, strict=True)]
            return self._run(blocks, x_BTD, structure, want_keys_values)

        per_layer: list[tuple[Any, Any]] = []
        if self.repeated:
            x_BTD, stacked = jax.lax.scan(repeat, x_BTD, [state for _, state in split])
            for i in range(self.config.num_repeats):
                per_layer += jax.tree.map(lambda leaf: leaf[i], stacked)  # noqa: B023
        if self.remainder:
            x_BTD, tail = self._run(self.remainder, x_BTD, structure, want_keys_values)
            per_layer += tail
        keys_values = tuple(kv for kv, _ in per_layer if kv is not None)
        return x_BTD, keys_values, tuple(stats for _, stats in per_layer if stats is not None)

    def extend(
        self, x_BTD: jax.Array, structure: Structure, caches: tuple[LayerCache, ...]
    ) -> tuple[jax.Array, tuple[LayerCache, ...]]:
        """The slots that come after those in the caches, one for each layer; needs `scan=False`.

        A scan over layers would copy every layer's cache in every step.
        """
        assert not self.repeated, "extend needs the layers one by one"
        extended = []
        for block, cache in zip(self.remainder, caches, strict=True):
            x_BTD, cache, _ = block(x_BTD, structure, cache)
            extended.append(cache)
        return x_BTD, tuple(extended)

    def _run(self, blocks, x_BTD, structure, want_keys_values):
        outs = []
        for block in blocks:
            x_BTD, keys_values, stats = rematerialised(block, self.config.remat)(on_slots(x_BTD), structure)
            outs.append((keys_values if want_keys_values else None, stats))
        return x_BTD, outs


def router_metrics(stats: tuple[RouterStats, ...]) -> dict[str, jax.Array]:
    """Logged per MoE layer: the load of each expert, the largest load relative to the mean, the router's entropy in
    nats."""
    metrics = {}
    for i, layer in enumerate(stats):
        metrics[f"router/load_layer{i}"] = layer.load_E
        metrics[f"router/max_load_layer{i}"] = jnp.max(layer.load_E) * layer.load_E.shape[0]
        metrics[f"router/entropy_layer{i}"] = layer.entropy
    return metrics
