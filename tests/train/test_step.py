import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train import tiny
from train.optimizer import OptimizerConfig, build_optimizer
from train.step import NORM_HISTORY, Aux, TrainState, make_step


def start(*, ema=0.0, config=None, loss_fn=tiny.loss_fn, **options):
    params, buffers = tiny.init()
    optimizer = build_optimizer(config or OptimizerConfig(learning_rate=0.01), 50, params, tiny.AXES)
    state = TrainState.create(params, buffers, optimizer, ema=ema > 0)
    return state, make_step(loss_fn, optimizer, seed=3, ema=ema, **options)


def quiet_loss(params, buffers, batch, key):
    """The tiny loss without its noise, so that cutting a batch cannot change it."""
    del key
    return tiny.loss_fn(params, buffers, batch, jax.random.key(0))


def copy(tree):
    return jax.tree.map(np.array, tree)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_step_is_the_optimizers_update_of_the_mean_loss():
    state, step = start(config=OptimizerConfig(learning_rate=0.01, schedule="constant", b1=0.8, b2=0.9))
    params, buffers, batch = copy(state.params), copy(state.buffers), tiny.batch(0, 0, 6)
    key = jax.random.fold_in(jax.random.key(3), 0)

    def mean(params):
        total, aux = tiny.loss_fn(params, buffers, batch, key)
        return total / aux.weight

    loss, grads = jax.value_and_grad(mean)(params)
    reference = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.01, 0.8, 0.9))
    updates, _ = reference.update(grads, reference.init(params), params)
    state, metrics = step(state, batch)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        state.params,
        optax.apply_updates(params, updates),
    )
    assert np.divide(*metrics["loss"]) == pytest.approx(float(loss), rel=1e-6)
    assert metrics["gradient_norm"][0] == pytest.approx(float(optax.tree.norm(grads)), rel=1e-5)
    assert metrics["learning_rate"][0] == pytest.approx(0.01)
    assert metrics["tokens"][0] == np.sum(batch.segment_ids != 0)


def test_accumulated_microbatches_equal_the_big_batch():
    batch, results = tiny.batch(0, 0, 12), []
    for accumulate in (1, 3, 12):
        state, step = start(loss_fn=quiet_loss, accumulate=accumulate, config=OptimizerConfig(eps=1.0))
        results.append(step(state, batch))
    for state, metrics in results[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state, results[0][0])
        means, expected = ({k: np.divide(*m) for k, m in x.items() if np.all(m[1])} for x in (metrics, results[0][1]))
        assert means.keys() == expected.keys()
        for name, mean in means.items():
            np.testing.assert_allclose(mean, expected[name], rtol=1e-5, err_msg=name)


def test_a_batch_that_microbatches_do_not_divide_is_refused():
    state, step = start(accumulate=5)
    with pytest.raises(ValueError, match="accumulate is 5; the batch of 12 rows"):
        step(state, tiny.batch(0, 0, 12))


def test_a_batch_with_a_nan_changes_nothing_but_the_counters():
    state, step = start(ema=0.9)
    state, _ = step(state, tiny.batch(0, 0, 4))
    before, bad = copy(state), tiny.batch(0, 4, 4)
    bad.loss_weights[1, 2] = np.nan
    state, metrics = step(state, bad)
    for field in ("params", "buffers", "opt_state", "ema"):
        assert_equal(getattr(state, field), getattr(before, field))
    assert (state.step, state.guard.skipped, state.guard.skipped_in_a_row) == (2, 1, 1)
    assert metrics["skipped_in_a_row"][0] == 1
    state, _ = step(state, tiny.batch(0, 8, 4))
    assert (state.guard.skipped, state.guard.skipped_in_a_row) == (1, 0)


def test_a_spike_of_the_gradient_is_skipped_once_there_is_a_history():
    def loss(params, buffers, batch, key):
        total, aux = tiny.loss_fn(params, buffers, batch, key)
        scale = jnp.where(batch.tokens[0, 0] == 15, 1000.0, 1.0)
        return total * scale, aux

    state, step = start(loss_fn=loss, spike_factor=10.0)
    spike = tiny.batch(0, 0, 4)
    spike.tokens[0, 0] = 15
    state, _ = step(state, spike)
    assert state.guard.skipped == 0  # nothing to compare with yet
    state, step = start(loss_fn=loss, spike_factor=10.0)
    for i in range(NORM_HISTORY):
        state, _ = step(state, tiny.batch(0, 4 * i, 4))
    before = copy(state.params)
    state, _ = step(state, spike)
    assert state.guard.skipped == 1
    assert_equal(state.params, before)


def test_the_moving_average_follows_its_recurrence():
    state, step = start(ema=0.75)
    expected = copy(state.params)
    for i in range(3):
        state, _ = step(state, tiny.batch(0, 4 * i, 4))
        expected = jax.tree.map(lambda e, p: 0.75 * e + 0.25 * np.asarray(p), expected, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state.ema, expected)


def test_randomness_depends_on_the_step_alone():
    state, step = start()
    early, late = copy(state), dataclasses.replace(copy(state), step=np.int32(1))
    batch = tiny.batch(0, 0, 4)
    losses = [step(jax.tree.map(jnp.asarray, s), batch)[1]["loss"][0].item() for s in (early, early, late)]
    assert losses[0] == losses[1] != losses[2]


def test_frozen_parameters_stay_bit_identical_and_cost_no_gradient():
    state, step = start(config=OptimizerConfig(freeze=("^embed", "^out"), weight_decay=0.1))
    before = copy(state.params)
    state, _ = step(state, tiny.batch(0, 0, 4))
    assert_equal(state.params["embed"], before["embed"])
    assert_equal(state.params["out"], before["out"])
    assert np.any(np.asarray(state.params["layers"]["up"]) != before["layers"]["up"])


def test_a_batch_without_targets_has_loss_zero_and_leaves_adamw_without_decay_in_place():
    state, step = start()
    before, batch = copy(state.params), tiny.batch(0, 0, 4)
    batch.loss_weights[:] = 0
    state, metrics = step(state, batch)
    assert (metrics["loss"][0], metrics["skipped"][0]) == (0, 0)
    assert_equal(state.params, before)


def test_constants_reach_the_loss_without_entering_the_state():
    def loss(params, buffers, batch, key, teacher):
        total = jnp.sum((params["out"]["kernel"] - teacher) ** 2)
        return total, Aux(jnp.float32(1), {}, buffers)

    teacher = jnp.ones((tiny.WIDTH, tiny.VOCAB))
    state, step = start(loss_fn=loss, constants=(teacher,))
    expected = float(jnp.sum((state.params["out"]["kernel"] - 1) ** 2))
    _, metrics = step(state, tiny.batch(0, 0, 4))
    assert metrics["loss"][0] == pytest.approx(expected, rel=1e-5)
