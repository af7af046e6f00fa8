"""Gemma 3's published sizes, counted without allocating anything."""

import jax
import pytest

from configs.gemma3 import SIZES, model
from configs.schema import parse
from model.cache import cache_bytes
from model.config import ModelConfig
from model.model import create, split

VOCAB = 262_144


def config_of(size):
    return parse(ModelConfig, model(size), f"models.{size}")


@pytest.mark.parametrize(("size", "millions"), [("1b", 697.9), ("4b", 3209.0), ("12b", 10_759.2), ("27b", 25_599.7)])
def test_parameters_without_embeddings_are_those_of_the_report(size, millions):
    _, params, _ = split(jax.eval_shape(lambda: create(config_of(size), VOCAB, seed=0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(params)) - params["tokens"]["table"].size
    assert count / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(("size", "millions"), [("1b", 302.0), ("4b", 671.1), ("12b", 1006.6), ("27b", 1409.3)])
def test_embeddings_are_one_tied_table(size, millions):
    assert VOCAB * config_of(size).model_dim / 1e6 == pytest.approx(millions, abs=0.05)
    assert config_of(size).tied_head


@pytest.mark.parametrize(
    ("size", "gib", "all_global"),
    [("270m", 0.38, 2.25), ("1b", 0.51, 3.25), ("4b", 2.61, 17.0), ("12b", 8.31, 48.0), ("27b", 10.41, 62.0)],
)
def test_memory_of_128k_tokens_in_bfloat16(size, gib, all_global):
    config = config_of(size)
    assert cache_bytes(config, 1, 131_072) / 2**30 == pytest.approx(gib, abs=0.006)
    attention = config.attention("global")
    everything = config.num_layers * 2 * attention.num_kv_heads * attention.head_dim * 131_072 * 2
    assert everything / 2**30 == pytest.approx(all_global)


def test_every_sixth_layer_is_global_and_the_pattern_is_cut_at_the_end():
    for size in SIZES:
        config = config_of(size)
        assert [i for i, kind in enumerate(config.mixers, 1) if kind == "global"] == list(
            range(6, config.num_layers + 1, 6)
        )
