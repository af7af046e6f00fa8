"""Normalisation statistics: computed once from a dataset, carried by a checkpoint, never recomputed at serving time."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


def describe(values_NA: np.ndarray) -> dict[str, np.ndarray]:
    """Minimum, maximum, mean, standard deviation, count and exact quantiles of every dim over the first axis.

    values_NA: numbers [N,A] with N >= 1. Returns float64[A] arrays, and `count` as int64[1]. Quantiles interpolate
    linearly. Raises ValueError when there are no values or one of them is not finite.
    """
    values_NA = np.asarray(values_NA, np.float64)
    if values_NA.ndim != 2 or not len(values_NA):
        raise ValueError(f"statistics need values of shape [N,A] with N >= 1, got shape {values_NA.shape}")
    if not np.isfinite(values_NA).all():
        row, dim = np.argwhere(~np.isfinite(values_NA))[0]
        raise ValueError(f"statistics: row {row} dim {dim} is {values_NA[row, dim]}; remove or repair that frame")
    quantiles = np.quantile(values_NA, list(QUANTILES.values()), axis=0)
    return {
        "min": values_NA.min(axis=0),
        "max": values_NA.max(axis=0),
        "mean": values_NA.mean(axis=0),
        "std": values_NA.std(axis=0),
        "count": np.array([len(values_NA)]),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }


@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
    """Statistics of one feature, a number per dim (population standard deviation)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    min: tuple[float, ...]
    max: tuple[float, ...]
    q01: tuple[float, ...]
    q99: tuple[float, ...]
    count: int

    @classmethod
    def from_values(cls, values_NA: np.ndarray) -> FeatureStatistics:
        """Exact statistics of values [N,A]; see `describe` for errors."""
        found = describe(values_NA)
        per_dim = {f.name: tuple(found[f.name].tolist()) for f in dataclasses.fields(cls) if f.name != "count"}
        return cls(**per_dim, count=int(found["count"][0]))

    @classmethod
    def from_dict(cls, record: Mapping) -> FeatureStatistics:
        per_dim = {f.name: tuple(record[f.name]) for f in dataclasses.fields(cls) if f.name != "count"}
        if len({len(values) for values in per_dim.values()}) != 1:
            raise ValueError(f"statistics: widths differ { {name: len(v) for name, v in per_dim.items()} }")
        return cls(**per_dim, count=record["count"])

    @property
    def width(self) -> int:
        return len(self.mean)


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Statistics of every continuous feature of one embodiment, keyed by the feature's name in a sample.

    Two sets of statistics are never merged: the quantiles of a union do not follow from the quantiles of its parts.
    Concatenate the values and compute once.
    """

    embodiment: str
    features: Mapping[str, FeatureStatistics]

    @classmethod
    def from_values(cls, embodiment: str, **values_NA: np.ndarray) -> Statistics:
        """Statistics of named features, each of shape [N,A]."""
        return cls(embodiment, {name: FeatureStatistics.from_values(values) for name, values in values_NA.items()})

    def to_dict(self) -> dict:
        """Plain JSON types; `from_dict` gives back an equal object."""
        features = {name: dataclasses.asdict(feature) for name, feature in self.features.items()}
        return {"embodiment": self.embodiment, "features": features}

    @classmethod
    def from_dict(cls, record: Mapping) -> Statistics:
        """The inverse of `to_dict`. Raises ValueError naming what is missing or has the wrong width."""
        try:
            features = {name: FeatureStatistics.from_dict(found) for name, found in record["features"].items()}
            return cls(record["embodiment"], features)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"statistics: the record is incomplete ({error}); compute it from the dataset") from None

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Statistics:
        return cls.from_dict(json.loads(text))
