"""Transforms that know their inverse: the same objects in training, in evaluation and behind the server.

A sample is a dictionary with any of `images` and `goal` (tuples of uint8[H,W,3]), `instruction` (str), `proprio`
(float32[...,a]), `actions` (float32[...,C,a], absolute and in the robot's units before the first transform) and
`action_ids` (int32[...,C,a]). A transform touches the keys it knows and leaves the rest alone, so an observation
without actions goes through the same object as a training sample. A checkpoint carries `to_dict()`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from PIL import Image as PillowImage

from data.statistics import Statistics

Sample = dict[str, Any]
ABSOLUTE = -1  # of an action dim that is no offset


class Transform:
    """Base of all transforms: a frozen dataclass with `__call__`, `inverse` and a JSON form."""

    kinds: ClassVar[dict[str, type[Transform]]] = {}

    def __init_subclass__(cls) -> None:
        Transform.kinds[cls.__name__] = cls

    def __call__(self, sample: Sample) -> Sample:
        raise NotImplementedError

    def inverse(self, sample: Sample) -> Sample:
        raise NotImplementedError

    def to_dict(self) -> dict:
        """{"type": class name, field: value, ...} in plain JSON types."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # pyright: ignore
        return {"type": type(self).__name__, **{name: _to_plain(value) for name, value in fields.items()}}

    @staticmethod
    def from_dict(record: Mapping) -> Transform:
        """The transform a `to_dict` record describes. Raises ValueError for an unknown type or field."""
        record = dict(record)
        kind = record.pop("type", None)
        if kind == "RelativeActions" and "mask" in record:  # as the first checkpoints have it: a mask and a slice
            dims = range(*record.pop("state"))
            record["dims"] = [
                dim if relative else ABSOLUTE for dim, relative in zip(dims, record.pop("mask"), strict=True)
            ]
        if kind not in Transform.kinds:
            raise ValueError(f"transform type {kind!r} is unknown; known: {sorted(Transform.kinds)}")
        try:
            return Transform.kinds[kind](**{name: _from_plain(name, value) for name, value in record.items()})
        except TypeError as error:
            raise ValueError(f"transform {kind}: {error}; the record was written by another version") from None


def _to_plain(value: Any) -> Any:
    if isinstance(value, (Transform, Statistics)):
        return value.to_dict()
    return [_to_plain(v) for v in value] if isinstance(value, tuple) else value


def _from_plain(name: str, value: Any) -> Any:
    if name == "statistics":
        return Statistics.from_dict(value)
    if name == "transforms":
        return tuple(Transform.from_dict(v) for v in value)
    return tuple(value) if isinstance(value, list) else value


@dataclasses.dataclass(frozen=True)
class Compose(Transform):
    """Transforms in order; the inverse runs their inverses in reverse order."""

    transforms: tuple[Transform, ...]

    def __call__(self, sample: Sample) -> Sample:
        return functools.reduce(lambda s, transform: transform(s), self.transforms, sample)

    def inverse(self, sample: Sample) -> Sample:
        return functools.reduce(lambda s, transform: transform.inverse(s), reversed(self.transforms), sample)


@dataclasses.dataclass(frozen=True)
class RelativeActions(Transform):
    """Every action of a chunk becomes an offset from the state at prediction time, in the dims that say so.

    dims: for each action dim the dim of proprioception that it is counted from, or `ABSOLUTE` (a gripper, usually).
    Offsets are from the state now and not from step to step, so that errors do not add up (UMI, pi0).
    """

    dims: tuple[int, ...]

    def __post_init__(self):
        if not self.dims or min(self.dims) < ABSOLUTE:
            raise ValueError(
                f"RelativeActions: dims are {list(self.dims)}; give for each action dim a dim of proprioception, "
                f"counted from 0, or {ABSOLUTE} for one that stays absolute"
            )

    def _offset(self, sample: Sample) -> np.ndarray:
        proprio, width, dims = sample["proprio"], sample["actions"].shape[-1], np.array(self.dims)
        if width != len(dims) or proprio.shape[-1] <= dims.max():
            raise ValueError(
                f"RelativeActions: actions have {width} dims and proprio {proprio.shape[-1]}; dims {list(self.dims)} "
                f"were made for {len(dims)} actions: use the transform of this embodiment"
            )
        offset = np.where(dims == ABSOLUTE, 0, proprio[..., np.maximum(dims, 0)])
        return offset.astype(np.float32)[..., None, :]

    def __call__(self, sample: Sample) -> Sample:
        if "actions" not in sample:
            return sample
        return sample | {"actions": sample["actions"] - self._offset(sample)}

    def inverse(self, sample: Sample) -> Sample:
        if "actions" not in sample:
            return sample
        return sample | {"actions": sample["actions"] + self._offset(sample)}


