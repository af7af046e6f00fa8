"""Answers drawn from a model in training, by the generation code and its caches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from data.elements import Document
from data.vocabulary import Vocabulary
from model.config import ModelConfig
from model.layers import unstacked
from model.model import create, split
from serving.decoder import Decoder, Rows
from serving.model import LoadedModel
from serving.prompts import as_rows, round_up
from serving.sampling import Draws, Sampling
from train.rollout.samples import Sample

_PROMPT, _CACHE = 32, 128  # lengths are rounded up to whole tiles of the kernels


class Sampler:
    """Draws from the model's own distribution over text tokens: temperature 1, nothing cut off.

    All calls with as many prompts and samples share one program, however long prompts and answers are. What is drawn
    depends on the parameters, the prompt and the seed, never on the other rows.

    placement: of arrays whose first dim counts rows; None = wherever the parameters are.
    """

    def __init__(
        self,
        config: ModelConfig,
        vocabulary: Vocabulary,
        *,
        prompt_slots: int,
        num_tokens: int,
        placement: Sharding | None = None,
    ):
        self._config, self._vocabulary, self._num_tokens = config, vocabulary, num_tokens
        self._prompt_slots = round_up(prompt_slots, _PROMPT)
        layerwise = dataclasses.replace(config, scan=False)  # as caches need it
        graph = split(jax.eval_shape(lambda: create(layerwise, vocabulary.size, 0)))[0]
        self._empty = LoadedModel(layerwise, vocabulary, {}, graph, {}, {})
        self._decoder = Decoder(self._empty)
        self._repeat = jax.jit(_repeat, static_argnums=1, out_shardings=placement)

    def draw(
        self,
        params: Any,
        buffers: Any,
        prompts: Sequence[Document],
        seeds: np.ndarray,
        *,
        temperature: float = 1.0,
    ) -> list[list[Sample]]:
        """An answer to each prompt for each of its seeds, uint32[P,n]; temperature 0 takes the most likely tokens."""
        P, n = seeds.shape
        assert len(prompts) == P
        params, buffers = (unstacked(tree, self._config) if self._config.scan else tree for tree in (params, buffers))
        decoder = self._decoder
        decoder.loaded = dataclasses.replace(self._empty, params=params, buffers=buffers)
        try:
            read = as_rows(prompts, self._vocabulary, self._prompt_slots)
            cache = self._empty.empty_cache(P, round_up(self._prompt_slots + self._num_tokens, _CACHE))
            last_BD, cache = decoder.read(read, cache)
            rows = self._repeat(decoder.ready(cache, last_BD, read, self._num_tokens), n)
            draws = Draws.of([Sampling(temperature, seed=int(seed)) for seed in seeds.reshape(-1)])
            _, drawn = decoder.decode(rows, draws, self._num_tokens)
            drawn = jax.device_get(drawn)
        finally:
            decoder.loaded = self._empty  # so that nothing holds on to parameters that the next step replaces
        found = [self._sample(ids, logprobs) for ids, logprobs in zip(drawn.ids_BN, drawn.logprobs_BN, strict=True)]
        return [found[p * n : (p + 1) * n] for p in range(P)]

    def _sample(self, ids_N: np.ndarray, logprobs_N: np.ndarray) -> Sample:
        length = int((ids_N >= 0).sum())
        ids = ids_N[:length]
        ended = bool(ids[-1] == self._vocabulary.eos_id)
        text = self._vocabulary.decode(ids[: length - ended].tolist(), continues=True)
        return Sample(ids, logprobs_N[:length], text, ended)


def _repeat(rows: Rows, times: int) -> Rows:
    """Each row so many times, one after the other: a prompt is read once for all its answers."""
    return jax.tree.map(lambda x: jnp.repeat(x, times, axis=0), rows)
