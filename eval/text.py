"""Held-out text: bits per byte of a checkpoint beside a trigram model of the same corpus, and samples."""

from __future__ import annotations

import math

import jax
import numpy as np

from configs.schema import parse
from data.batch import targets
from data.config import TextConfig
from data.layout import RowShape
from data.pipeline import one_pass
from data.text import TextSource
from eval.trigram import Trigram
from model.heads.tokens import token_nll
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
        target_BT, weight_BT = targets(batch)
        nll_BT = token_nll(model, model(batch).hidden_BTD, target_BT)
        return jax.numpy.sum(nll_BT * (weight_BT > 0)), jax.numpy.sum(weight_BT > 0)

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
