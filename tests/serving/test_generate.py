"""Generation against forward passes of unpadded text, and against machines whose next token is known."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.schema import parse
from data.batch import Batch
from data.vocabulary import Vocabulary
from model.config import ModelConfig
from model.model import Output
from serving.generate import generate
from serving.model import LoadedModel
from tests.model.weights import random_states
from tests.train.tiny_config import TEXT, model

pytestmark = pytest.mark.usefixtures("quick_compilation")
STEPS = 3


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.train([TEXT.read_text()[:8000]], 384, num_codes=8)


@pytest.fixture(scope="module")
def loaded(vocabulary):
    config = parse(ModelConfig, model())
    return LoadedModel(config, vocabulary, {}, *random_states(config, vocabulary.size, seed=4, std=0.4))


def unpadded(ids: list[int]) -> Batch:
    """One row that holds nothing but these ids."""
    zeros = np.zeros((1, len(ids)), np.int32)
    tokens, positions = np.array([ids], np.int32), np.arange(len(ids), dtype=np.int32)[None]
    return Batch(tokens, zeros + 1, positions, zeros, zeros.astype("f4"), zeros + 1, {}, {})


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


@dataclasses.dataclass(frozen=True)
class Machine:
    """A model whose logits after token i are row i of `table_VV`; it stands in for a loaded one."""

    vocabulary: Vocabulary
    table_VV: np.ndarray
    params: None = None
    buffers: None = None

    def module(self, params, buffers):
        return self

    def __call__(self, batch):
        hidden = jax.nn.one_hot(batch.tokens, self.vocabulary.size)
        return Output(hidden, (), (), types.SimpleNamespace())

    def token_logits(self, hidden):
        return hidden @ jnp.array(self.table_VV)


def chain(vocabulary: Vocabulary, *follows: tuple[int, int]) -> Machine:
    """A machine that follows token a by token b."""
    table_VV = np.zeros((vocabulary.size, vocabulary.size), np.float32)
    for a, b in follows:
        table_VV[a, b] = 50.0
    return Machine(vocabulary, table_VV)


def letters(vocabulary: Vocabulary, text: str) -> list[int]:
    ids = [vocabulary.piece_id(letter) for letter in text]
    assert len(set(ids)) == len(text)
    return ids


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
        ({"num_tokens": 1, "temperature": -0.1}, r"temperature is -0\.1 \(0 or more\)"),
        ({"num_tokens": 0}, r"num_tokens 0 \(1 or more\)"),
    ],
)
def test_settings_that_cannot_work_are_refused(loaded, options, message):
    with pytest.raises(ValueError, match=message):
        generate(loaded, ["We"], **options)


def test_no_prompts_give_no_texts(loaded):
    assert generate(loaded, [], num_tokens=4) == []
