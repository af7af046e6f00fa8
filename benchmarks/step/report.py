"""Tokens per second, MFU from the model definition, the bars and the table."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.step.shapes import flops, shape

# Dense bfloat16 by the data sheet, FLOP/s: the denominator of every published MFU.
PEAK_FLOPS = {"H200": 989.4e12, "H100": 989.4e12}
MFU_BAR = {"dense": 0.50, "hybrid": 0.30}
SPEED_BAR = 1.2  # dense, over the fastest of HF

Record = dict[str, Any]


def with_rates(record: Record, model: str, scale: str, tokens: int, accelerator: str | None) -> Record:
    """The record with its derived figures; MFU only where the device's peak is known."""
    if record["status"] != "ok":
        return record
    first, median, third = np.percentile(record["seconds"], (25, 50, 75))
    useful, executed = flops(shape(model, scale), tokens, record["remat"])  # type: ignore[arg-type]
    rates = {
        "median_seconds": float(median),
        "quartile_seconds": [float(first), float(third)],
        "tokens_per_second": tokens / float(median),
        "model_tflops_per_step": useful / 1e12,
    }
    peak = next((value for kind, value in PEAK_FLOPS.items() if kind in (accelerator or "")), None)
    if peak is not None:
        rates |= {"mfu": useful / float(median) / peak, "hfu": executed / float(median) / peak}
    return record | rates


def table(runs: dict[str, dict[str, Record]]) -> str:
    """One line for each run, then one for each bar; `runs` is by "<model> <tokens>" and implementation."""
    lines = [
        "| model and tokens | implementation | tokens/s | MFU | step ms | peak GB | compile s | remat |",
        "|" + "---|" * 8,
    ]
    for setting, by_name in runs.items():
        for name, run in by_name.items():
            if run["status"] != "ok":
                lines.append(f"| {setting} | {name} | {run['status']}: {run.get('reason', '')[:80]} | | | | | |")
                continue
            peak = f"{run['peak_bytes'] / 1e9:.1f}" if run["peak_bytes"] else "-"
            mfu = f"{run['mfu']:.1%}" if "mfu" in run else "-"
            figures = (f"{run['tokens_per_second']:.0f}", mfu, f"{run['median_seconds'] * 1e3:.1f}", peak)
            lines.append(
                f"| {setting} | {name} | {' | '.join(figures)} | {run['compile_seconds']:.0f} | {run['remat']} |"
            )
    lines += ["", "| model and tokens | bar | measured | verdict |", "|---|---|---|---|"]
    return "\n".join(lines + [f"| {' | '.join(line)} |" for line in bars(runs)])


def bars(runs: dict[str, dict[str, Record]]) -> list[tuple[str, str, str, str]]:
    """(setting, bar, measured, met | missed | unmeasured). Only a known accelerator can meet or miss."""
    found = []
    for setting, by_name in runs.items():
        model, ours = setting.split()[0], by_name.get("ours", {"status": "not run"})
        mfu = ours.get("mfu")
        found.append((setting, f"MFU >= {MFU_BAR[model]:.0%}", *_judged(mfu, MFU_BAR[model], "{:.1%}")))
        if model == "dense":
            others = [run["tokens_per_second"] for name, run in by_name.items() if name != "ours" and "mfu" in run]
            ratio = ours["tokens_per_second"] / max(others) if others and mfu is not None else None
            found.append((setting, f">= {SPEED_BAR}x HF", *_judged(ratio, SPEED_BAR, "{:.2f}x")))
    return found


def _judged(value: float | None, target: float, form: str) -> tuple[str, str]:
    if value is None:
        return "-", "unmeasured"
    return form.format(value), "met" if value >= target else "missed"