@dataclasses.dataclass(frozen=True)
class Normalise(Transform):
    """Bring every feature of `statistics` to about [-1, 1] ("quantile": q01 -> -1, q99 -> 1) or to mean 0, deviation 1.

    Nothing is clipped, so the inverse is exact. A dim that never varies is shifted but not scaled. The statistics of
    actions must be those of the transformed actions: compute them after `RelativeActions`.
    """

    statistics: Statistics
    mode: str = "mean_std"

    def __post_init__(self):
        if self.mode not in ("mean_std", "quantile"):
            raise ValueError(f'Normalise: mode is {self.mode!r}; allowed are "mean_std" and "quantile"')

    @functools.cached_property
    def _shift_and_scale(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        found = {}
        for name, feature in self.statistics.features.items():
            if self.mode == "mean_std":
                shift, scale = np.array(feature.mean), np.array(feature.std)
            else:
                low, high = np.array(feature.q01), np.array(feature.q99)
                shift, scale = (low + high) / 2, (high - low) / 2
            varies = scale > 1e-6 * np.maximum(1, np.abs(shift))
            found[name] = (shift.astype(np.float32), np.where(varies, scale, 1).astype(np.float32))
        return found

    def _check(self, name: str, values: np.ndarray) -> np.ndarray:
        width = self.statistics.features[name].width
        if values.shape[-1] != width:
            raise ValueError(
                f"Normalise: {name} has {values.shape[-1]} dims, the statistics of embodiment "
                f"{self.statistics.embodiment!r} have {width}; use the statistics of this embodiment"
            )
        return values

    def __call__(self, sample: Sample) -> Sample:
        changed = {
            name: ((self._check(name, sample[name]) - shift) / scale).astype(np.float32)
            for name, (shift, scale) in self._shift_and_scale.items()
            if name in sample
        }
        return sample | changed

    def inverse(self, sample: Sample) -> Sample:
        changed = {
            name: (self._check(name, sample[name]) * scale + shift).astype(np.float32)
            for name, (shift, scale) in self._shift_and_scale.items()
            if name in sample
        }
        return sample | changed


@dataclasses.dataclass(frozen=True)
class Bins(Transform):
    """Continuous values to `num_bins` uniform bins over [low, high] and back to bin centres.

    Inside the range the round trip is off by at most half a bin; outside, values are clipped. With `mu_law=(mu, M)`
    values are first companded by sign(x) ln(|x| mu + 1) / ln(M mu + 1) (Gato, arXiv 2205.06175, Appendix B: mu = 100,
    M = 256) and the bins lie in the companded range. As a transform: `actions` to `action_ids`.
    """

    num_bins: int
    low: float = -1.0
    high: float = 1.0
    mu_law: tuple[float, float] | None = None

    def __post_init__(self):
        if self.num_bins < 2 or not self.low < self.high:
            raise ValueError(
                f"Bins: num_bins={self.num_bins}, low={self.low}, high={self.high}; needs num_bins >= 2 and low < high"
            )

    def encode(self, values: np.ndarray) -> np.ndarray:
        """int32 ids of finite values, same shape. Raises ValueError for NaN or infinity."""
        values = np.asarray(values, np.float64)
        if not np.isfinite(values).all():
            raise ValueError("Bins: values hold NaN or infinity, which no bin stands for; repair the record")
        if self.mu_law:
            mu, largest = self.mu_law
            values = np.sign(values) * np.log1p(np.abs(values) * mu) / np.log1p(largest * mu)
        ids = np.floor((values - self.low) / (self.high - self.low) * self.num_bins)
        return np.clip(ids, 0, self.num_bins - 1).astype(np.int32)

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """float32 bin centres, same shape. Raises ValueError for an id outside [0, num_bins)."""
        ids = np.asarray(ids)
        if ids.size and (ids.min() < 0 or ids.max() >= self.num_bins):
            raise ValueError(f"Bins: ids reach {ids.min()}..{ids.max()}, allowed are 0..{self.num_bins - 1}")
        values = self.low + (ids + 0.5) / self.num_bins * (self.high - self.low)
        if self.mu_law:
            mu, largest = self.mu_law
            values = np.sign(values) * np.expm1(np.abs(values) * np.log1p(largest * mu)) / mu
        return values.astype(np.float32)

    def __call__(self, sample: Sample) -> Sample:
        return sample | {"action_ids": self.encode(sample["actions"])} if "actions" in sample else sample

    def inverse(self, sample: Sample) -> Sample:
        return sample | {"actions": self.decode(sample["action_ids"])} if "action_ids" in sample else sample


@dataclasses.dataclass(frozen=True)
class ResizeImage(Transform):
    """Every image to height x width (bilinear with antialiasing). The inverse leaves images as they are."""

    height: int
    width: int

    def __call__(self, sample: Sample) -> Sample:
        shown = {name for name in ("images", "goal") if name in sample}
        return sample | {name: tuple(self._resize(pixels) for pixels in sample[name]) for name in shown}

    def _resize(self, pixels: np.ndarray) -> np.ndarray:
        if pixels.shape[:2] == (self.height, self.width):
            return pixels
        resized = PillowImage.fromarray(pixels).resize((self.width, self.height), PillowImage.Resampling.BILINEAR)
        return np.asarray(resized)

    def inverse(self, sample: Sample) -> Sample:
        return sample
