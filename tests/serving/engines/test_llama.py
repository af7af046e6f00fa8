"""llama.cpp computes from an exported GGUF file what this stack computes, and splits text as its vocabulary does.

    KINEMA_LLAMA_PYTHON=/path/to/python python -m pytest -m slow tests/serving/engines/test_llama.py

The interpreter has llama-cpp-python.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.vocabulary import Vocabulary
from model import dense
from serving.interchange.gguf_file import export_gguf
from tests.serving.engines.models import (
    MODELS,
    NUM_TOKENS,
    PROMPTS,
    apart,
    ask,
    checkpoint_of,
    engine,
    ours,
    vocabulary_of,
)
from tests.serving.interchange.test_tokenizer_json import TEXTS
from tests.serving.interchange.test_tokenizer_json import vocabulary_of as tokenizer_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compilation")]


def float16_gelu(x: jax.Array) -> jax.Array:
    """llama.cpp's: a table of float16 for the arguments between -10 and 10."""
    half = x.astype(jnp.float16).astype(jnp.float32)
    looked_up = jax.nn.gelu(half, approximate=True).astype(jnp.float16).astype(jnp.float32)
    return jnp.where(x <= -10, 0, jnp.where(x >= 10, x, looked_up)).astype(x.dtype)


@pytest.fixture(scope="module")
def python():
    pytest.importorskip("gguf", reason="needs the gguf library")
    return engine("KINEMA_LLAMA_PYTHON", "llama_cpp")


@functools.cache
def own_vocabulary() -> Vocabulary:
    return vocabulary_of()


@pytest.mark.parametrize("name", MODELS)
def test_log_probabilities_and_greedy_continuations_are_ours_within_the_error_of_its_gelu(
    name, python, tmp_path, monkeypatch
):
    checkpoint = checkpoint_of(tmp_path / "run", MODELS[name], own_vocabulary())
    export_gguf(checkpoint, tmp_path / "model.gguf")
    prompts = [[own_vocabulary().bos_id, *own_vocabulary().encode(prompt)] for prompt in PROMPTS]
    request = {"prompts": prompts, "num_tokens": NUM_TOKENS}
    found = ask(python, "llama_logprobs.py", tmp_path / "model.gguf", tmp_path, request)["rows"]
    exact = ours(checkpoint, [row["prompt_ids"] + row["ids"] for row in found], num_tokens=1)
    pairs = [(a["prompt_logprobs"] + a["logprobs"], b["prompt_logprobs"]) for a, b in zip(found, exact, strict=True)]
    alone = np.concatenate([np.abs(np.subtract(a, b)) for a, b in pairs])
    monkeypatch.setitem(dense.ACTIVATIONS, "gelu", float16_gelu)
    jax.clear_caches()
    expected = ours(checkpoint, prompts)
    jax.clear_caches()
    assert [row["ids"] for row in found] == [row["ids"] for row in expected]
    with_its_gelu = apart(found, expected)
    print(f"{name}: {alone.max():.1e} apart at most, {alone.mean():.1e} in the mean; with its GELU {with_its_gelu:.1e}")
    assert with_its_gelu <= 5e-3
    assert alone.mean() <= 1e-2


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "q8_0"])
def test_narrower_weights_compute_about_the_same(dtype, python, tmp_path):
    checkpoint = checkpoint_of(tmp_path / "run", MODELS["gemma3"], own_vocabulary())
    export_gguf(checkpoint, tmp_path / "model.gguf", dtype=dtype)
    prompts = [[own_vocabulary().bos_id, *own_vocabulary().encode(prompt)] for prompt in PROMPTS]
    found = ask(python, "llama_logprobs.py", tmp_path / "model.gguf", tmp_path, {"prompts": prompts, "num_tokens": 0})
    pairs = zip(found["rows"], ours(checkpoint, prompts, num_tokens=1), strict=True)
    mean = np.mean([np.abs(np.subtract(a["prompt_logprobs"], b["prompt_logprobs"])).mean() for a, b in pairs])
    print(f"{dtype}: log-probabilities differ by {mean:.1e} in the mean")
    assert 0 < mean < {"bfloat16": 0.02, "float16": 0.004, "q8_0": 0.05}[dtype]


@pytest.mark.parametrize("name", ["own", "gemma", "llama", "unigram"])
def test_text_is_split_as_the_vocabulary_splits_it(name, python, tmp_path):
    vocabulary = tokenizer_of(name)
    vocabulary = Vocabulary(vocabulary.model)
    config = MODELS["gemma3"]
    export_gguf(checkpoint_of(tmp_path / "run", config, vocabulary), tmp_path / "model.gguf")
    texts = [text for text in TEXTS if "\0" not in text]
    found = ask(python, "llama_logprobs.py", tmp_path / "model.gguf", tmp_path, {"prompts": [], "texts": texts})
    for text, ids in zip(texts, found["ids"], strict=True):
        assert ids == vocabulary.encode(text), text
