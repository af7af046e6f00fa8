"""Answers drawn with caches against the forward pass of training on rows without padding."""

import dataclasses

import jax
import numpy as np
import pytest

from configs.schema import parse
from data.elements import Tokens
from model.config import ModelConfig
from model.layers import unstacked
from model.model import join
from tests.model.weights import random_states
from tests.serving.random_text import small_vocabulary, unpadded
from tests.train.tiny_config import ATTENTION, model
from train.objectives.policy import text_log_softmax
from train.rollout.sampler import Sampler

pytestmark = pytest.mark.usefixtures("quick_compilation")
NUM_TOKENS = 6
PROMPTS = ("We know", "Speak, speak to me of what", "I")
LAYERS = {"num_layers": 3, "pattern": ("recurrent", "local", "global"), "local_attention": ATTENTION | {"window": 4}}


@pytest.fixture(scope="module")
def vocabulary():
    return small_vocabulary()


@pytest.fixture(scope="module")
def config():
    return parse(ModelConfig, model(**LAYERS))


@pytest.fixture(scope="module")
def states(config, vocabulary):
    """graph, params, buffers"""
    return random_states(config, vocabulary.size, seed=4, std=0.4)


@pytest.fixture(scope="module")
def sampler(config, vocabulary):
    return Sampler(config, vocabulary, prompt_slots=12, num_tokens=NUM_TOKENS)


@pytest.fixture(scope="module")
def prompts(vocabulary):
    encoded = [[vocabulary.bos_id, *vocabulary.encode(text)] for text in PROMPTS]
    return [(Tokens(np.array(ids, np.int32), np.zeros(len(ids), np.float32)),) for ids in encoded]


def seeds(shape, first=0):
    return np.arange(first, first + np.prod(shape)).reshape(shape)


@pytest.fixture(scope="module")
def drawn(sampler, states, prompts):
    return sampler.draw(*states[1:], prompts, seeds((3, 4)))


def test_its_log_probabilities_are_those_of_training_to_1e_4(drawn, states, vocabulary, prompts):
    graph, params, buffers = states

    @jax.jit
    def logprobs(batch):
        module = join(graph, params, buffers)
        return text_log_softmax(module, vocabulary.text_size)(module(batch).hidden_BTD[0])

    lengths = set()
    for (prompt,), samples in zip(prompts, drawn, strict=True):
        for sample in samples[:2]:
            ids = [*prompt.ids.tolist(), *sample.ids.tolist()]
            slots = np.arange(len(prompt.ids) - 1, len(ids) - 1)
            expected = np.asarray(logprobs(unpadded(ids)))[slots, sample.ids]
            np.testing.assert_allclose(sample.logprobs, expected, atol=1e-4)
            np.testing.assert_allclose(sample.logprob, expected.sum(), atol=1e-4)
            lengths.add(len(ids))
    assert len(lengths) > 1  # so some rows were padded


def test_an_answer_depends_on_its_prompt_and_seed_alone(drawn, sampler, states, prompts):
    alone = sampler.draw(*states[1:], prompts[1:2], seeds((1, 4), first=4))
    for sample, other in zip(alone[0], drawn[1], strict=True):
        np.testing.assert_array_equal(sample.ids, other.ids)
        np.testing.assert_allclose(sample.logprobs, other.logprobs, atol=1e-5)
        assert (sample.text, sample.ended) == (other.text, other.ended)
    assert len({sample.text for sample in drawn[1]}) > 1


def test_a_model_whose_layers_are_scanned_draws_the_same(vocabulary, prompts):
    four = parse(ModelConfig, model(num_layers=4))
    plain, scanned = (
        Sampler(dataclasses.replace(four, scan=scan), vocabulary, prompt_slots=12, num_tokens=2)
        for scan in (False, True)
    )
    _, params, buffers = random_states(four, vocabulary.size, seed=5, std=0.4)
    expected = plain.draw(unstacked(params, four), unstacked(buffers, four), prompts[:1], seeds((1, 2)))
    for one, other in zip(scanned.draw(params, buffers, prompts[:1], seeds((1, 2)))[0], expected[0], strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)


def test_text_tokens_alone_are_drawn_up_to_the_limit_or_the_end(drawn, vocabulary):
    for sample in (s for group in drawn for s in group):
        assert 1 <= len(sample.ids) == len(sample.logprobs) <= NUM_TOKENS
        assert (sample.ids < vocabulary.text_size).all()
        assert sample.ended == (sample.ids[-1] == vocabulary.eos_id)
        assert sample.ended or len(sample.ids) == NUM_TOKENS
        written = sample.ids[:-1] if sample.ended else sample.ids
        assert sample.text == vocabulary.decode(written.tolist(), continues=True)


def test_answers_follow_the_models_distribution(sampler, states, prompts, vocabulary):
    """Of 400 first tokens: the five most likely ones as often as they are probable."""
    graph, params, buffers = states
    module = join(graph, params, buffers)
    hidden_TD = module(unpadded(prompts[2][0].ids.tolist())).hidden_BTD[0]
    p_V = np.exp(np.asarray(text_log_softmax(module, vocabulary.text_size)(hidden_TD))[-1])
    first = np.array([sample.ids[0] for sample in sampler.draw(params, buffers, prompts[2:], seeds((1, 400)))[0]])
    for token in np.argsort(-p_V)[:5]:
        spread = np.sqrt(p_V[token] * (1 - p_V[token]) / 400)
        assert abs(np.mean(first == token) - p_V[token]) < 4 * spread


def test_at_temperature_zero_every_seed_gives_the_most_likely_answer(sampler, states, prompts):
    found = sampler.draw(*states[1:], prompts[:1], seeds((1, 3)), temperature=0.0)[0]
    assert len({sample.text for sample in found}) == 1


def test_nothing_of_the_parameters_is_kept(sampler, states, prompts):
    other = jax.tree.map(lambda x: 2 * x, states[1])
    first = sampler.draw(other, states[2], prompts[:1], seeds((1, 4)))[0]
    jax.tree.map(lambda x: x.delete(), other)
    again = sampler.draw(*states[1:], prompts[:1], seeds((1, 4)))[0]
    assert [s.text for s in first] != [s.text for s in again]
