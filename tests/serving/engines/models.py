"""Checkpoints that serving engines can run, and what this stack computes with them.

Heads are 64 wide, as some engines have no narrower ones, and windows are short, so that a prompt leaves them.
"""

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from data.elements import Tokens
from data.vocabulary import Vocabulary
from model.config import AttentionConfig, DenseConfig, ModelConfig, MoEConfig, NormConfig
from serving.decoder import Decoder
from serving.generate import complete
from serving.model import LoadedModel
from serving.sampling import Sampling
from tests.model.weights import random_states
from tests.serving.interchange.folders import TEXT, logits_of, trained
from train.checkpoint import Checkpoint

NUM_TOKENS = 12
PROMPTS = ("First Citizen:\nBefore we proceed any further, hear me speak. Speak, speak.", "We know't, we know't.")
_ATTENTION = AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=64, window=16)
_MOE = MoEConfig(num_experts=4, top_k=2, hidden_dim=32, activation="gelu", router_norm=True, expert_scale=True)


def gemma3() -> ModelConfig:
    """Five layers, two of them over a window of 16 and a global one whose positions are scaled."""
    return ModelConfig(
        model_dim=64,
        num_layers=5,
        pattern=("local", "local", "global"),
        ffn=("dense",),
        local_attention=_ATTENTION,
        global_attention=dataclasses.replace(_ATTENTION, window=None, rope_base=1e6, rope_scale=8.0),
        dense=DenseConfig(96),
        norms="sandwich",
    )


def gemma4(*, experts: bool, tied_values: bool = False) -> ModelConfig:
    """Global layers have wider heads, of which a quarter of the pairs turn."""
    local = dataclasses.replace(_ATTENTION, query_scale=1.0, value_norm=True)
    wide = dataclasses.replace(local, window=None, head_dim=128, rope_base=1e6, rope_fraction=0.25)
    wide = dataclasses.replace(wide, num_kv_heads=1, tied_values=True) if tied_values else wide
    return ModelConfig(
        model_dim=64,
        num_layers=6,
        pattern=("local", "local", "global"),
        ffn=("dense_moe",) if experts else ("dense",),
        local_attention=local,
        global_attention=wide,
        dense=DenseConfig(96),
        moe=_MOE if experts else None,
        norm=NormConfig(offset=False),
        norms="sandwich",
        layer_scale=True,
        final_softcap=30.0,
    )


MODELS = {
    "gemma3": gemma3(),
    "gemma4_dense": gemma4(experts=False),
    "gemma4_moe": gemma4(experts=True),
    "gemma4_tied_values": gemma4(experts=True, tied_values=True),
}


def checkpoint_of(folder: Path, config: ModelConfig, vocabulary: Vocabulary) -> Checkpoint:
    """Random weights that write varied text: scales near 1, and layers that say more than the last token does."""

    def scaled(path, leaf):
        name = "/".join(str(key.key) for key in path)
        if name == "tokens/table":
            # Of symbols and bytes nothing is drawn: engines show bytes that are no UTF-8 each in its own way.
            silent = slice(vocabulary.bos_id + 1, vocabulary.piece_id("<0xFF>") + 1 if vocabulary.has_symbols else 0)
            return (0.3 * leaf).at[silent].set(0)
        if name == "norm/scale":
            return 5 + leaf
        is_factor = "scale" in name and not (config.norm.offset and "norm" in name)
        return 1 + 0.5 * leaf if is_factor else leaf

    _, params, buffers = random_states(config, vocabulary.size, seed=1, std=0.15)
    params, balanced = jax.tree_util.tree_map_with_path(scaled, params), jax.tree.map(np.zeros_like, buffers)
    return Checkpoint.open(trained(folder, config, params, vocabulary, balanced))


def vocabulary_of(size: int = 512) -> Vocabulary:
    return Vocabulary.train([TEXT], size)


def ours(checkpoint: Checkpoint, prompts: list[list[int]], num_tokens: int = NUM_TOKENS) -> list[dict]:
    """The rows of an engine's answer, by the cached decoder and the whole forward pass of this stack."""
    loaded = LoadedModel.of(checkpoint)
    documents = [(Tokens(np.array(ids, np.int32), np.zeros(len(ids), np.float32)),) for ids in prompts]
    rows = [Sampling(temperature=0.0)] * len(prompts)
    completions = complete(Decoder(loaded), documents, rows, num_tokens=num_tokens)
    found = []
    for ids, completion in zip(prompts, completions, strict=True):
        logits_TV = logits_of(loaded, [*ids, *completion.ids])
        logprobs_TV = np.asarray(jax.nn.log_softmax(logits_TV))
        own = [float(logprobs_TV[t, i]) for t, i in enumerate([*ids, *completion.ids][1:])]
        cut = len(ids) - 1
        found.append(
            {
                "prompt_ids": ids,
                "prompt_logprobs": own[:cut],
                "ids": completion.ids,
                "logprobs": own[cut:],
                "text": completion.text,
            }
        )
    return found


def engine(variable: str, module: str) -> str:
    """The interpreter that `variable` names. Skips the test where there is none with `module`."""
    python = os.environ.get(variable)
    if python is None:
        pytest.skip(f"{variable} names no interpreter with {module}")
    found = subprocess.run([python, "-c", f"import {module}"], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(f"{variable} is {python}, which has no {module}: {found.stderr.strip().splitlines()[-1]}")
    return python


def ask(python: str, script: str, path: Path, scratch: Path, request: dict) -> dict:
    """Runs a script of this folder in a process of its own."""
    (scratch / "request.json").write_text(json.dumps(request))
    files = [str(scratch / name) for name in ("request.json", "answer.json")]
    command = [python, str(Path(__file__).with_name(script)), str(path), *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((scratch / "answer.json").read_text())


def apart(rows: list[dict], others: list[dict]) -> float:
    """The largest difference between log-probabilities, of prompts and of what was drawn."""
    pairs = [(a[key], b[key]) for a, b in zip(rows, others, strict=True) for key in ("prompt_logprobs", "logprobs")]
    return max(float(np.abs(np.subtract(a, b)).max()) for a, b in pairs)
