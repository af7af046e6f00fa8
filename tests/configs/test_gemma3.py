"""Gemma 3's published sizes, counted without allocating anything."""

import dataclasses

import jax
import pytest

from configs.gemma3 import SEEING, SIZES, get_config, model, text_model
from configs.schema import parse
from model.cache import cache_bytes
from model.config import ModelConfig
from model.model import create, split
from train.build import check
from train.sections import completed

VOCAB = 262_144


def config_of(size):
    return parse(ModelConfig, model(size), f"models.{size}")


def params_of(config):
    return split(jax.eval_shape(lambda: create(config, VOCAB, seed=0)))[1]


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(("size", "millions"), [("1b", 697.9), ("4b", 3209.0), ("12b", 10_759.2), ("27b", 25_599.7)])
def test_parameters_without_embeddings_are_those_of_the_report(size, millions):
    params = params_of(config_of(size))
    assert (count(params) - count(params["tokens"]) - count(params.get("image", {}))) / 1e6 == pytest.approx(
        millions, abs=0.05
    )


@pytest.mark.parametrize("size", SEEING)
def test_the_image_encoder_is_that_of_the_report_and_its_projector_fits_the_model(size):
    image = params_of(config_of(size))["image"]
    assert count(image["encoder"]) / 1e6 == pytest.approx(416.9, abs=0.05)
    assert count(image) - count(image["encoder"]) == 1152 * config_of(size).model_dim + 1152
    assert config_of(size).image.num_slots == 256


@pytest.mark.parametrize("variant", [*SIZES, *(f"{size}_text" for size in SEEING)])
def test_every_variant_is_a_whole_config_whose_encoder_is_frozen(variant):
    config = completed(get_config(variant))
    check(config)
    seeing = variant in SEEING
    assert (config.models.gemma.image is not None) == seeing
    assert config.phases.pretrain.optimizer.freeze == (("^image/",) if seeing else ())


def test_a_variant_that_is_not_there_is_refused():
    for variant in ("2b", "1b_text"):
        with pytest.raises(ValueError, match=rf"no variant '{variant}'; choose one of 270m, .*27b_text"):
            get_config(variant)


def test_without_its_encoder_a_size_is_the_same():
    for size in SEEING:
        text = parse(ModelConfig, text_model(size))
        assert dataclasses.replace(config_of(size), image=None) == text


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
