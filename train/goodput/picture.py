"""Goodput as a picture: shares of the time of each phase, and how far the run was when."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib.figure
import matplotlib.ticker

from data.whole import write_whole
from train.goodput.account import CATEGORIES, Account

_COLOURS = {
    "productive": "#17803d",
    "data wait": "#c98a00",
    "compile": "#2f5fd0",
    "evaluation": "#7a9be6",
    "checkpoint": "#7b4fb5",
    "check": "#b99ad9",
    "start-up": "#9aa3b2",
    "restart": "#c8ced8",
    "lost work": "#b42318",
    "other": "#e5e8ed",
}


def draw(accounts: Sequence[Account], path: Path) -> None:
    """Writes a PNG."""
    figure = matplotlib.figure.Figure(figsize=(9, 1.8 + 0.9 * len(accounts) + 2.6), dpi=150, layout="constrained")
    bars, curve = figure.subplots(2, 1, height_ratios=(0.9 * len(accounts) + 0.8, 2.6))
    for row, account in enumerate(accounts):
        left = 0.0
        for category in CATEGORIES:
            share = account.seconds[category] / account.total if account.total else 0.0
            label = category if row == 0 else None
            bars.barh(row, share, left=left, color=_COLOURS[category], label=label)
            if share > 0.06:
                bars.text(left + share / 2, row, f"{share:.0%}", ha="center", va="center", color="white")
            left += share
    bars.set_yticks(range(len(accounts)), [account.phase for account in accounts])
    bars.invert_yaxis()
    bars.set(xlim=(0, 1), xlabel="share of the time from the first start to the last end")
    bars.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    bars.legend(ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize="small")
    begin = accounts[0].starts[0]["time"]
    for account in accounts:
        for attempt, start in zip(account.curve, account.starts, strict=True):
            known = [] if start["step"] is None else [(start["time"], start["step"])]
            points = [((time - begin) / 60, step) for time, step in (*known, *attempt)]
            curve.plot(*zip(*points, strict=True), color="#17803d", lw=1.2) if points else None
            curve.axvline((start["time"] - begin) / 60, color="#9aa3b2", lw=0.6, ls=":")
    curve.set(xlabel="minutes since the first start (dotted: starts)", ylabel="step")
    for axes in (bars, curve):
        axes.spines[["top", "right"]].set_visible(False)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_whole(path, content.getvalue())
