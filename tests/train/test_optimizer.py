import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train import tiny
from train.optimizer import OptimizerConfig, build_optimizer, build_schedule, is_decayed, muon_dims


def rates(steps=100, **config):
    schedule = build_schedule(OptimizerConfig(learning_rate=2.0, **config), steps)
    return np.array([float(schedule(jnp.int32(s))) for s in range(steps)])


def after_warmup(s, warm=10, steps=100):
    return (s - warm) / (steps - warm)


CLOSED_FORMS = [
    ({"schedule": "constant"}, lambda s: 2.0),
    ({"schedule": "linear", "final": 0.1}, lambda s: 2 * (1 - 0.9 * after_warmup(s))),
    ({"schedule": "cosine"}, lambda s: 2 * 0.5 * (1 + math.cos(math.pi * after_warmup(s)))),
    (
        {"schedule": "cosine", "final": 0.25},
        lambda s: 2 * (0.25 + 0.75 * 0.5 * (1 + math.cos(math.pi * after_warmup(s)))),
    ),
    ({"schedule": "wsd", "decay": 0.3}, lambda s: 2.0 if s < 70 else 2 * (100 - s) / 30),
    ({"schedule": "wsd"}, lambda s: 2.0 if s < 80 else 2 * (100 - s) / 20),
]


@pytest.mark.parametrize(("config", "closed_form"), CLOSED_FORMS)
def test_schedules_follow_their_closed_forms_after_a_linear_warmup(config, closed_form):
    expected = [2 * (s + 1) / 10 if s < 10 else closed_form(s) for s in range(100)]
    np.testing.assert_allclose(rates(warmup=0.1, **config), expected, rtol=1e-5, atol=1e-6)


def test_a_schedule_without_warmup_starts_at_the_peak():
    assert rates(schedule="cosine")[0] == 2.0


def build(params=None, steps=10, **config):
    params = tiny.init()[0] if params is None else params
    optimizer = build_optimizer(OptimizerConfig(**config), steps, params, tiny.AXES)
    return params, optimizer


def update(params, optimizer, seed=0):
    keys = jax.tree.unflatten(jax.tree.structure(params), jax.random.split(jax.random.key(seed), 4))
    grads = jax.tree.map(lambda p, key: jax.random.normal(key, p.shape), params, keys)
    clipped = optimizer.clipped(grads, optimizer.scatter(grads)[1])
    return grads, optimizer.update(clipped, optimizer.init(params), params)[0]


def test_muon_orthogonalises_each_matrix_of_a_stack_by_itself():
    axes = {"layers/up": ("layers", "embed", "mlp"), "attention/query": ("layers", "embed", "heads", "head_dim")}
    params = {"layers": {"up": jnp.ones((3, 8, 6))}, "attention": {"query": jnp.ones((2, 8, 2, 3))}}
    optimizer = build_optimizer(OptimizerConfig(kind="muon", clip_norm=None), 10, params, axes)
    scale = jnp.array([1.0, 100.0, 0.01])[:, None, None]  # layers that a joint treatment would drown
    grads = {
        "layers": {"up": jax.random.normal(jax.random.key(0), (3, 8, 6)) * scale},
        "attention": {"query": jax.random.normal(jax.random.key(1), (2, 8, 2, 3))},
    }
    direction, _ = optimizer.update(grads, optimizer.init(params), params)
    matrices = [(direction["layers"]["up"][i], grads["layers"]["up"][i]) for i in range(3)]
    matrices += [
        (direction["attention"]["query"][i].reshape(8, 6), grads["attention"]["query"][i].reshape(8, 6))
        for i in range(2)
    ]
    for moved, gradient in matrices:
        u, s, vt = np.linalg.svd(np.asarray(gradient), full_matrices=False)
        inside = u.T @ np.asarray(moved) @ vt.T / (0.2 * math.sqrt(8))  # Newton-Schulz keeps the singular vectors
        np.testing.assert_allclose(inside, np.diag(np.diag(inside)), atol=2e-3)
        assert np.all(np.diag(inside) > 0.6)
        assert np.all(np.diag(inside) < 1.3)
        assert s.max() / s.min() > 2  # the gradient was not orthogonal to begin with


