"""Generation against forward passes of unpadded text, and against machines whose next token is known."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from configs.schema import parse
from data.elements import Image, Tokens
from data.layout import RowShape, collate, lay_out
from model.config import ImageConfig, ModelConfig
from serving.decoder import Decoder
from serving.generate import complete, generate, main, stream
from serving.model import LoadedModel
from serving.sampling import Sampling
from tests.model.weights import random_states
from tests.serving.machine import Machine, chain, letters
from tests.serving.random_text import random_model, small_vocabulary, unpadded
from tests.train.tiny_config import model

pytestmark = pytest.mark.usefixtures("quick_compilation")
STEPS = 3


@pytest.fixture(scope="module")
def vocabulary():
    return small_vocabulary()


@pytest.fixture(scope="module")
def loaded(vocabulary):
    return random_model(vocabulary)


def test_greedy_text_is_the_step_by_step_argmax_of_unpadded_forward_passes(loaded, vocabulary):
    @jax.jit
    def logits(batch):
        module = loaded.module(loaded.params, loaded.buffers)
        return module.token_logits(module(batch).hidden_BTD[0, -1])

    prompts = ["We know", "Speak, speak"]
    assert len({len(vocabulary.encode(prompt)) for prompt in prompts}) == 2  # so the shorter row is padded
    expected = []
    for prompt in prompts:
        ids = [vocabulary.bos_id, *vocabulary.encode(prompt)]
        new: list[int] = []
        for _ in range(STEPS):
            new.append(int(np.argmax(logits(unpadded(ids + new))[: vocabulary.text_size])))
        assert vocabulary.eos_id not in new
        expected.append(vocabulary.decode(new))
    assert generate(loaded, prompts, num_tokens=STEPS, temperature=0) == expected
    assert all(expected)  # not the empty text


def test_text_ends_where_the_model_ends_it_each_row_by_itself(vocabulary):
    a, b, c, d = letters(vocabulary, "abcd")
    machine = chain(vocabulary, (a, b), (b, vocabulary.eos_id), (vocabulary.eos_id, c), (c, d), (d, a))
    assert generate(machine, ["a", "b", "c"], num_tokens=4, temperature=0) == ["b", "", "dab"]
    assert generate(machine, ["c"], num_tokens=2, temperature=0) == ["da"]


def test_codes_are_never_sampled(vocabulary):
    a, b = letters(vocabulary, "ab")
    machine = chain(vocabulary, (a, b))
    machine.table_VV[a, vocabulary.code_id(3)] = 100.0
    assert generate(machine, ["a"], num_tokens=1, temperature=0) == ["b"]
    assert generate(machine, ["a"], num_tokens=1, temperature=1.0) == ["b"]


def test_sampled_tokens_follow_the_tempered_distribution(vocabulary):
    """Of 300 rows, e^(1/T) : 1 choose b rather than c."""
    a, b, c = letters(vocabulary, "abc")
    table_VV = np.full((vocabulary.size, vocabulary.size), -100.0, np.float32)
    table_VV[a, b], table_VV[a, c] = 1.0, 0.0
    found = generate(Machine(vocabulary, table_VV), ["a"] * 300, num_tokens=1, temperature=0.5, seed=1)
    assert set(found) == {"b", "c"}
    p = 1 / (1 + np.exp(-2))
    assert abs(np.mean(np.array(found) == "b") - p) < 4 * np.sqrt(p * (1 - p) / 300)


def test_the_seed_alone_decides_what_is_sampled(loaded):
    options = {"num_tokens": 2, "temperature": 1.0}
    first, again, other = (generate(loaded, ["We know"], seed=seed, **options) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_tokens": 1, "temperature": -0.1}, r"temperature is -0\.1; allowed: 0 or more"),
        ({"num_tokens": 0}, r"num_tokens is 0 .*allowed: 1 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused(loaded, options, message):
    with pytest.raises(ValueError, match=message):
        generate(loaded, ["We"], **options)


def test_no_prompts_give_no_texts(loaded):
    assert generate(loaded, [], num_tokens=4) == []


# ---- prefill, log-probabilities, streaming, stop strings


def text_tokens(ids):
    return Tokens(np.array(ids, np.int32), np.zeros(len(ids), np.float32))


def test_log_probabilities_are_those_of_the_full_forward_pass_whatever_the_pieces(loaded, vocabulary):
    """Prompts longer than a piece and of unequal length; nothing about padding or pieces shows."""
    rng = np.random.default_rng(0)
    prompts = [(text_tokens([vocabulary.bos_id, *rng.integers(280, 384, n)]),) for n in (70, 33, 5)]
    rows = [Sampling(temperature=1.0, seed=i) for i in range(3)]
    completions = complete(Decoder(loaded, piece=32), prompts, rows, num_tokens=6)

    @jax.jit
    def logprobs(batch):
        module = loaded.module(loaded.params, loaded.buffers)
        logits = module.token_logits(module(batch).hidden_BTD[0])[:, : vocabulary.text_size]
        return jax.nn.log_softmax(logits)

    for (prompt,), completion in zip(prompts, completions, strict=True):
        ids = [*prompt.ids.tolist(), *completion.ids]
        expected = logprobs(unpadded(ids))[np.arange(len(prompt.ids) - 1, len(ids) - 1), completion.ids]
        np.testing.assert_allclose(completion.logprobs, expected, atol=2e-4)
    assert completions[0].ids == complete(Decoder(loaded), prompts[:1], rows[:1], num_tokens=6)[0].ids


def test_an_image_in_the_prompt_is_seen(vocabulary):
    sections = {"image": ImageConfig(height=16, width=16, patch_size=8, stem_dim=8)}
    config = dataclasses.replace(parse(ModelConfig, model()), robot=None, flow=None, **sections)
    loaded = LoadedModel(config, vocabulary, {}, *random_states(config, vocabulary.size, seed=4, std=0.4))
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    document = (text_tokens([vocabulary.bos_id]), Image(pixels, 4), text_tokens([300, 301]))
    (completion,) = complete(Decoder(loaded), [document], [Sampling(temperature=0)], num_tokens=3)
    ids = completion.ids

    def batch(new):
        shape = RowShape(slots=7 + len(new), images=1, image_size=(16, 16), image_id=vocabulary.piece_id("<image>"))
        return collate([lay_out([(*document[:2], text_tokens([300, 301, *new]))], shape)])

    module = loaded.module(loaded.params, loaded.buffers)
    logits = module.token_logits(module(batch(ids)).hidden_BTD[0, 6:-1])[:, : vocabulary.text_size]
    np.testing.assert_array_equal(np.argmax(logits, -1), ids)
    other = (document[0], Image(255 - pixels, 4), document[2])
    (changed,) = complete(Decoder(loaded), [other], [Sampling(temperature=0)], num_tokens=3)
    assert changed.logprobs != completion.logprobs


def test_streamed_text_only_grows_and_ends_as_the_whole_does(loaded):
    options = {"rows": [Sampling(temperature=1.0, seed=5)] * 2, "num_tokens": 12}
    prompts = ["We know", "Speak"]
    whole = complete(Decoder(loaded), prompts, **options)
    seen = ["", ""]
    for completions in stream(Decoder(loaded), prompts, block=1, **options):
        for i, completion in enumerate(completions):
            assert completion.text.startswith(seen[i])
            seen[i] = completion.text
    assert seen == [completion.text for completion in whole]
    assert all(completion.ended for completion in whole)


@pytest.mark.parametrize("block", [1, 3, 32])
def test_a_stop_string_ends_one_row_before_it_and_is_never_shown(vocabulary, block):
    a, b, c, d, e = letters(vocabulary, "abcde")
    machine = chain(vocabulary, (a, b), (b, c), (c, d), (d, e), (e, a))
    shown, last = [], []
    rows = [Sampling(temperature=0)] * 2
    for last in stream(Decoder(machine), ["a", "d"], rows, num_tokens=6, stop=["de", "zz"], block=block):
        shown.append(last[0].text)
    assert [completion.text for completion in last] == ["bc", "eabc"]
    assert [completion.ended for completion in last] == ["stop", "stop"]
    assert all("d" not in text for text in shown)


def test_a_character_of_several_tokens_is_shown_when_it_is_whole(vocabulary):
    snowman = [vocabulary.piece_id(f"<0x{byte:02X}>") for byte in "☃".encode()]
    (a,) = letters(vocabulary, "a")
    machine = chain(vocabulary, (a, snowman[0]), *itertools.pairwise(snowman), (snowman[-1], a))
    texts = [
        completions[0].text
        for completions in stream(Decoder(machine), ["a"], [Sampling(temperature=0)], num_tokens=5, block=1)
    ]
    assert texts == ["", "", "☃", "☃a", "☃a\N{REPLACEMENT CHARACTER}"]  # cut off by num_tokens


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop": ["x", ""]}, "stop holds an empty string"),
        ({"rows": [Sampling()] * 2}, "rows holds 2 settings for 1 prompts"),
        ({"prompts": [()]}, "prompt 0 is empty"),
    ],
)
def test_calls_that_cannot_work_are_refused(loaded, options, message):
    with pytest.raises(ValueError, match=message):
        complete(Decoder(loaded), **({"prompts": ["We"], "rows": [Sampling()], "num_tokens": 1} | options))


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"error: .*holds no finished checkpoint"):
        main([str(tmp_path), "We know"])
