"""Text generation: temperature sampling of continuations, one forward pass over the whole row for each new token."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from data.elements import Tokens
from data.layout import RowShape, collate, lay_out
from serving.model import LoadedModel


def generate(
    loaded: LoadedModel, prompts: Sequence[str], *, num_tokens: int, temperature: float = 0.8, seed: int = 0
) -> list[str]:
    """The continuation of each prompt by up to `num_tokens` text tokens; ends at end-of-text.

    temperature: 0 takes the most likely token. Raises ValueError for a temperature below 0 or num_tokens below 1.
    """
    if temperature < 0 or num_tokens < 1:
        raise ValueError(f"temperature is {temperature} (0 or more) and num_tokens {num_tokens} (1 or more)")
    if not prompts:
        return []
    vocabulary = loaded.vocabulary
    prompt_ids = [[vocabulary.bos_id, *vocabulary.encode(prompt)] for prompt in prompts]
    length_B = np.array([len(ids) for ids in prompt_ids])
    shape = RowShape(slots=int(length_B.max()) + num_tokens, pad_id=vocabulary.pad_id)
    fill = [vocabulary.pad_id] * num_tokens  # inside the segment; causal mixers never look ahead at it
    rows = [Tokens(np.array(ids + fill, np.int32), np.zeros(len(ids) + num_tokens, np.float32)) for ids in prompt_ids]
    batch = collate([lay_out([(row,)], shape) for row in rows])

    @jax.jit
    def next_tokens(params, buffers, tokens_BT, last_B, key):
        model = loaded.module(params, buffers)
        hidden_BTD = model(dataclasses.replace(batch, tokens=tokens_BT)).hidden_BTD
        hidden_BD = jnp.take_along_axis(hidden_BTD, last_B[:, None, None], axis=1)[:, 0]
        logits_BV = model.token_logits(hidden_BD)
        logits_BV = jnp.where(jnp.arange(logits_BV.shape[1]) < vocabulary.text_size, logits_BV, -jnp.inf)
        if temperature == 0:
            return jnp.argmax(logits_BV, axis=-1)
        return jax.random.categorical(key, logits_BV / temperature)

    tokens_BT = np.array(batch.tokens)
    for step in range(num_tokens):
        key = jax.random.fold_in(jax.random.key(seed), step)
        chosen_B = next_tokens(loaded.params, loaded.buffers, tokens_BT, jnp.array(length_B + step - 1), key)
        tokens_BT[np.arange(len(prompts)), length_B + step] = np.asarray(chosen_B)
    return [
        vocabulary.decode(_until_end(row[start : start + num_tokens].tolist(), vocabulary.eos_id))
        for row, start in zip(tokens_BT, length_B, strict=True)
    ]


def _until_end(ids: list[int], eos_id: int) -> list[int]:
    return ids[: ids.index(eos_id)] if eos_id in ids else ids
