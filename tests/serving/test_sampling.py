"""What each setting lets through, against distributions worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from serving.sampling import Draws, Sampling, draw

P_V = np.array([0.4, 0.05, 0.3, 0.05, 0.2])
NUM = 4000


def frequencies(settings, p_V=P_V):
    """How often each token is drawn by NUM rows with seeds of their own."""
    rows = [Sampling(**settings, seed=seed) for seed in range(NUM)]
    logits_BV = jnp.broadcast_to(jnp.log(p_V), (NUM, p_V.size))
    ids = jax.jit(draw)(logits_BV, jnp.zeros(NUM, jnp.int32), Draws.of(rows))
    return np.bincount(ids, minlength=p_V.size) / NUM


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"temperature": 1.0}, P_V),
        ({"temperature": 0.5}, P_V**2 / (P_V**2).sum()),
        ({"temperature": 0.0}, [1, 0, 0, 0, 0]),
        ({"temperature": 1.0, "top_k": 2}, [4 / 7, 0, 3 / 7, 0, 0]),
        ({"temperature": 1.0, "top_k": 99}, P_V),
        ({"temperature": 1.0, "top_p": 0.65}, [4 / 7, 0, 3 / 7, 0, 0]),  # 0.4 alone does not hold 0.65
        ({"temperature": 1.0, "top_p": 0.75}, [4 / 9, 0, 3 / 9, 0, 2 / 9]),
        ({"temperature": 1.0, "top_p": 1e-6}, [1, 0, 0, 0, 0]),
        ({"temperature": 1.0, "top_k": 2, "top_p": 0.5}, [1, 0, 0, 0, 0]),  # of the two left, 4 / 7 holds a half
        ({"temperature": 0.5, "top_p": 0.6}, [16 / 25, 0, 9 / 25, 0, 0]),  # 0.16 / 0.295 = 0.54 does not hold 0.6
    ],
    ids=str,
)
def test_tokens_are_drawn_from_the_cut_and_tempered_distribution(settings, expected):
    expected = np.asarray(expected, float)
    error = 4.5 * np.sqrt(np.maximum(expected * (1 - expected), 0) / NUM)
    np.testing.assert_array_less(np.abs(frequencies(settings) - expected), error + 1e-12)


def test_rows_with_unlike_settings_share_one_batch():
    rows = [Sampling(temperature=0), Sampling(temperature=1, top_k=1), Sampling(temperature=1, seed=3)]
    logits_BV = jnp.broadcast_to(jnp.log(P_V), (3, 5))
    drawn = np.stack([draw(logits_BV, jnp.full(3, n), Draws.of(rows)) for n in range(30)])
    assert (drawn[:, :2] == 0).all()
    assert len(set(drawn[:, 2])) > 2


def test_a_row_draws_the_same_whoever_stands_beside_it():
    row, other = Sampling(temperature=1, seed=11), Sampling(temperature=1, seed=12)
    logits_BV = jnp.broadcast_to(jnp.log(P_V), (2, 5))
    together = [int(draw(logits_BV, jnp.full(2, n), Draws.of([other, row]))[1]) for n in range(12)]
    alone = [int(draw(logits_BV[:1], jnp.full(1, n), Draws.of([row]))[0]) for n in range(12)]
    assert together == alone
    assert len(set(alone)) > 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1}, r"temperature is -1; allowed: 0 or more"),
        ({"top_k": -1}, r"top_k is -1; allowed: 0 \(all\) or more"),
        ({"top_p": 0.0}, r"top_p is 0\.0; allowed: above 0, at most 1"),
        ({"top_p": 1.1}, r"top_p is 1\.1; allowed: above 0, at most 1"),
        ({"seed": -1}, r"seed is -1; allowed: 0 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)