def test_adamw_moves_by_the_sign_at_its_first_step_and_decays_only_matrices():
    params, optimizer = build(weight_decay=0.5, clip_norm=None)
    grads, direction = update(params, optimizer)
    expected = jax.tree.map(jnp.sign, grads)
    expected["layers"]["up"] += 0.5 * params["layers"]["up"]
    expected["out"]["kernel"] += 0.5 * params["out"]["kernel"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), direction, expected)


def test_gradients_are_clipped_by_their_global_norm():
    config = {"clip_norm": 0.5, "b1": 0.0, "b2": 0.0, "eps": 1e6}  # eps so large that the direction is gradient / eps
    params, optimizer = build(**config)
    _, direction = update(params, optimizer)
    norm = math.sqrt(sum(float(jnp.sum(d**2)) for d in jax.tree.leaves(direction)))
    assert norm * 1e6 == pytest.approx(0.5, rel=1e-4)


def test_multipliers_scale_the_first_matching_group_and_frozen_parameters_have_neither_update_nor_state():
    params, plain = build(clip_norm=None)
    config = {"clip_norm": None, "multipliers": (("^layers/up", 0.1), ("^layers", 3.0)), "freeze": ("table",)}
    _, optimizer = build(**config)
    (_, expected), (_, direction) = update(params, plain), update(params, optimizer)
    np.testing.assert_allclose(direction["layers"]["up"], 0.1 * expected["layers"]["up"], rtol=1e-6)
    np.testing.assert_allclose(direction["layers"]["scale"], 3 * expected["layers"]["scale"], rtol=1e-6)
    np.testing.assert_array_equal(direction["embed"]["table"], 0)
    shapes = [leaf.shape for leaf in jax.tree.leaves(optimizer.init(params))]
    assert params["embed"]["table"].shape not in shapes


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"freeze": ("nothing_like_it",)}, "nothing_like_it"),
        ({"multipliers": (("layers", 2.0), ("layers/up", 3.0))}, r"\['layers/up'\], or an earlier pattern"),
        ({"freeze": ("",)}, "at least one parameter to train"),
    ],
)
def test_patterns_without_effect_are_refused_by_name(config, message):
    with pytest.raises(ValueError, match=message):
        build(**config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"momentum": 0.9}, "momentum is 0.9; it must be left out: 'adamw' has no momentum"),
        ({"decay": 0.1}, "decay is 0.1; it must be left out: schedule 'cosine'"),
        ({"schedule": "constant", "final": 0.1}, "final is 0.1; it must be left out"),
        ({"schedule": "wsd", "warmup": 0.5, "decay": 0.6}, "decay is 0.6; it must be a share"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"warmup": 1.0}, "warmup is 1.0"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
        ({"multipliers": (("a", 0.0),)}, "use `freeze`"),
        ({"kind": "sgd"}, "kind is 'sgd'"),
    ],
)
def test_settings_that_cannot_work_or_have_no_effect_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**config)


def test_muon_takes_hidden_matrices_and_decay_takes_all_matrices():
    assert muon_dims(("layers", "embed", "mlp")) == ((1,), (2,))
    assert muon_dims(("layers", "experts", "mlp", "embed")) == ((2,), (3,))
    assert muon_dims(("heads", "head_dim", "embed")) == ((0, 1), (2,))
    assert muon_dims(("embed", "experts")) == ((0,), (1,))  # a router
    assert muon_dims(("layers", "vision", "heads", "head_dim")) == ((1,), (2, 3))
    for axes in [("vocab", "embed"), ("layers", "embed"), ("layers", "heads"), ("embed", "state"), ("head_dim",)]:
        assert muon_dims(axes) is None, axes
    for axes in [("embodiment", "vector", "embed"), ("embed", "heads", "head_dim"), ("vision_in", "embed")]:
        assert is_decayed(axes), axes
    for axes in [
        ("vocab", "embed"),
        ("layers", "embed"),
        ("embodiment", "embed"),
        ("embed", "state"),
        ("chunk", "embed"),
        ("patch", "vision"),
        ("layers", "heads", "head_dim"),  # a bias
    ]:
        assert not is_decayed(axes), axes


def test_a_parameter_without_logical_axes_is_refused():
    with pytest.raises(ValueError, match=r"no logical axes are known for the parameters .'embed/table'"):
        build_optimizer(OptimizerConfig(), 10, tiny.init()[0], {})
