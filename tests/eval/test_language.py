"""Scores and greedy texts of a checkpoint against forward passes of each text alone."""

import jax
import numpy as np
import pytest

from eval import language
from eval.language import CheckpointModel, encode_pair, encode_prompt
from tests.serving.random_text import random_model, small_vocabulary, unpadded

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def vocabulary():
    return small_vocabulary()


@pytest.fixture(scope="module")
def loaded(vocabulary):
    return random_model(vocabulary)


def log_softmax_alone(loaded, ids):
    @jax.jit
    def logprobs(batch):
        module = loaded.module(loaded.params, loaded.buffers)
        return jax.nn.log_softmax(module.token_logits(module(batch).hidden_BTD[0]))

    return np.asarray(logprobs(unpadded(ids)))


def test_scores_of_a_mixed_batch_are_those_of_each_text_alone(loaded, vocabulary):
    texts = [("We know", " nothing"), ("", "Speak"), ("What authority surfeits on would relieve us", ": if"), ("a", "")]
    requests = [encode_pair(vocabulary, *text) for text in texts]
    requests.append(([1], list(range(300, 350))))  # more targets than contexts of the others have slots
    scores = CheckpointModel(loaded, context=64, batch_tokens=256).score(requests)
    for (context, continuation), score in zip(requests, scores, strict=True):
        logprobs_TV = log_softmax_alone(loaded, [*context, *continuation])
        rows = np.arange(len(context) - 1, len(context) - 1 + len(continuation))
        assert score.logprobs_n == pytest.approx(logprobs_TV[rows, continuation], abs=1e-4)
        best = logprobs_TV[rows, : vocabulary.text_size].argmax(-1)
        assert score.greedy == (best.tolist() == list(continuation))
    assert scores[1].logprob == pytest.approx(scores[1].logprobs_n.sum(), abs=1e-4)


def test_what_it_writes_is_what_it_finds_most_likely(loaded, vocabulary):
    model = CheckpointModel(loaded, context=64, batch_tokens=128)
    prompts = [encode_prompt(vocabulary, text) for text in ("We know", "Speak, speak", "First Citizen: you are all")]
    texts = model.generate(prompts, num_tokens=2)
    assert all(texts)
    assert model.generate(prompts[:1], num_tokens=2) == texts[:1]
    ids: list[int] = []
    for _ in range(2):
        ids.append(int(log_softmax_alone(loaded, prompts[0] + ids)[-1, : vocabulary.text_size].argmax()))
    assert vocabulary.decode(ids) == texts[0]
    assert model.score([(prompts[0], ids)])[0].greedy


def test_few_programs_serve_all_lengths():
    shapes = {language._round_up(length, 32) for length in range(1, 4097)}
    assert len(shapes) == 14
    assert all(language._round_up(length, 32) < 1.5 * length for length in range(64, 4097))
    assert all(shape % 32 == 0 for shape in shapes)


def test_a_pair_is_parted_where_the_context_ends_and_spaces_go_to_the_continuation(vocabulary):
    context, continuation = encode_pair(vocabulary, "We know ", "thee")
    assert vocabulary.decode(context) == "We know"
    assert vocabulary.decode(continuation) == " thee"
    assert context[0] == vocabulary.bos_id


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give --context"),
        ({"context": 0}, "context is 0"),
        ({"context": 8, "batch_tokens": 0}, "batch_tokens is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(loaded, settings, message):
    with pytest.raises(ValueError, match=message):
        CheckpointModel(loaded, **settings)


def test_a_first_token_has_no_probability(loaded):
    with pytest.raises(ValueError, match="context 1 has no tokens"):
        CheckpointModel(loaded, context=8).score([([1], [5]), ([], [5])])
