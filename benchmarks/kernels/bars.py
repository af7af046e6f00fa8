"""What the figures must reach, and the table that says whether they do."""

from __future__ import annotations

import dataclasses
from typing import Any

Results = dict[str, Any]
HARDWARE = "H200"  # the bars hold for this device and full shapes


@dataclasses.dataclass(frozen=True)
class Bar:
    """`ours` on a case must reach `target`: times the speed of `peers` (the fastest right one), or a rate, or a share.

    `peers` names implementations; "rate" and "of_ceiling" ask for our own figure instead.
    """

    part: str
    case: str
    direction: str
    target: float
    against: tuple[str, ...] | str
    text: str


ANY_PEER = ("cudnn", "tokamax_mosaic", "torch_sdpa", "torch_flex")
BARS = (
    Bar("attention", "causal", "forward", 1.0, ("cudnn",), ">= 1.0x cuDNN"),
    Bar("attention", "causal", "backward", 1.0, ("cudnn",), ">= 1.0x cuDNN"),
    Bar("attention", "causal", "backward", 1.15, ("tokamax_mosaic",), ">= 1.15x Tokamax"),
    Bar("window", "window", "both", 1.0, ANY_PEER, ">= 1.0x the best peer"),
    Bar("window", "window", "both", 5.0, ("tokamax_mosaic",), ">= 5x Tokamax"),
    Bar("packed", "packed", "both", 1.5, ANY_PEER, ">= 1.5x the best right peer"),
    Bar("scan", "scan", "both", 4.0, ("xla", "xla_adjoint"), ">= 4x lax.associative_scan"),
    Bar("moe", "experts", "both", 550.0, "rate", ">= 550 TFLOP/s counted"),
    Bar("moe", "grouped matmul", "weight gradient", 4.0, ("tokamax_mosaic",), ">= 4x Tokamax Mosaic"),
    Bar("decode", "decode", "forward", 0.8, "of_ceiling", ">= 0.8 of copy bandwidth"),
)


def value_of(bar: Bar, results: Results) -> tuple[float | None, str]:
    """What was reached, and with which peer, or why nothing is known."""
    figures = results.get("parts", {}).get(bar.part, {}).get("cases", {}).get(bar.case, {})
    ours = _figure(figures, "ours", bar.direction)
    if "median_ms" not in ours:
        return None, f"ours: {ours['status']}"
    if isinstance(bar.against, str):
        return ours.get(bar.against), "" if bar.against in ours else "no ceiling"
    times = {name: _figure(figures, name, bar.direction) for name in bar.against}
    right = {name: figure["median_ms"] for name, figure in times.items() if "median_ms" in figure}
    if not right:
        return None, ", ".join(f"{name}: {figure['status']}" for name, figure in times.items())
    fastest = min(right, key=lambda name: right[name])
    return right[fastest] / ours["median_ms"], fastest


def verdict(bar: Bar, results: Results) -> str:
    """met, missed, or unmeasured: no figure, another device or shapes that are not the bar's."""
    part = results.get("parts", {}).get(bar.part, {})
    ours = _figure(part.get("cases", {}).get(bar.case, {}), "ours", bar.direction)
    right_place = part.get("scale") == "full" and HARDWARE in str(part.get("machine", {}).get("accelerator"))
    if right_place and ours["status"] in ("wrong", "failed"):
        return "missed"
    value, _ = value_of(bar, results)
    if value is None or not right_place:
        return "unmeasured"
    return "met" if value >= bar.target else "missed"


def table(results: Results) -> str:
    """One line for each bar, in Markdown."""
    lines = ["| case | direction | bar | measured | against | verdict |", "|---|---|---|---|---|---|"]
    for bar in BARS:
        value, against = value_of(bar, results)
        told = "-" if value is None else f"{value:.0f}" if bar.against == "rate" else f"{value:.2f}"
        lines.append(
            f"| {bar.case} | {bar.direction} | {bar.text} | {told} | {against or '-'} | {verdict(bar, results)} |"
        )
    return "\n".join(lines)


def _figure(figures: Results, name: str, direction: str) -> Results:
    record = figures.get(name, {"status": "not run"})
    return record.get("directions", {}).get(direction, {"status": record["status"]})
