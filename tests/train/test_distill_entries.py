"""Kept entries of a teacher against SciPy's entropy and against the gradient of the whole distribution."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from data.batch import Batch
from tests.train.given import Given
from train.distill_store.format import Description, decode, encode
from train.objectives import distill
from train.objectives.distill_entries import Entries, divergence, entropy, sample, top

pytestmark = pytest.mark.usefixtures("quick_compilation")
N, V, K, D = 6, 256, 16, 8
RNG = np.random.default_rng(0)
TEACHER_NV, STUDENT_NV = (jnp.array(RNG.normal(size=(N, V)) * scale, jnp.float32) for scale in (3, 2))
P_NV, S_NV = (scipy.special.softmax(np.asarray(x, "f8"), axis=-1) for x in (TEACHER_NV, STUDENT_NV))


def topk(num: int, logits_NV=TEACHER_NV) -> Entries:
    """As a store gives them: the entropy is that of the entries and the rest."""
    id_NK, log_p_NK, rest_N = top(logits_NV, num)
    all_NK = np.exp(np.concatenate([log_p_NK, rest_N[:, None]], axis=1))
    return Entries(id_NK, log_p_NK, rest_N, jnp.array(scipy.stats.entropy(all_NK, axis=1), jnp.float32))


def full_divergence(logits_NV):
    log_p_NV = jax.nn.log_softmax(TEACHER_NV)
    return jnp.sum(jnp.exp(log_p_NV) * (log_p_NV - jax.nn.log_softmax(logits_NV)), axis=-1)


def test_the_entropy_is_that_of_scipy():
    np.testing.assert_allclose(entropy(TEACHER_NV), scipy.stats.entropy(P_NV, axis=1), rtol=1e-5)


def test_every_share_of_draws_is_within_one_draw_of_the_probability_and_their_mean_is_it():
    uniform_U = (np.arange(400) + 0.5) / 400
    draw = jax.jit(jax.vmap(lambda u: sample(TEACHER_NV, jnp.full(N, u), K)))
    id_UNK = np.asarray(draw(jnp.array(uniform_U, jnp.float32)))
    assert (np.diff(id_UNK, axis=-1) >= 0).all()
    share_UNV = np.stack([[np.bincount(ids, minlength=V) / K for ids in row] for row in id_UNK])
    assert np.abs(share_UNV - P_NV).max() < 1 / K
    np.testing.assert_allclose(share_UNV.mean(0), P_NV, atol=1 / (K * 400) + 1e-6)


def test_what_a_teacher_never_says_is_never_drawn():
    logits = jnp.array([[-jnp.inf, 0.0, -jnp.inf, 1.0, -jnp.inf]])
    for u in (0.0, 0.5, 0.9999999):
        assert set(sample(logits, jnp.array([u]), 7).ravel().tolist()) <= {1, 3}


@pytest.mark.parametrize("num", [1, 5, 40])
def test_the_divergence_of_top_k_compares_k_outcomes_and_the_rest(num):
    """Teacher and student are reduced alike: SciPy's relative entropy of the same k + 1 outcomes."""
    kept_NK = np.argsort(-P_NV, axis=1)[:, :num]
    reduce = lambda p: np.concatenate(  # noqa: E731
        [np.take_along_axis(p, kept_NK, 1), 1 - np.take_along_axis(p, kept_NK, 1).sum(1, keepdims=True)], axis=1
    )
    expected_N = scipy.stats.entropy(reduce(P_NV), reduce(S_NV), axis=1)
    np.testing.assert_allclose(divergence(STUDENT_NV, topk(num)), expected_N, rtol=1e-4)
    assert (expected_N < full_divergence(STUDENT_NV)).all()


