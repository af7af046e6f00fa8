"""Training sees the weights that an export stores, and its gradients pass through the rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.schema import parse
from model.config import ModelConfig
from model.model import axes_of, create, join, split
from model.quantization import Quantization, as_rows, from_rows, rounded, rounded_weights, scaled_blocks
from serving.quantize import dequantize, quantize
from tests.serving.test_quantize import FORMS, SHAPES, random
from tests.train.tiny_config import model
from train.teacher import by_name

qwix = pytest.importorskip("qwix")
each_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.kind}-{form.block}")


@each_form
@pytest.mark.parametrize(("dims", "contracted"), SHAPES, ids=str)
def test_what_training_sees_is_what_an_export_stores_bit_by_bit(form, dims, contracted):
    array = random(dims, seed=3)
    stored = dequantize(*quantize(array, contracted, form), dims, contracted, form)
    for see in (rounded, jax.jit(rounded, static_argnums=(1, 2))):
        np.testing.assert_array_equal(see(jnp.array(array), contracted, form), stored)


@pytest.mark.parametrize(("dims", "contracted"), SHAPES, ids=str)
def test_rows_are_undone(dims, contracted):
    array = random(dims)
    rows_RI = as_rows(array, contracted)
    assert rows_RI.shape[1] == np.prod([dims[i] for i in contracted])
    np.testing.assert_array_equal(from_rows(rows_RI, dims, contracted), array)


@each_form
def test_what_was_rounded_stays_as_it_is(form):
    once = rounded(jnp.array(random((10, 6))), (0,), form)
    np.testing.assert_array_equal(rounded(once, (0,), form), once)


@each_form
def test_gradients_pass_as_if_nothing_were_rounded(form):
    array, weight = jnp.array(random((10, 6))), jnp.array(random((10, 6), seed=1))
    found = jax.grad(lambda w: jnp.sum(weight * rounded(w, (0,), form)))(array)
    np.testing.assert_array_equal(found, weight)


@pytest.mark.parametrize("kind", ["int8", "int4", "fp8"])
def test_the_grid_is_that_of_the_library_where_both_scale_alike(kind):
    """With a scale of exactly 1, qwix's own calibration and ours are the same function."""
    form = Quantization(kind)
    array = np.random.default_rng(0).uniform(-form.largest, form.largest, (1, 64)).astype(np.float32)
    array[0, 0] = form.largest
    bound = form.largest + (0 if kind == "fp8" else 0.5)
    library = qwix.dequantize(qwix.quantize(jnp.array(array), form.dtype, calibration_method=f"fixed,{bound}"))
    np.testing.assert_array_equal(rounded(jnp.array(array), (1,), form), library)


def test_a_block_of_zeros_stays_zeros():
    scaled, scales = scaled_blocks(np.zeros((2, 4), np.float32), Quantization("int4", 2))
    assert not scaled.any()
    assert not scales.astype(np.float32).any()


def test_scanned_layers_are_rounded_as_if_they_stood_alone():
    """Every matmul's weight of the whole model, and nothing else."""
    form, config = Quantization("int4", 4), parse(ModelConfig, model())
    _, params, _ = split(create(config, 64, seed=0))
    axes = by_name(axes_of(jax.eval_shape(lambda: create(config, 64, seed=0)))[0])
    found = rounded_weights(params, axes, form, tied_head=config.tied_head)
    changed = jax.tree.map(lambda old, new: bool((old != new).any()), params, found)
    names = {"/".join(str(k.key) for k in path) for path, new in jax.tree.leaves_with_path(changed) if new}
    assert "tokens/table" in names
    assert any(name.startswith("stack/repeated") and name.endswith("query") for name in names)
    assert not any(name.endswith(("scale", "router", "log_dt", "skip")) for name in names)
    repeated = params["stack"]["repeated"]
    for key, block in repeated.items():
        query = block["mixer"].get("query")
        if query is not None:
            for layer, one in zip(query, found["stack"]["repeated"][key]["mixer"]["query"], strict=True):
                np.testing.assert_array_equal(rounded(layer, (0,), form), one)


@pytest.mark.parametrize(("kind", "block", "named"), [("int3", 0, "kind is 'int3'"), ("int4", 3, "block is 3")])
def test_forms_that_do_not_exist_are_refused(kind, block, named):
    with pytest.raises(ValueError, match=named):
        Quantization(kind, block)


def test_a_model_runs_on_what_it_will_be_stored_as():
    config = parse(ModelConfig, model())
    graph, params, buffers = split(create(config, 64, seed=0))
    axes = by_name(axes_of(jax.eval_shape(lambda: create(config, 64, seed=0)))[0])
    form = Quantization("int8")
    logits = [
        join(graph, weights, buffers).token_logits(jnp.ones((1, config.model_dim)))
        for weights in (params, rounded_weights(params, axes, form, tied_head=config.tied_head))
    ]
    assert 0 < float(jnp.abs(logits[0] - logits[1]).max()) < 0.05 * float(jnp.abs(logits[0]).max())
