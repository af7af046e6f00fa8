"""What is measured: shapes, random-normal data that is the same for everyone, and the work that counts.

Counted work is what the mathematics needs: allowed (query, key) pairs, rows of groups, and each input read and each
output written once. A backward pass of attention counts 2.5 forwards (5 matrix products to 2), one of a matrix product
2.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Literal

import numpy as np

Scale = Literal["full", "small"]
Arrays = dict[str, np.ndarray]

CHUNK = 1 << 22  # numbers drawn by one thread at a time
GRADIENT_OF = {"input gradient": 0, "weight gradient": 1}  # directions that ask for the gradient of one input


def normal(name: str, shape: tuple[int, ...], std: float = 1.0) -> np.ndarray:
    """float32 normal numbers that depend on the name and the shape alone."""
    values = np.empty(math.prod(shape), np.float32)

    def fill(start: int) -> None:
        random = np.random.default_rng((zlib.crc32(name.encode()), start))
        part = values[start : start + CHUNK]
        random.standard_normal(out=part, dtype=np.float32)
        part *= np.float32(std)

    with ThreadPoolExecutor() as threads:
        list(threads.map(fill, range(0, values.size, CHUNK)))
    return values.reshape(shape)


@dataclasses.dataclass(frozen=True)
class Case:
    """One operation on one shape; a subclass says which, what goes in and what counts.

    `operation` is the function of a peer's file that gives it. `dtype` is that of the arrays on the device. `unit` is
    of the counted rate: TFLOP/s, or GB/s where memory decides.
    """

    name: str
    directions: tuple[str, ...] = ("forward", "backward", "both")

    operation: ClassVar[str]
    outputs: ClassVar[tuple[str, ...]] = ("out",)
    dtype: ClassVar[str] = "bfloat16"
    unit: ClassVar[str] = "TFLOP/s"
    tolerance: ClassVar[float] = 2e-2  # of the norm of an error to the norm of the answer

    def inputs(self) -> Arrays:
        """The arrays that gradients flow to."""
        raise NotImplementedError

    def constants(self) -> Arrays:
        """Integer and mask arrays."""
        return {}

    def cotangents(self) -> Arrays:
        """What arrives at each output in the backward pass, by the output's name; empty where there is none."""
        return {}

    def work(self, direction: str) -> float:
        """Counted operations, or bytes, of a call."""
        raise NotImplementedError

    def slice_of(self, name: str, array):
        """The part of an input, constant, output or gradient that the check looks at: it depends on no other part."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Attention(Case):
    """Causal attention of one row of T tokens, in segments or with a window, which counts the query's own key."""

    tokens: int = 0
    num_heads: int = 16
    num_kv_heads: int = 8
    head_dim: int = 128
    window: int | None = None
    segments: tuple[int, ...] = ()

    operation = "attention"

    @property
    def scale(self) -> float:
        return self.head_dim**-0.5

    def inputs(self) -> Arrays:
        q = (1, self.tokens, self.num_heads, self.head_dim)
        k = (1, self.tokens, self.num_kv_heads, self.head_dim)
        return {name: normal(f"{self.name}/{name}", q if name == "q" else k) for name in "qkv"}

    def cotangents(self) -> Arrays:
        return {"out": normal(f"{self.name}/d_out", (1, self.tokens, self.num_heads, self.head_dim))}

    def constants(self) -> Arrays:
        lo_T, hi_T = self.interval()
        return {"lo": lo_T[None], "hi": hi_T[None]}

    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys [lo_t, hi_t) that query t may attend to."""
        t = np.arange(self.tokens, dtype=np.int32)
        lo = np.zeros_like(t) if self.window is None else np.maximum(t - self.window + 1, 0)
        return np.maximum(lo, self.segment_starts()), t + 1

    def segment_starts(self) -> np.ndarray:
        """First slot of each slot's segment, int32[T]."""
        lengths = self.segments or (self.tokens,)
        return np.repeat(np.cumsum((0, *lengths[:-1])), lengths).astype(np.int32)

    def work(self, direction: str) -> float:
        lo_T, hi_T = self.interval()
        forward = float(np.sum(hi_T - lo_T, dtype=np.int64)) * 4 * self.num_heads * self.head_dim
        return forward * {"forward": 1, "backward": 2.5, "both": 3.5}[direction]

    def slice_of(self, name: str, array):
        """The last key/value head and its queries."""
        if name in ("lo", "hi"):
            return array
        return array[:, :, -1:] if name in ("k", "v") else array[:, :, -(self.num_heads // self.num_kv_heads) :]


@dataclasses.dataclass(frozen=True)
class Scan(Case):
    """The resettable scan over complex channels with a constant coefficient, float32 planes."""

    tokens: int = 0
    channels: int = 0
    num_segments: int = 16

    operation = "scan"
    outputs = ("h_re", "h_im")
    dtype = "float32"
    unit = "GB/s"
    tolerance = 1e-4

    def inputs(self) -> Arrays:
        random = np.random.default_rng(zlib.crc32(self.name.encode()))
        decay = np.exp(-np.exp(random.uniform(np.log(1e-3), np.log(1e-1), self.channels)))
        angle = random.uniform(0, np.pi, self.channels)
        a = {"a_re": decay * np.cos(angle), "a_im": decay * np.sin(angle)}
        shape = (1, self.tokens, self.channels)
        x = {name: normal(f"{self.name}/{name}", shape) for name in ("x_re", "x_im")}
        return {name: value.astype(np.float32) for name, value in a.items()} | x

    def cotangents(self) -> Arrays:
        shape = (1, self.tokens, self.channels)
        return {name: normal(f"{self.name}/d_{name}", shape) for name in self.outputs}

    def constants(self) -> Arrays:
        random = np.random.default_rng(0)
        starts = random.choice(self.tokens, self.num_segments, replace=False)
        keep_T = np.ones(self.tokens, np.float32)
        keep_T[starts] = 0
        return {"keep": keep_T[None]}

    def work(self, direction: str) -> float:
        """Forward reads x and writes h; backward reads h and its gradient and writes that of x."""
        array = 2 * 4.0 * self.tokens * self.channels
        return array * {"forward": 2, "backward": 3, "both": 5}[direction]

    def slice_of(self, name: str, array):
        """The last 64 channels."""
        return array if name == "keep" else array[..., -64:]


@dataclasses.dataclass(frozen=True)
class GroupedMatmul(Case):
    """Rows sorted by expert times the expert's matrix: one product of a dropless mixture."""

    num_experts: int = 0
    top_k: int = 0
    model_dim: int = 0
    hidden_dim: int = 0  # of one expert; gate and up stand side by side
    tokens: int = 0
    directions: tuple[str, ...] = ("forward", "input gradient", "weight gradient")

    operation = "grouped_matmul"
    outputs = ("y",)

    @property
    def num_rows(self) -> int:
        return self.tokens * self.top_k

    def inputs(self) -> Arrays:
        D = self.model_dim
        w = normal(f"{self.name}/w", (self.num_experts, D, 2 * self.hidden_dim), D**-0.5)
        return {"x": normal(f"{self.name}/x", (self.num_rows, D)), "w": w}

    def cotangents(self) -> Arrays:
        return {"y": normal(f"{self.name}/d_y", (self.num_rows, 2 * self.hidden_dim))}

    def constants(self) -> Arrays:
        return {"sizes": self.sizes()}

    @functools.cache  # noqa: B019  (cases live as long as the program)
    def sizes(self) -> np.ndarray:
        """Rows of each expert, int32[E]: what a random router of normal logits does, so no multiples of a tile."""
        random = np.random.default_rng(1)
        logits_E = 0.3 * random.normal(size=self.num_experts)
        share_E = np.exp(logits_E) / np.exp(logits_E).sum()
        return random.multinomial(self.num_rows, share_E).astype(np.int32)

    def work(self, direction: str) -> float:
        return 2.0 * self.num_rows * self.model_dim * 2 * self.hidden_dim

    def checked_experts(self) -> tuple[int, ...]:
        return tuple(sorted({0, self.num_experts // 2, self.num_experts - 1}))

    def slice_of(self, name: str, array):
        """The first expert, the middle one and the last."""
        experts = list(self.checked_experts())
        if name not in ("x", "y"):
            return array[np.array(experts)]
        ends_E = np.cumsum(self.sizes())
        rows = np.concatenate([np.arange(ends_E[e] - self.sizes()[e], ends_E[e]) for e in experts])
        return array[rows]


@dataclasses.dataclass(frozen=True)
class Experts(GroupedMatmul):
    """The whole feed-forward of the experts: gate and up, SwiGLU, down; three matrix products forward."""

    directions: tuple[str, ...] = ("forward", "both")

    operation = "experts"

    def inputs(self) -> Arrays:
        D, F = self.model_dim, self.hidden_dim
        return {
            "x": normal(f"{self.name}/x", (self.num_rows, D)),
            "gate_up": normal(f"{self.name}/gate_up", (self.num_experts, D, 2 * F), D**-0.5),
            "down": normal(f"{self.name}/down", (self.num_experts, F, D), F**-0.5),
        }

    def cotangents(self) -> Arrays:
        return {"y": normal(f"{self.name}/d_y", (self.num_rows, self.model_dim))}

    def work(self, direction: str) -> float:
        forward = 2.0 * self.num_rows * self.model_dim * 3 * self.hidden_dim
        return forward * {"forward": 1, "both": 3}[direction]


@dataclasses.dataclass(frozen=True)
class Decode(Case):
    """One new token for each sequence against a full ring-buffer cache; every slot is seen."""

    batch: int = 0
    slots: int = 0
    num_heads: int = 16
    num_kv_heads: int = 8
    head_dim: int = 128
    directions: tuple[str, ...] = ("forward",)

    operation = "decode"
    unit = "GB/s"

    @property
    def scale(self) -> float:
        return self.head_dim**-0.5

    def inputs(self) -> Arrays:
        q = (self.batch, 1, self.num_heads, self.head_dim)
        k = (self.batch, self.slots, self.num_kv_heads, self.head_dim)
        return {name: normal(f"{self.name}/{name}", q if name == "q" else k) for name in "qkv"}

    def constants(self) -> Arrays:
        """Slot s of a ring holds the last position that is s modulo the number of slots."""
        length_B1 = self.slots + np.random.default_rng(2).integers(0, self.slots, (self.batch, 1))
        slot_S = np.arange(self.slots)
        position_BS = length_B1 - 1 - (length_B1 - 1 - slot_S) % self.slots
        arrays = {"position": position_BS, "lo": length_B1 - self.slots, "hi": length_B1}
        return {name: array.astype(np.int32) for name, array in arrays.items()}

    def work(self, direction: str) -> float:
        return 2 * 2.0 * self.batch * self.slots * self.num_kv_heads * self.head_dim

    def slice_of(self, name: str, array):
        """The last two sequences."""
        return array[-2:]


@dataclasses.dataclass(frozen=True)
class Matmul(Case):
    """A square product through the framework's own library: the ceiling of arithmetic."""

    size: int = 0
    directions: tuple[str, ...] = ("forward",)

    operation = "matmul"

    def inputs(self) -> Arrays:
        shape = (self.size, self.size)
        return {"x": normal("matmul/x", shape), "w": normal("matmul/w", shape, self.size**-0.5)}

    def work(self, direction: str) -> float:
        return 2.0 * self.size**3

    def slice_of(self, name: str, array):
        return array[-64:] if name != "w" else array


@dataclasses.dataclass(frozen=True)
class Copy(Case):
    """A copy inside the device's memory, bytes read plus bytes written: the ceiling of bandwidth."""

    size: int = 0
    directions: tuple[str, ...] = ("forward",)

    operation = "copy"
    dtype = "float32"
    unit = "GB/s"
    tolerance = 0.0

    def inputs(self) -> Arrays:
        return {"x": normal("copy/x", (self.size,))}

    def work(self, direction: str) -> float:
        return 2 * 4.0 * self.size

    def slice_of(self, name: str, array):
        return array[-1024:]
