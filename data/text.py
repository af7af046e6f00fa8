"""Text as a source: documents cut into pieces of one sequence length, continued and never cut off."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Literal

import numpy as np

from data.elements import Document, Tokens
from data.records import TextFiles
from data.token_cache import tokenised
from data.vocabulary import Vocabulary


class TextSource:
    """Pieces of at most `sequence_length` slots of the documents in `files`: bos, text, eos.

    A longer document continues in the next piece, which begins with the last token of the one before, unweighted: so
    over its pieces every token after bos is a target exactly once. bos stands only at the beginning, eos at the end.

    holdout: share of documents kept out of split "train" and given by split "validation" (see `token_cache.split`).
    weight: of every target.
    Raises ValueError for bad settings, an empty split, or more than `max_corrupt` unreadable records.
    """

    def __init__(
        self,
        files: TextFiles,
        vocabulary: Vocabulary,
        sequence_length: int,
        cache_dir: str | pathlib.Path,
        split: Literal["train", "validation"] = "train",
        holdout: float = 0.0,
        weight: float = 1.0,
        max_corrupt: int = 0,
    ):
        if sequence_length < 2:
            raise ValueError(f"sequence_length must be at least 2 (a token and its target), got {sequence_length}")
        if split not in ("train", "validation"):
            raise ValueError(f"split must be train or validation, got {split!r}")
        if not 0 <= holdout < 1:
            raise ValueError(f"holdout must be in [0, 1), got {holdout}")
        self._vocabulary, self._sequence_length, self._weight = vocabulary, sequence_length, weight
        self._cache = cache = tokenised(files, vocabulary, holdout, cache_dir)
        self.corrupt = cache.corrupt
        if len(cache.corrupt) > max_corrupt:
            listed = "\n  ".join(cache.corrupt[:5])
            raise ValueError(
                f"{len(cache.corrupt)} unreadable records, max_corrupt is {max_corrupt}:\n  {listed}\nRepair them or "
                "raise max_corrupt"
            )
        self._documents_D = np.flatnonzero(cache.held_out == (split == "validation"))
        if len(self._documents_D) == 0:
            raise ValueError(
                f"split {split!r} of {', '.join(files.paths)} is empty: {len(cache.held_out)} documents with holdout "
                f"{holdout}; change holdout, or cut the text into more documents with separator"
            )
        self._lengths_D = np.diff(cache.offsets)[self._documents_D] + 2  # with bos and eos
        self._ends_D = np.cumsum(-(-(self._lengths_D - 1) // (sequence_length - 1)))  # in pieces

    @property
    def num_bytes(self) -> int:
        """Bytes of UTF-8 in this split, for losses in bits per byte."""
        return int(self._cache.num_bytes[self._documents_D].sum())

    def texts(self) -> Iterator[str]:
        """The documents of this split as text, for models of another kind on the same split."""
        for d in range(len(self._documents_D)):
            yield self._vocabulary.decode(self._ids(d).tolist())

    def __len__(self) -> int:
        return int(self._ends_D[-1])

    def costs(self) -> np.ndarray:
        """int32[N,3]: slots of every piece; no images, no vectors."""
        pieces_D = np.diff(self._ends_D, prepend=0)
        slots_N = np.full(len(self), self._sequence_length)
        slots_N[self._ends_D - 1] = self._lengths_D - (pieces_D - 1) * (self._sequence_length - 1)
        return np.stack([slots_N, np.zeros_like(slots_N), np.zeros_like(slots_N)], axis=1).astype(np.int32)

    def __getitem__(self, index: int) -> Document:
        if not 0 <= index < len(self):
            raise IndexError(f"piece {index} of {len(self)}")
        d = int(np.searchsorted(self._ends_D, index, side="right"))
        piece = index - int(self._ends_D[d - 1] if d else 0)
        start = piece * (self._sequence_length - 1)
        stop = min(start + self._sequence_length, int(self._lengths_D[d]))
        # In the document with bos at 0, the cached ids begin at 1.
        ids = [self._ids(d)[max(start - 1, 0) : stop - 1]]
        if start == 0:
            ids.insert(0, np.array([self._vocabulary.bos_id]))
        if stop == self._lengths_D[d]:
            ids.append(np.array([self._vocabulary.eos_id]))
        ids_n = np.concatenate(ids).astype(np.int32)
        weights_n = np.full(len(ids_n), self._weight, np.float32)
        weights_n[0] = 0
        return (Tokens(ids_n, weights_n),)

    def _ids(self, d: int) -> np.ndarray:
        document = self._documents_D[d]
        return self._cache.tokens[self._cache.offsets[document] : self._cache.offsets[document + 1]]
