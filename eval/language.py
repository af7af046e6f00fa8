"""What every text evaluation asks of a model: how likely is this text after that, and what comes next."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from data.batch import Batch
from data.elements import Tokens
from data.layout import RowShape, collate, lay_out
from data.vocabulary import Vocabulary
from model.heads.tokens import blockwise
from serving.decoder import Decoder
from serving.generate import complete
from serving.model import LoadedModel
from serving.sampling import Sampling

_SHORTEST, _FEWEST = 32, 8  # slots of a row and targets of a row in the smallest compiled program
Request = tuple[Sequence[int], Sequence[int]]  # ids of a context, ids of its continuation


@dataclasses.dataclass(frozen=True)
class Score:
    """logprobs_n: float32, of every token of the continuation. greedy: whether each was the most likely text token."""

    logprobs_n: np.ndarray
    greedy: bool

    @property
    def logprob(self) -> float:
        return float(self.logprobs_n.sum(dtype=np.float64))


class LanguageModel(Protocol):
    """`context` is how many tokens the model was trained to see at once. Answers come in the order of the requests."""

    vocabulary: Vocabulary
    context: int

    def score(self, requests: Sequence[Request]) -> list[Score]: ...

    def generate(self, prompts: Sequence[Sequence[int]], num_tokens: int, stop: Sequence[str] = ()) -> list[str]: ...


class CheckpointModel:
    """A checkpoint as a `LanguageModel`: sorted by length, so that few programs are compiled and little is padding."""

    def __init__(self, loaded: LoadedModel, *, context: int | None = None, batch_tokens: int = 8192):
        """context: default, the slots that the phase trained with. batch_tokens: slots that are computed at once.

        Raises:
            ValueError: if either is below 1, or no context is given and the checkpoint does not say one.
        """
        context = context if context is not None else loaded.phase.get("pipeline", {}).get("slots")
        if context is None:
            raise ValueError("the checkpoint does not say how many tokens its model was trained to see; give --context")
        for field, value in (("context", context), ("batch_tokens", batch_tokens)):
            if value < 1:
                raise ValueError(f"{field} is {value}; allowed: 1 or more")
        self.loaded, self.context, self.batch_tokens = loaded, context, batch_tokens
        self.vocabulary = loaded.vocabulary

    @functools.cached_property
    def decoder(self) -> Decoder:
        return Decoder(self.loaded)

    def take_weights(self, loaded: LoadedModel) -> None:
        """Goes on with other weights of the same model; the compiled programs stay."""
        self.loaded = loaded
        self.decoder.loaded = loaded.layer_by_layer()

    def score(self, requests: Sequence[Request]) -> list[Score]:
        """The log-probability of each continuation, over all ids that the model can predict.

        Raises:
            ValueError: for a context without tokens: a first token has no probability.
        """
        empty = next((i for i, (context, _) in enumerate(requests) if len(context) == 0), None)
        if empty is not None:
            raise ValueError(f"context {empty} has no tokens; begin it with the token <bos>")
        scores: list[Score | None] = [None] * len(requests)
        for indices, B, T in _by_length([len(c) + len(x) for c, x in requests], self.batch_tokens):
            batch, slot_BK, target_BK = self._lay_out([requests[i] for i in indices], B, T)
            out = self._score(self.loaded.params, self.loaded.buffers, batch, slot_BK, target_BK)
            logprob_BK, greedy_BK = (np.asarray(array) for array in out)
            for row, i in enumerate(indices):
                n = len(requests[i][1])
                scores[i] = Score(logprob_BK[row, :n], bool(greedy_BK[row, :n].all()))
        return scores  # type: ignore[return-value]

    def generate(self, prompts: Sequence[Sequence[int]], num_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        """What greedy decoding writes after each prompt, up to the first stop string or end-of-text."""
        texts = [""] * len(prompts)
        for indices, B, _ in _by_length([len(prompt) + num_tokens for prompt in prompts], self.batch_tokens):
            filled = [*indices, *[indices[-1]] * (B - len(indices))]  # always so many rows: one program
            documents = [(_text(prompts[i]),) for i in filled]
            greedy = [Sampling(temperature=0.0)] * B
            done = complete(self.decoder, documents, greedy, num_tokens=num_tokens, stop=stop)
            for i, completion in zip(indices, done, strict=False):
                texts[i] = completion.text
        return texts

    def _lay_out(self, requests: Sequence[Request], B: int, T: int) -> tuple[Batch, np.ndarray, np.ndarray]:
        """The batch, and for each row the slots that predict its continuation and what they should predict."""
        K = _round_up(max(len(continuation) for _, continuation in requests), _FEWEST)
        slot_BK, target_BK = np.zeros((2, B, K), np.int32)
        for row, (context, continuation) in enumerate(requests):
            n = len(continuation)
            slot_BK[row, :n] = np.arange(len(context) - 1, len(context) - 1 + n)
            target_BK[row, :n] = continuation
        shape = RowShape(slots=T, pad_id=self.vocabulary.pad_id)
        rows = [lay_out([(_text([*context, *continuation]),)], shape) for context, continuation in requests]
        return collate([*rows, *[lay_out([], shape)] * (B - len(rows))]), slot_BK, target_BK

    @functools.partial(jax.jit, static_argnums=0)
    def _score(self, params: Any, buffers: Any, batch: Batch, slot_BK: jax.Array, target_BK: jax.Array):
        model = self.loaded.module(params, buffers)
        hidden_BKD = jnp.take_along_axis(model(batch).hidden_BTD, slot_BK[..., None], axis=1)
        unembed = model.unembedding()

        def judge(hidden_ND, target_N):
            logits_NV = unembed(hidden_ND)
            logprob_N = jnp.take_along_axis(jax.nn.log_softmax(logits_NV), target_N[:, None], axis=-1)[:, 0]
            best_N = jnp.argmax(logits_NV[:, : self.vocabulary.text_size], axis=-1)
            return jnp.stack([logprob_N, best_N == target_N], axis=-1)

        judged_N2 = blockwise(judge, hidden_BKD.reshape(-1, hidden_BKD.shape[-1]), target_BK.reshape(-1))
        return judged_N2[:, 0].reshape(slot_BK.shape), judged_N2[:, 1].reshape(slot_BK.shape) > 0


def encode_prompt(vocabulary: Vocabulary, text: str) -> list[int]:
    """`<bos>` and the ids of a text."""
    return [vocabulary.bos_id, *vocabulary.encode(text)]


def encode_pair(vocabulary: Vocabulary, context: str, continuation: str) -> Request:
    """The ids of both as one text is encoded, parted where the context ends; spaces at its end begin the continuation.

    Cut where lm-evaluation-harness cuts, so that the figures mean the same.
    """
    bare = context.rstrip()
    continuation = context[len(bare) :] + continuation
    before, whole = (encode_prompt(vocabulary, text) for text in (bare, bare + continuation))
    return before, whole[len(before) :]


def _text(ids: Sequence[int]) -> Tokens:
    return Tokens(np.array(ids, np.int32), np.zeros(len(ids), np.float32))


def _by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[tuple[list[int], int, int]]:
    """Indices of one batch, its rows and their slots, longest first: what does not fit in memory shows at once."""
    most = 1 << (len(lengths) - 1).bit_length()
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    while order:
        T = _round_up(lengths[order[0]], _SHORTEST)
        B = max(1, min(most, batch_tokens // T))
        yield order[:B], B, T
        order = order[B:]


def _round_up(length: int, smallest: int) -> int:
    """The next power of two or three quarters of one that `smallest` divides: few programs, little padding."""
    power = max(smallest, 1 << (length - 1).bit_length())
    between = power * 3 // 4
    return between if length <= between and between % smallest == 0 else power
