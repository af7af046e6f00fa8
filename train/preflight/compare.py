"""What differs between hosts, in words that name the ranks, both values and the remedy."""

from __future__ import annotations

import collections
from collections.abc import Sequence

from train.preflight.facts import Facts

_SHOWN = 4  # ranks and fields that are named, of many
_REMEDIES = {
    "python": "start the same interpreter everywhere",
    "code": "bring the same state of the code to every host",
    "config": "give every process the same --config and overrides",
    "config.vocabulary": "copy config.vocabulary.path from one host to the others, or put it where all see it",
    "config.sources": "copy the data to these hosts, or put it where all see it",
    "devices": "give every process as many devices of the same kind",
}


def differences(all_facts: Sequence[Facts]) -> list[str]:
    """A line for each thing that is wrong on a host, or not as on most of the others; none where all is well."""
    lines = []
    for name in dict.fromkeys(name for facts in all_facts for name in facts.amiss):
        lines += _grouped([(f, f.amiss[name]) for f in all_facts if name in f.amiss], f"{name}: ", "")
    for name in dict.fromkeys(name for facts in all_facts for name in facts.equal):
        known = [facts for facts in all_facts if name in facts.equal]
        if name == "code":  # one host has one; it may be edited while processes start
            known = list({facts.host: facts for facts in reversed(known)}.values())[::-1]
        values = collections.Counter(facts.equal[name] for facts in known)
        if len(values) > 1:
            lines.append(_difference(name, known, values.most_common(1)[0][0]))
    return lines


def full_disks(all_facts: Sequence[Facts]) -> list[str]:
    return _grouped([(facts, facts.full) for facts in all_facts if facts.full], "", "; free some space")


def _difference(name: str, known: Sequence[Facts], usual: str) -> str:
    as_usual = [facts for facts in known if facts.equal[name] == usual]
    others = [facts for facts in known if facts.equal[name] != usual]
    told = " and ".join(f"{facts.equal[name]} on {_where([facts])}" for facts in others[:_SHOWN])
    more = f" and other values on {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    if name == "config":
        told += f" ({_fields(as_usual[0], others[0])})"
    remedy = _REMEDIES.get(".".join(name.split(".")[:2]), f"install the same version of {name} everywhere")
    return f"{name} is {usual} on {_where(as_usual)} but {told}{more}; {remedy}"


def _fields(usual: Facts, other: Facts) -> str:
    """The config fields in which two processes differ."""
    names = sorted(usual.fields.keys() | other.fields.keys())
    differing = [name for name in names if usual.fields.get(name) != other.fields.get(name)]
    told = [f"{n}: {usual.fields.get(n, 'absent')} there, {other.fields.get(n, 'absent')} here" for n in differing]
    return "; ".join(told[:_SHOWN]) + (f"; {len(told) - _SHOWN} more fields" if len(told) > _SHOWN else "")


def _grouped(found: Sequence[tuple[Facts, str]], before: str, after: str) -> list[str]:
    """One line for each text, with all ranks that say it."""
    by_text: dict[str, list[Facts]] = {}
    for facts, text in found:
        by_text.setdefault(text, []).append(facts)
    return [f"{before}{text}{after} (on {_where(ranks)})" for text, ranks in by_text.items()]


def _where(all_facts: Sequence[Facts]) -> str:
    ranks = ", ".join(str(facts.rank) for facts in all_facts[:_SHOWN])
    more = f" and {len(all_facts) - _SHOWN} more" if len(all_facts) > _SHOWN else ""
    hosts = list(dict.fromkeys(facts.host for facts in all_facts))
    told = ", ".join(hosts[:_SHOWN]) + (", ..." if len(hosts) > _SHOWN else "")
    return f"rank{'s' if len(all_facts) > 1 else ''} {ranks}{more} ({told})"
