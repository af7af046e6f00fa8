"""A phase with `quantize` learns, and is judged, through the weights that an export in few bits stores."""

import jax
import numpy as np
import pytest

from model.quantization import Quantization, rounded_weights
from tests.train.test_build import changed
from tests.train.tiny_config import text_config
from train import fit
from train.build import build_phase, check

pytestmark = pytest.mark.usefixtures("quick_compilation", "own_cache")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return text_config(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def phases(config):
    """The same phase without and with rounding, and the batch both see."""
    pytest.importorskip("qwix")
    rounding = changed(config, {"phases.teach.quantize": {"kind": "int4", "block": 4}})
    plain, quantized = (build_phase(c, "teach", None) for c in (config, rounding))
    return plain, quantized, next(plain.pipeline.iterator())


def test_loss_and_gradient_are_those_at_the_stored_weights(phases):
    plain, quantized, batch = phases
    params, buffers = plain.init()
    stored = rounded_weights(params, plain.axes, Quantization("int4", 4), tied_head=True)

    def value(phase, weights):
        loss = lambda w: phase.loss_fn(w, buffers, batch, jax.random.key(0))[0]  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(weights)

    (there, at_stored), (here, found), (before, _) = (
        value(plain, stored),
        value(quantized, params),
        value(plain, params),
    )
    assert abs(float(before - there)) > 1e-3 * float(there)  # rounding to four bits is felt
    np.testing.assert_allclose(here, there, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, at_stored)


def test_what_is_kept_are_full_weights(phases):
    plain, quantized, _ = phases
    jax.tree.map(np.testing.assert_array_equal, plain.init(), quantized.init())


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"kind": "int2"},
            "config.phases.teach.quantize is {'kind': 'int2'} (dict); it must be a section (kind='int8' or 'int4'",
        ),
        ({"kind": "int4", "block": 5}, "config.phases.teach.quantize.block is 5; allowed: 0"),
    ],
)
def test_forms_that_do_not_exist_are_refused(config, section, message):
    with pytest.raises(ValueError) as error:
        check(changed(config, {"phases.teach.quantize": section}))
    assert str(error.value).startswith(message)


def test_the_missing_extra_is_named(config, monkeypatch):
    monkeypatch.setattr(fit.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"config.phases.teach.quantize needs the package qwix; install the extra"):
        check(changed(config, {"phases.teach.quantize": {"kind": "int8"}}))