def test_top_k_of_all_but_one_is_the_whole_divergence_with_its_gradient():
    entries = topk(V - 1)
    of = lambda function: jax.jit(jax.value_and_grad(lambda logits: function(logits).sum()))(STUDENT_NV)  # noqa: E731
    (value, gradient), (whole, expected) = of(lambda logits: divergence(logits, entries)), of(full_divergence)
    np.testing.assert_allclose(value, whole, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize("num", [1, 40])
def test_a_student_equal_to_its_teacher_is_at_rest_under_top_k(num):
    """Were the teacher's k renormalised and the student's not, the student would be pushed onto the k."""
    total = lambda logits, entries: divergence(logits, entries).sum()  # noqa: E731
    value, gradient = jax.jit(jax.value_and_grad(total))(TEACHER_NV, topk(num))
    np.testing.assert_allclose(value, 0, atol=1e-5)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


# A model whose hidden states are given, so that the loss is that of the store alone.
T = 9
ROW = Batch(
    tokens=np.arange(T, dtype=np.int32),
    segment_ids=np.array([1, 1, 1, 1, 2, 2, 2, 2, 0], np.int32),
    positions=np.array([0, 1, 2, 3, 0, 1, 2, 3, 0], np.int32),
    span_ids=np.zeros(T, np.int32),
    loss_weights=np.array([0, 1, 1, 0.5, 0, 1, 2, 1, 0], np.float32),
    kinds=np.ones(T, np.int32),
    media={},
    values={},
)


def given(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return Given(*(jnp.array(rng.normal(size=size), jnp.float32) for size in ((1, T, D), (V, D))))


def described(kind: Any, num: int) -> Description:
    return Description(kind, num, 1, V, "", 0, {}, {}, "")


def as_batch(tree: Any) -> Any:
    return jax.tree.map(lambda x: x[None], tree)


@jax.jit
def online(student, teacher):
    options = distill.Options(alpha=1.0)
    loss = distill.loss(student, as_batch(ROW), jax.random.key(0), teacher=teacher, options=options)
    return loss.total / loss.weight, loss.metrics


@jax.jit
def offline(student, entries):
    options = distill.Options(alpha=1.0)
    loss = distill.loss(student, as_batch(ROW), jax.random.key(0), teacher=None, stored=entries, options=options)
    return loss.total / loss.weight, loss.metrics


def test_the_mean_gradient_of_stored_draws_is_that_of_the_whole_distribution():
    """Cosine of at least 0.99 over 200 stores, through the records as they are on disk."""
    student, teacher = given(1), given(2)
    logits_TV = teacher.token_logits(teacher.hidden_BTD[0])
    description, entropy_T = described("sampled", K), np.asarray(entropy(logits_TV))
    draw = jax.jit(lambda key: sample(logits_TV, jax.random.uniform(key, (T,)), K))
    gradient = jax.jit(jax.value_and_grad(lambda student, entries: offline(student, entries)[0]))
    mean, values = np.zeros(D * (T + V)), []
    for number in range(200):
        entries = Entries(np.asarray(draw(jax.random.key(number))), None, None, entropy_T)
        read = decode(description, ROW, encode(description, ROW, entries))
        value, of = gradient(student, as_batch(read))
        mean += np.concatenate([np.ravel(g) for g in jax.tree.leaves(of)]) / 200
        values.append(value)
    whole, of = jax.value_and_grad(lambda student: online(student, teacher)[0])(student)
    expected = np.concatenate([np.ravel(g) for g in jax.tree.leaves(of)])
    assert mean @ expected / np.linalg.norm(mean) / np.linalg.norm(expected) > 0.99
    np.testing.assert_allclose(np.linalg.norm(mean), np.linalg.norm(expected), rtol=0.05)
    np.testing.assert_allclose(np.mean(values), whole, rtol=0.01)  # the divergence itself is unbiased too


def test_stored_top_k_of_all_but_one_learns_as_with_the_teacher():
    student, teacher = given(1), given(2)
    description = described("topk", V - 1)
    entries = Entries(*map(np.asarray, top(teacher.token_logits(teacher.hidden_BTD[0]), V - 1)), None)
    read = decode(description, ROW, encode(description, ROW, entries))
    (value, metrics), (expected, of_teacher) = offline(student, as_batch(read)), online(student, teacher)
    np.testing.assert_allclose(value, expected, rtol=1e-3)
    np.testing.assert_allclose(metrics["kl/text"], of_teacher["kl/text"], rtol=1e-3)
    np.testing.assert_allclose(metrics["loss/text"], of_teacher["loss/text"], rtol=1e-6)
