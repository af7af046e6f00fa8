"""A chunk of actions as discrete codes, to be predicted one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from data.transforms import Bins

# Gato, arXiv 2205.06175, Appendix B: sign(x) ln(|x| mu + 1) / ln(M mu + 1) with mu = 100 and M = 256.
MU_LAW = (100.0, 256.0)


class UndecodableActions(ValueError):
    """Codes that stand for no chunk: nothing takes its place, whoever acts on chunks keeps to an earlier one."""


class ActionCodes(Protocol):
    """How chunks become codes 0..num_codes-1 and back. Actions are transformed ones, float32[C,A]."""

    @property
    def num_codes(self) -> int: ...

    @property
    def sizes(self) -> np.ndarray:
        """int32[num_codes], above 0: how much of a chunk's `length` each code makes up."""
        ...

    def length(self, width: int) -> int:
        """What the sizes of a chunk's codes sum to, for actions of so many dims."""
        ...

    def first(self, num_codes: int) -> int:
        """Which of a vocabulary's codes is code 0."""
        ...

    def refuse_other_chunk(self, chunk_length: int) -> None:
        """Raises ValueError unless chunks of so many steps can be told."""
        ...

    def counts(self, parts: Iterable[np.ndarray], width: int) -> np.ndarray | int:
        """How many codes the chunks of actions of so many dims take: int[N] for parts [n,C,A], or one for all."""
        ...

    def encode(self, actions_CA: np.ndarray, valid_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes int32[n], and float32[n] from 0 to 1: how far each tells of steps that are valid."""
        ...

    def decode(self, codes: Sequence[int], width: int) -> np.ndarray:
        """float32[steps,width]. Raises UndecodableActions."""
        ...


@dataclasses.dataclass(frozen=True)
class StepCodes:
    """One code for each dim of the chunk's `steps`, step by step: uniform bins, companded or not (Gato, RT-1)."""

    steps: tuple[int, ...]
    bins: Bins

    @property
    def num_codes(self) -> int:
        return self.bins.num_bins

    @property
    def sizes(self) -> np.ndarray:
        return np.ones(self.num_codes, np.int32)

    def length(self, width: int) -> int:
        return len(self.steps) * width

    def first(self, num_codes: int) -> int:
        return 0

    def refuse_other_chunk(self, chunk_length: int) -> None:
        if any(not 0 <= step < chunk_length for step in self.steps):
            raise ValueError(f"token_steps {self.steps} lie outside 0..{chunk_length - 1}")

    def counts(self, parts: Iterable[np.ndarray], width: int) -> int:
        return self.length(width)

    def encode(self, actions_CA: np.ndarray, valid_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        steps = list(self.steps)
        shares = np.repeat(valid_C[steps], actions_CA.shape[1]).astype(np.float32)
        return self.bins.encode(actions_CA[steps]).reshape(-1), shares

    def decode(self, codes: Sequence[int], width: int) -> np.ndarray:
        if len(codes) != self.length(width):
            raise UndecodableActions(f"{len(codes)} action codes for {len(self.steps)} steps of {width} dims")
        if not all(0 <= code < self.num_codes for code in codes):
            raise UndecodableActions(f"an action code lies outside 0..{self.num_codes - 1}")
        return self.bins.decode(np.asarray(codes)).reshape(-1, width)
