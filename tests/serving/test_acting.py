"""Which head acts, and noise that belongs to an observation and not to a batch."""

import types

import jax
import numpy as np
import pytest

from serving.acting import head_of, noise_of


def heads(*names: str):
    return types.SimpleNamespace(**{name: object() if name in names else None for name in ("flow", "bins", "l1")})


@pytest.mark.parametrize(
    ("has", "objective", "tokens", "head"),
    [
        (("flow",), "flow", False, "flow"),
        (("flow", "bins", "l1"), "l1", False, "l1"),  # what the phase trained
        (("bins",), "local_decoder", True, "bins"),  # the only one
        (("flow", "bins"), "next_token", True, "tokens"),
        ((), "next_token", True, "tokens"),
        ((), "next_token", False, None),
        (("flow", "bins"), "next_token", False, None),
    ],
)
def test_the_head_that_acts_is_the_one_that_was_trained_or_the_only_one(has, objective, tokens, head):
    assert head_of(heads(*has), objective, tokens=tokens) == head


def test_noise_follows_from_the_number_of_an_observation_alone():
    key = jax.random.key(3)
    together = noise_of(key, np.array([4, 0, 9], np.uint32), (1, 2, 3))
    assert together.shape == (3, 1, 2, 3)
    for number, noise in zip((4, 0, 9), together, strict=True):
        np.testing.assert_array_equal(noise, noise_of(key, np.array([number], np.uint32), (1, 2, 3))[0])
    assert np.abs(together[0] - together[1]).max() > 0.1
