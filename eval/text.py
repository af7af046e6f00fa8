"""Held-out text: bits per byte of a checkpoint beside a trigram model of the same corpus, and samples."""

from __future__ import annotations

import math

import jax
import numpy as np

from configs.schema import parse
from data.config import TextConfig
from data.layout import RowShape
from data.pipeline import one_pass
from data.text import TextSource
from eval.trigram import Trigram
from model.heads.tokens import blockwise
from serving.model import LoadedModel

SLOTS, ROWS = 256, 8
CACHE = ".cache/tokens"


def held_out(section: dict, loaded: LoadedModel, part: str) -> TextSource:
    """The training or validation part of a text source of the config."""
    return parse(TextConfig, section, "config.sources").build(loaded.vocabulary, SLOTS, CACHE, part)  # type: ignore


def nats_per_token(loaded: LoadedModel, source: TextSource) -> tuple[float, float]:
    """(mean nats a token, sum of nats over the source), every token predicted once from at most `SLOTS` before it."""

    @jax.jit
    def losses(params, buffers, batch):
        model = loaded.module(params, buffers)
        target_BT = jax.numpy.roll(batch.tokens, -1, axis=1)
        same_BT = batch.segment_ids == jax.numpy.roll(batch.segment_ids, -1, axis=1)
        weight_BT = jax.numpy.where(same_BT, jax.numpy.roll(batch.loss_weights, -1, axis=1), 0).at[:, -1].set(0) > 0

        def nll(hidden_ND, target_N):
            log_p_NV = jax.nn.log_softmax(model.token_logits(hidden_ND))
            return -jax.numpy.take_along_axis(log_p_NV, target_N[:, None], axis=-1)[:, 0]

        hidden_BTD = model(batch).hidden_BTD
        nll_N = blockwise(nll, hidden_BTD.reshape(-1, hidden_BTD.shape[-1]), target_BT.reshape(-1))
        return jax.numpy.sum(nll_N * weight_BT.reshape(-1)), jax.numpy.sum(weight_BT)

    shape = RowShape(slots=SLOTS, pad_id=loaded.vocabulary.pad_id)
    sums = [losses(loaded.params, loaded.buffers, batch) for batch in one_pass(source, shape, ROWS)]
    total, count = np.sum(np.array(sums, np.float64), axis=0)
    return float(total / count), float(total)


def bits_per_byte(total_nats: float, source: TextSource) -> float:
    return total_nats / math.log(2) / source.num_bytes


def trigram_bits_per_byte(train: TextSource, validation: TextSource) -> float:
    """The same figure for a byte-level trigram model fitted to the training part."""
    joined = lambda source: "".join(source.texts()).encode()  # noqa: E731
    return Trigram(joined(train)).bits_per_byte(joined(validation))
