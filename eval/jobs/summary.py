"""What the records of a job come to: rates with intervals, shifts beside the unshifted episodes, two checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eval.envs.shifted import Kind
from eval.jobs.episodes import CONTROLS, NORMAL
from eval.journal import Record
from eval.paired import Comparison, compare
from eval.wilson import wilson_interval


def summarise(records: Sequence[Record], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """success: a row for each task, arm and condition. conditions: each over all tasks and arms and, where the normal
    condition was run, in pairs with it. kinds: the shifts of each kind together."""
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record["task"], record["arm"], record["condition"]), []).append(record)
    names = ("task", "arm", "condition")
    success = [dict(zip(names, key, strict=True)) | rate(members) for key, members in groups.items()]
    conditions = list(dict.fromkeys(record["condition"] for record in records))
    rows = [_condition(name, records, kinds) for name in conditions]
    pooled = [_kind(kind, records, kinds) for kind in dict.fromkeys(kinds.values())]
    return {"success": success, "conditions": rows, "kinds": [row for row in pooled if row["episodes"]]}


def rate(records: Sequence[Record]) -> dict[str, Any]:
    """Episodes, successes and the 95 % Wilson interval of the rate."""
    successes = sum(record["success"] for record in records)
    low, high = wilson_interval(successes, len(records))
    return {"episodes": len(records), "successes": successes, "low": low, "high": high}


def paired(first: Iterable[Record], second: Iterable[Record], key=lambda record: record["id"]) -> Comparison | None:
    """Episodes that both have, by `key`; None where there is none."""
    others = {key(record): record["success"] for record in second}
    pairs = [(record["success"], others[key(record)]) for record in first if key(record) in others]
    return compare([a for a, _ in pairs], [b for _, b in pairs]) if pairs else None


def compare_jobs(first: Sequence[Record], second: Sequence[Record], kinds: Mapping[str, Kind]) -> list[dict[str, Any]]:
    """Rows of two checkpoints on the same episodes: all but the controls, the normal ones, each kind of shift, each
    shift, each task and arm."""
    asked = [record for record in first if record["condition"] not in CONTROLS]
    parts: list[tuple[str, str, list[Record]]] = [("all", "", asked)]
    parts += [("condition", NORMAL, [record for record in asked if record["condition"] == NORMAL])]
    for kind in dict.fromkeys(kinds.values()):
        parts.append(("kind", kind, [record for record in asked if kinds.get(record["condition"]) == kind]))
    for shift in kinds:
        parts.append(("condition", shift, [record for record in asked if record["condition"] == shift]))
    for task in dict.fromkeys(record["task"] for record in asked):
        parts.append(("task", task, [record for record in asked if record["task"] == task]))
    for arm in dict.fromkeys(record["arm"] for record in asked):
        parts.append(("arm", arm, [record for record in asked if record["arm"] == arm]))
    rows = [(scope, name, paired(members, second)) for scope, name, members in parts]
    return [{"scope": scope, "name": name} | dataclasses.asdict(found) for scope, name, found in rows if found]


def _condition(name: str, records: Sequence[Record], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    members = [record for record in records if record["condition"] == name]
    kind = kinds.get(name, "control" if name in CONTROLS else NORMAL)
    return {"condition": name, "kind": kind} | rate(members) | _beside_normal(members, records)


def _kind(kind: Kind, records: Sequence[Record], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    members = [record for record in records if kinds.get(record["condition"]) == kind]
    return {"kind": kind} | rate(members)


def _beside_normal(members: Sequence[Record], records: Sequence[Record]) -> dict[str, Any]:
    """The paired difference from the same episodes as they are, where there are some."""
    normal = [record for record in records if record["condition"] == NORMAL]
    key = lambda record: (record["task"], record["arm"], record["seed"])  # noqa: E731
    found = paired(members, normal, key) if members and members[0]["condition"] != NORMAL else None
    if found is None:
        return {}
    return {"difference": found.difference, "interval": [found.low, found.high], "p_value": found.p_value}
