"""Puts the page together: sections in reading order, each shown as "not run" where its part is missing."""

from __future__ import annotations

import datetime
import html
import importlib.metadata
import json
import pathlib
import platform
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.report.cards import duration, summary_cards
from eval.report.charts import heat_map, line_chart, scale_bar, short
from eval.report.load import Phase, Run, load_run
from eval.report.success import success_table
from eval.report.videos import video_cards

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "mujoco", "numpy")
ROUTER_KEY = "router/load_layer"
ACTING = (
    "Success in closed loop, on object positions and wordings that training never saw. "
    "Bars show the rate, whiskers the 95 % Wilson interval."
)
TRAINING = "Loss of each phase, in all and by modality: the mean of neighbouring steps, and their spread."
EXPERTS = "Tokens that each expert took, as a ratio to an even share, over the steps; one row an expert."
SPEED = (
    "Without compilation, evaluation and checkpoints. Data wait: share of the time in which training waited for data."
)
LOSS_KEY = re.compile(r"(eval/)?loss(/.*)?")
STYLE = pathlib.Path(__file__).with_name("style.css")


def write_report(workdir: pathlib.Path) -> pathlib.Path:
    """Writes `report.html` into the working folder of a run and returns its path."""
    path = workdir / "report.html"
    page = build_page(load_run(workdir))
    path.write_text(page, encoding="utf-8")
    return path


def build_page(run: Run) -> str:
    """The whole page as HTML without any outside reference."""
    sections = (
        ("Acting", _acting(run), ACTING),
        ("Episodes", _videos(run), ""),
        ("Training", "".join(map(_curves, run.phases)), TRAINING),
        ("Text", "".join(map(_sample, run.samples)), "The prompt in bold, then what the model wrote."),
        ("Experts", _router(run), EXPERTS),
        ("Speed and memory", _speed(run), SPEED),
        ("Versions", versions_list(run.summary.get("versions") or _installed()), ""),
        ("Config", f"<pre>{html.escape(json.dumps(run.config, indent=2))}</pre>" if run.config else "", ""),
    )
    return document("Kinema run", run.name, _extent(run), summary_cards(run), sections)


def document(kicker: str, name: str, note: str, cards: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """A page of (title, content, lead) sections under cards; a section without content says that it was not run."""
    date = datetime.datetime.now(datetime.UTC).strftime("%d %B %Y").lstrip("0")
    name, body = html.escape(name), "".join(_section(*section) for section in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Kinema · {name}</title><style>{STYLE.read_text()}</style></head><body>"
        f'<header><p class="kicker">{kicker}</p><h1>{name}</h1><p class="quiet">{date}{note}</p></header>'
        f'<main><div class="cards">{cards}</div>{body}</main></body></html>\n'
    )


def _extent(run: Run) -> str:
    """What the run covered, such as " · 2 tasks · 3 arms · 300 episodes"."""
    records = [record for record in run.summary.get("success") or [] if record["condition"] == "normal"]
    if not records:
        return ""
    tasks, arms = {record["task"] for record in records}, {record["arm"] for record in records}
    episodes = sum(record["episodes"] for record in records)
    return f" · {len(tasks)} tasks · {len(arms)} arms · {episodes} episodes acted"


def _section(title: str, content: str, lead: str) -> str:
    shown = (f'<p class="lead">{lead}</p>' if lead else "") + content if content else '<p class="missing">not run</p>'
    return f"<section><h2>{title}</h2>{shown}</section>"


def _acting(run: Run) -> str:
    records = run.summary.get("success") or []
    return success_table(records) if records else ""


def _videos(run: Run) -> str:
    return f'<div class="videos">{video_cards(run.episodes)}</div>' if run.episodes else ""


def _curves(phase: Phase) -> str:
    keys = sorted(filter(LOSS_KEY.fullmatch, phase.keys), key=lambda key: key.startswith("eval/"))
    charts = []
    for key in keys:
        steps, values = phase.series(key)
        if len(steps):
            charts.append(line_chart(steps, values, _loss_title(key)))
    state = "" if phase.done is not None else ' <span class="quiet">not finished</span>'
    return f'<h3>{html.escape(phase.name)}{state}</h3><div class="charts">{"".join(charts)}</div>' if charts else ""


def _loss_title(key: str) -> str:
    kind = key.removeprefix("eval/").removeprefix("loss").lstrip("/") or "total"
    return f"{kind}, held out" if key.startswith("eval/") else kind


def _sample(sample: dict[str, Any]) -> str:
    prompt, text, model = (html.escape(str(sample.get(key, ""))) for key in ("prompt", "text", "model"))
    note = f"<figcaption>{model}</figcaption>" if model else ""
    return f'<figure class="sample"><blockquote><b>{prompt}</b>{text}</blockquote>{note}</figure>'


def _router(run: Run) -> str:
    maps = []
    for phase in run.phases:
        keys = [key for key in phase.keys if key.startswith(ROUTER_KEY)]
        for key in sorted(keys, key=lambda key: int(key.removeprefix(ROUTER_KEY))):
            rows = [(row["step"], row[key]) for row in phase.rows if key in row]
            steps, load = np.array([step for step, _ in rows]), np.array([load for _, load in rows], np.float64)
            maps.append(heat_map(steps, load, f"{phase.name}, layer {key.removeprefix(ROUTER_KEY)}"))
    return f'<div class="charts">{"".join(maps)}</div>{scale_bar()}' if maps else ""


SPEED_COLUMNS = (
    ("steps", "steps", short),
    ("parameters", "parameters", short),
    ("time", "seconds", duration),
    ("tokens/s", "tokens_per_second", short),
    ("MFU", "mfu", lambda share: f"{100 * share:.1f} %"),
    ("HFU", "hfu", lambda share: f"{100 * share:.1f} %"),
    ("data wait", "data_wait", lambda share: f"{100 * share:.1f} %"),
    ("peak memory", "peak_memory_bytes", lambda size: f"{size / 2**30:.2f} GiB"),
)


def _speed(run: Run) -> str:
    if not run.phases:
        return ""
    head = "".join(f"<th>{name}</th>" for name, _, _ in SPEED_COLUMNS)
    rows = ""
    for phase in run.phases:
        figures = [(phase.figure(key), form) for _, key, form in SPEED_COLUMNS]
        cells = "".join(f"<td>{'–' if figure is None else form(figure)}</td>" for figure, form in figures)
        rows += f"<tr><th>{html.escape(phase.name)}</th>{cells}</tr>"
    table = f'<table class="plain"><thead><tr><th>phase</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<div class="wide">{table}</div>'


def _installed() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def versions_list(versions: dict[str, Any]) -> str:
    items = "".join(
        f"<div><dt>{html.escape(str(name))}</dt><dd>{html.escape(str(version))}</dd></div>"
        for name, version in versions.items()
    )
    return f'<dl class="versions">{items}</dl>'
