"""The settings that decide what stands in each row of a phase's data."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from configs.schema import to_plain
from train.sections import completed

_NOT_OF_ROWS = ("batch_size", "max_corrupt", "num_threads", "num_workers", "prefetch")  # fields of `pipeline`
_PLACES = ("path", "paths", "root")  # a folder may move; other contents show in the rows themselves


def data_settings(config: ConfigDict, name: str) -> dict[str, Any]:
    """Seed, mixture, pipeline, sources and embodiments of phase `name`, JSON-able, every default spelled."""
    plain = to_plain(completed(config))
    phase = plain["phases"][name]
    sources = {source: plain["sources"][source] for source in phase["mixture"]}
    robots = {source["embodiment"] for source in sources.values() if "embodiment" in source}
    return {
        "seed": plain["seed"],
        "mixture": phase["mixture"],
        "pipeline": {k: v for k, v in phase["pipeline"].items() if k not in _NOT_OF_ROWS},
        "sources": {s: {k: v for k, v in source.items() if k not in _PLACES} for s, source in sources.items()},
        "embodiments": {robot: plain["embodiments"][robot] for robot in sorted(robots)},
    }
