"""A job as one self-contained HTML page: rates by task and by shift, two checkpoints in pairs, films."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.jobs.episodes import CONTROLS, NORMAL
from eval.report.cards import card, success_card
from eval.report.load import Episode, load_episodes
from eval.report.page import document, versions_list
from eval.report.success import bar, success_table
from eval.report.videos import video_cards

TASKS = (
    "Success in closed loop on unseen episodes. Bars show the rate, whiskers the 95 % Wilson interval. Without the "
    "right words, without sight or without training it should fail."
)
SHIFTS = (
    "One thing at a time differs from training; in the kinds of the generalisation suite of Gemini Robotics. The "
    "difference is that from the same episodes without the shift, with a 95 % bootstrap interval and the p-value of "
    "McNemar's exact test, not corrected for the number of rows."
)
PAIRS = (
    "Both checkpoints in the same episodes. The difference of their rates has a 95 % bootstrap interval; the p-value "
    "is that of McNemar's exact test, on the episodes that one of them alone solves, not corrected for the number of "
    "rows."
)


def build_page(summary: Mapping[str, Any], folder: Path) -> str:
    """The page of what `command` writes to `summary.json`; films are those of `folder/episodes`."""
    checkpoint, compared = summary["checkpoint"], summary.get("compared")
    sections = (
        ("Tasks", _tasks(summary["success"]), TASKS),
        ("Shifts", _shifts(summary), SHIFTS),
        *([("Two checkpoints", _pairs(compared), PAIRS)] if compared else []),
        ("Episodes", _films(load_episodes(folder)), ""),
        ("Versions", versions_list(summary["versions"]), ""),
        ("Settings", f"<pre>{html.escape(json.dumps(summary['settings'], indent=2))}</pre>", ""),
    )
    note = f" · {summary['suite']} · {html.escape(checkpoint['phase'])}, step {checkpoint['step']}"
    note += f" · {summary['episodes']} episodes"
    return document("Kinema evaluation", summary["name"], note, _cards(summary), sections)


def _cards(summary: Mapping[str, Any]) -> str:
    cards = [success_card(summary["success"])]
    for row in summary["kinds"]:
        rate, interval = 100 * row["successes"] / row["episodes"], f"{100 * row['low']:.0f}–{100 * row['high']:.0f} %"
        cards.append(card(f"Under {row['kind']} shifts", f"{rate:.0f}", "%", f"{interval}, {row['episodes']} episodes"))
    for row in (summary.get("compared") or {"rows": []})["rows"][:1]:
        note = f"{_points(row['low'])} … {_points(row['high'])}, {_p(row['p_value'])}, {row['pairs']} pairs"
        cards.append(card("Than the other", _points(row["difference"]), "points", note))
    return "".join(cards)


def _tasks(records: Sequence[dict[str, Any]]) -> str:
    return success_table([record for record in records if record["condition"] in (NORMAL, *CONTROLS)])


def _shifts(summary: Mapping[str, Any]) -> str:
    body = ""
    for kind in summary["kinds"]:
        rows = [row for row in summary["conditions"] if row["kind"] == kind["kind"]]
        lines = "".join(
            f'<tr><th class="arm">{html.escape(row["condition"].replace("_", " "))}</th>{_rate(row)}{_beside(row)}</tr>'
            for row in rows
        )
        body += f'<tbody><tr class="sum"><th class="arm">{kind["kind"]}</th>{_rate(kind)}<td></td></tr>{lines}</tbody>'
    head = "<th>shift</th><th>success</th><th>difference from no shift</th>"
    return f'<table class="success"><thead><tr>{head}</tr></thead>{body}</table>' if body else ""


def _rate(row: Mapping[str, Any], key: str = "successes", of: str = "episodes", kind: str = "main") -> str:
    return f'<td class="{kind}" data-label="success">{bar(row[key], row[of])}</td>'


def _beside(row: Mapping[str, Any]) -> str:
    if "difference" not in row:
        return "<td></td>"
    low, high = row["interval"]
    return _difference(row["difference"], low, high, row["p_value"])


def _pairs(compared: Mapping[str, Any]) -> str:
    names = [f"{name['phase']}, step {name['step']}" for name in compared["checkpoints"]]
    head = f"<th></th><th>{html.escape(names[0])}</th><th>{html.escape(names[1])}</th>"
    head += "<th>difference</th><th>one alone</th>"
    body = ""
    for row in compared["rows"]:
        label = "all but controls" if row["scope"] == "all" else row["name"].replace("_", " ")
        label += {"kind": " shifts", "task": " (task)", "arm": " (arm)"}.get(row["scope"], "")
        main = ' class="sum"' if row["scope"] in ("all", "kind") else ""
        body += (
            f'<tr{main}><th class="arm">{html.escape(label)}</th>{_rate(row, "first", "pairs")}'
            f"{_rate(row, 'second', 'pairs', '')}"
            f"{_difference(row['difference'], row['low'], row['high'], row['p_value'])}"
            f'<td data-label="one alone"><div>{row["only_first"]} : {row["only_second"]}</div></td></tr>'
        )
    return f'<table class="success"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _films(episodes: Sequence[Episode]) -> str:
    """A choice of the episodes as they are, and one of each shift."""
    plain = [episode for episode in episodes if episode.condition == NORMAL]
    shifted = {episode.condition: episode for episode in reversed(episodes) if episode.condition != NORMAL}
    parts = [(plain, ""), (list(reversed(shifted.values())), "<h3>Under each shift</h3>")]
    return "".join(f'{head}<div class="videos">{video_cards(chosen)}</div>' for chosen, head in parts if chosen)


def _difference(difference: float, low: float, high: float, p_value: float) -> str:
    return (
        f'<td data-label="difference"><div><b>{_points(difference)}</b> points</div>'
        f'<div class="rate quiet">{_points(low)} … {_points(high)} · {_p(p_value)}</div></td>'
    )


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _p(value: float) -> str:
    return f"p = {value:.2g}" if value >= 1e-4 else "p &lt; 0.0001"
