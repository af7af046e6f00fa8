"""The success table: task x arm x condition, each rate drawn with its Wilson interval."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from eval.wilson import wilson_interval

CONDITIONS = {
    "normal": "as asked",
    "shuffled_instruction": "wrong instruction",
    "blank_image": "blank image",
    "untrained": "untrained",
}
ALL_ARMS = "all arms"
NOT_RUN = '<span class="quiet">not run</span>'


def success_table(records: Sequence[dict[str, Any]]) -> str:
    """HTML of `summary["success"]`: records of task, arm, condition, episodes, successes."""
    counts = {(r["task"], r["arm"], r["condition"]): (r["successes"], r["episodes"]) for r in records}
    conditions = [c for c in CONDITIONS if any(key[2] == c for key in counts)]
    conditions += sorted({key[2] for key in counts} - set(CONDITIONS))
    head = "".join(f"<th>{html.escape(CONDITIONS.get(c, c))}</th>" for c in conditions)
    body = "".join(_task_rows(task, counts, conditions) for task in dict.fromkeys(r["task"] for r in records))
    return f'<table class="success"><thead><tr><th>task</th><th>arm</th>{head}</tr></thead>{body}</table>'


def pooled(records: Sequence[dict[str, Any]], condition: str, tasks: Sequence[str] = ()) -> tuple[int, int]:
    """Successes and episodes of one condition, over all arms and the given tasks (none given: all)."""
    chosen = [r for r in records if r["condition"] == condition and (not tasks or r["task"] in tasks)]
    return sum(r["successes"] for r in chosen), sum(r["episodes"] for r in chosen)


def _task_rows(task: str, counts: dict[tuple[str, str, str], tuple[int, int]], conditions: list[str]) -> str:
    arms = list(dict.fromkeys(arm for t, arm, _ in counts if t == task))
    rows = []
    for arm in arms:
        rows.append(
            _row(task if arm == arms[0] else "", arm, [counts.get((task, arm, c)) for c in conditions], conditions)
        )
    if len(arms) > 1:
        sums = []
        for condition in conditions:
            parts = [counts[task, arm, condition] for arm in arms if (task, arm, condition) in counts]
            sums.append((sum(s for s, _ in parts), sum(n for _, n in parts)) if parts else None)
        rows.append(_row("", ALL_ARMS, sums, conditions))
    return f"<tbody>{''.join(rows)}</tbody>"


def _row(task: str, arm: str, cells: list[tuple[int, int] | None], conditions: list[str]) -> str:
    kind = ' class="sum"' if arm == ALL_ARMS else ""
    drawn = "".join(_cell(condition, cell) for condition, cell in zip(conditions, cells, strict=True))
    return f'<tr{kind}><th class="task">{html.escape(task)}</th><th class="arm">{html.escape(arm)}</th>{drawn}</tr>'


def _cell(condition: str, counts: tuple[int, int] | None) -> str:
    kind = ' class="main"' if condition == "normal" else ""
    label = html.escape(CONDITIONS.get(condition, condition))
    return f'<td{kind} data-label="{label}">{bar(*counts) if counts else NOT_RUN}</td>'


def bar(successes: int, episodes: int) -> str:
    """A rate with its Wilson interval, drawn and in figures."""
    low, high = (100 * bound for bound in wilson_interval(successes, episodes))
    rate = 100 * successes / episodes if episodes else 0.0
    return (
        f'<span class="track"><span class="fill" style="width:{rate:.1f}%"></span>'
        f'<span class="whisker" style="left:{low:.1f}%;width:{high - low:.1f}%"></span></span>'
        f'<span class="rate"><b>{rate:.0f} %</b> '
        f'<span class="quiet">{low:.0f}–{high:.0f} · {successes}/{episodes}</span></span>'
    )
