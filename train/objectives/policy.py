"""What objectives on a policy's own answers share: log-probabilities, KL to the reference, entropy, what is logged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from data.batch import targets
from model.heads.tokens import positionwise
from model.model import Model, Output
from train.objectives.loss import Ratio

LOGGED = "log/"  # batch.values["log/<name>"] float32[B,2] is a (sum, weight) of each row, logged as <name>


@dataclasses.dataclass(frozen=True)
class Policy:
    """Of every slot, what concerns the token that it predicts; all over text tokens, at temperature 1, in nats.

    logprob_BT: log pi(token). kl_BT: KL(pi || reference), summed over the vocabulary, so it has no sampling noise of
    its own. divergence_BT: another one, as asked for. entropy_BT. weight_BT: 1 where the token belongs to an answer.
    """

    output: Output
    logprob_BT: jax.Array
    kl_BT: jax.Array
    divergence_BT: jax.Array
    entropy_BT: jax.Array
    weight_BT: jax.Array


Divergence = Callable[[jax.Array, jax.Array], jax.Array]  # of log pi and log reference, float32[N,V] each


def kl_divergence(log_p_NV: jax.Array, log_q_NV: jax.Array) -> jax.Array:
    """KL(p || q) float32[N] in nats."""
    return jnp.sum(jnp.exp(log_p_NV) * (log_p_NV - log_q_NV), axis=-1)


def evaluate_policy(
    model: Model, reference: Model, batch: Any, text_size: int, divergence: Divergence = kl_divergence
) -> Policy:
    """The policy and its reference on the same rows; `text_size`: ids from it on are codes, which are never drawn."""
    output, reference_BTD = model(batch), jax.lax.stop_gradient(reference(batch).hidden_BTD)
    target_BT, weight_BT = targets(batch)
    text_log_p, reference_log_p = text_log_softmax(model, text_size), text_log_softmax(reference, text_size)

    def terms(hidden_ND, reference_ND, target_N):
        log_p_NV, log_q_NV = text_log_p(hidden_ND), jax.lax.stop_gradient(reference_log_p(reference_ND))
        target_N1 = jnp.minimum(target_N, text_size - 1)[:, None]  # a code is no target of an answer
        logprob_N = jnp.take_along_axis(log_p_NV, target_N1, axis=-1)[:, 0]
        kl_N, divergence_N = kl_divergence(log_p_NV, log_q_NV), divergence(log_p_NV, log_q_NV)
        entropy_N = -jnp.sum(jnp.exp(log_p_NV) * log_p_NV, axis=-1)
        return jnp.stack([logprob_N, kl_N, divergence_N, entropy_N], axis=-1)

    found = positionwise(terms, output.hidden_BTD, reference_BTD, target_BT)
    logprob_BT, kl_BT, divergence_BT, entropy_BT = jnp.unstack(found, axis=-1)
    return Policy(output, logprob_BT, kl_BT, divergence_BT, entropy_BT, weight_BT)


def text_log_softmax(model: Model, text_size: int) -> Callable[[jax.Array], jax.Array]:
    """Hidden states [N,D] -> log p float32[N,V] of the text tokens, from which alone answers are drawn."""
    unembed = model.unembedding()
    return lambda hidden_ND: jax.nn.log_softmax(unembed(hidden_ND)[:, :text_size], axis=-1)


def policy_metrics(policy: Policy, batch: Any) -> dict[str, Ratio]:
    """`kl` to the reference in nats an answer, `entropy` in nats a token, `logprob_error`: how far the sampler's
    log-probabilities are from these, and what the rollout logged. Of the policy's own answers only."""
    own_B = batch.values["of_policy"]
    own_BT = policy.weight_BT * own_B[:, None]
    tokens, answers = jnp.sum(own_BT), jnp.sum(own_B)
    drawn_BT = jnp.roll(batch.values["logprob"], -1, axis=1)
    metrics = {
        "kl": (jnp.sum(own_BT * policy.kl_BT), answers),
        "entropy": (jnp.sum(own_BT * policy.entropy_BT), tokens),
        "logprob_error": (jnp.sum(own_BT * jnp.abs(policy.logprob_BT - drawn_BT)), tokens),
    }
    for name, value_B2 in batch.values.items():
        if name.startswith(LOGGED):
            metrics[name.removeprefix(LOGGED)] = (jnp.sum(value_B2[:, 0]), jnp.sum(value_B2[:, 1]))
    return metrics
