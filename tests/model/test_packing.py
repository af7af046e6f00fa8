"""Packing never leaks: a document in a packed row gives what it gives alone, through every mixer and head."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.config import AttentionConfig, DenseConfig, MoEConfig, RecurrentConfig
from model.model import join
from tests.model.documents import VOCAB, pack, robot_document
from tests.model.weights import random_states
from train.objectives import bins, flow, next_token

LENGTHS = (9, 12, 8)
pytestmark = pytest.mark.usefixtures("quick_compilation")


def single_mixer(config, mixer: str, ffn: str):
    """The config with one kind of mixer and feed-forward alone."""
    sections = {
        "local_attention": AttentionConfig(4, 2, 8, window=5) if mixer == "local" else None,
        "global_attention": AttentionConfig(4, 2, 8) if mixer == "global" else None,
        "recurrent": RecurrentConfig(16) if mixer == "recurrent" else None,
        "dense": DenseConfig(48) if ffn == "dense" else None,
        "moe": MoEConfig(4, 2, 24) if ffn == "moe" else None,
        "flow": None,
    }
    return dataclasses.replace(config, num_layers=2, pattern=(mixer,), ffn=(ffn,), **sections)


@pytest.fixture
def documents():
    rng = np.random.default_rng(0)
    return [robot_document(rng, length, i + 1) for i, length in enumerate(LENGTHS)]


@pytest.mark.parametrize("mixer", ["local", "global", "recurrent"])
@pytest.mark.parametrize("ffn", ["dense", "moe"])
def test_hidden_states_of_a_packed_document_equal_those_of_the_document_alone(hybrid, documents, mixer, ffn):
    graph, *state = random_states(single_mixer(hybrid, mixer, ffn), VOCAB)
    hidden = jax.jit(lambda batch: join(graph, *state)(batch).hidden_BTD[0])
    packed, start = hidden(pack(documents)), 0
    for document, length in zip(documents, LENGTHS, strict=True):
        np.testing.assert_allclose(packed[start : start + length], hidden(pack([document]))[:length], atol=2e-5)
        start += length


def test_losses_and_gradient_of_a_packed_row_equal_those_of_its_documents(hybrid, documents):
    """Totals add up. Router losses are means over a batch, so they are off here."""
    config = dataclasses.replace(hybrid, num_layers=6, moe=MoEConfig(4, 2, 24, balance_loss=0.0, z_loss=0.0))
    graph, params, buffers = random_states(config, VOCAB)

    @jax.jit
    def losses_and_gradient(params, batch):
        def both(params):
            model, key = join(graph, params, buffers), jax.random.key(0)
            totals = jnp.array([objective.loss(model, batch, key).total for objective in (next_token, bins)])
            return jnp.sum(totals), totals

        (_, totals), gradient = jax.value_and_grad(both, has_aux=True)(params)
        return totals, gradient

    totals, gradient = losses_and_gradient(params, pack(documents))
    alone = [losses_and_gradient(params, pack([document])) for document in documents]
    np.testing.assert_allclose(totals, sum(t for t, _ in alone), rtol=1e-5)
    summed = jax.tree.map(lambda *g: sum(g), *[g for _, g in alone])
    for ours, expected in zip(jax.tree.leaves(gradient), jax.tree.leaves(summed), strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-4 * (1 + np.abs(expected).max()))


def test_the_action_expert_sees_its_own_document_only(hybrid, documents):
    graph, *state = random_states(dataclasses.replace(hybrid, num_layers=3), VOCAB)

    @jax.jit
    def velocity(batch):
        model = join(graph, *state)
        prefix = model.action_prefix(model(batch, want_keys_values=True), batch.values)
        tau_BK = jnp.full(batch.values["action_slot"].shape, 0.3)
        return model.flow.velocity(batch.values["action"], tau_BK, batch.values["embodiment"], prefix)[0]

    packed = velocity(pack(documents))
    for k, document in enumerate(documents):
        np.testing.assert_allclose(packed[k], velocity(pack([document]))[0], atol=5e-5)


def test_flow_loss_ignores_actions_that_do_not_exist(hybrid, documents):
    graph, *state = random_states(dataclasses.replace(hybrid, num_layers=3), VOCAB)
    loss = jax.jit(lambda b: flow.loss(join(graph, *state), b, jax.random.key(0), options=flow.Options(samples=2)))
    batch = pack(documents)
    mask = batch.values["action_mask"].copy()
    mask[:, :, -1] = False
    clean, garbage = (
        loss(dataclasses.replace(batch, values=batch.values | {"action_mask": mask, "action": action}))
        for action in (batch.values["action"], batch.values["action"] + np.where(mask, 0, 1e3))
    )
    assert clean.weight == 2 * mask.sum()
    assert clean.total == garbage.total
