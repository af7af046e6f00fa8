"""Shows what is in a recorded dataset of a robot, and what is wrong with it.

    python -m data.inspect PATH [--out DIR]

PATH is a LeRobotDataset (v3.0, v2.1, v2.0), an RLDS folder or TFRecord, or an .npz of episodes. Prints episodes, rates,
tasks, ranges and problems; with --out also plots of every number, contact sheets of every camera and report.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data.datasets import open_dataset
from data.inspection import Problem, Summary, find_problems, summarise, write_figures
from data.inspection.summary import dim_names

MAX_DIMS = 64  # of a vector that are printed
MAX_TASKS = 10
PAGE = 140  # characters of a line, where there is no terminal


def print_report(summary: Summary, problems: Sequence[Problem], console: Console) -> None:
    """Tables of what a dataset holds, then of its problems."""
    console.print(_overview(summary))
    console.print(_tasks(summary))
    console.print(_numbers(summary))
    if not problems:
        console.print("[green]no problems found[/]")
        return
    table = Table("problem", "where", "what", title=f"{len(problems)} problems", title_style="bold red")
    for problem in problems:
        table.add_row(problem.kind, escape(problem.where), escape(problem.what))
    console.print(table)


def _overview(summary: Summary) -> Table:
    table = Table("", "", title=escape(summary.path), show_header=False)
    shortest, median, longest = summary.lengths
    rate = f" ({summary.rate:.2f} by the timestamps)" if summary.rate else ""
    hours = f", {summary.hours:.2f} h" if summary.hours is not None else ""
    rows = {
        "format": summary.format,
        "robot": summary.robot_type,
        "frames a second": f"{summary.fps:g}{rate}" if summary.fps else "not stated",
        "episodes": f"{summary.num_episodes} of {shortest} to {longest} frames, median {median}",
        "frames": f"{summary.num_frames}{hours}",
    }
    if summary.idle is not None:
        rows["idle frames"] = f"{summary.idle:.1%}"
    for camera in summary.cameras():
        height, width, _ = summary.features[camera]["shape"]
        rows[camera] = f"{summary.features[camera]['dtype']}, {width} x {height}"
    for name, why in summary.left_out.items():
        rows[name] = f"left out: {why}"
    for name, value in rows.items():
        table.add_row(escape(name), escape(value))
    return table


def _tasks(summary: Summary) -> Table:
    table = Table("task", "episodes")
    for task, count in list(summary.tasks.items())[:MAX_TASKS]:
        table.add_row(escape(task) or "(none)", str(count))
    if len(summary.tasks) > MAX_TASKS:
        table.add_row(f"and {len(summary.tasks) - MAX_TASKS} more", "")
    return table


def _numbers(summary: Summary) -> Table:
    table = Table("feature", "dim", *("min", "q01", "mean", "q99", "max"))
    for number, column in enumerate(table.columns):
        column.no_wrap, column.justify = True, "right" if number > 1 else "left"
    for name, found in summary.numbers.items():
        feature = summary.features[name]
        if not found:
            table.add_row(escape(name), "no finite frame")
        elif feature["shape"][0] > MAX_DIMS:
            ends = (min(found["min"]), "", "", "", max(found["max"]))
            table.add_row(escape(name), f"{feature['shape'][0]} dims", *(_short(value) for value in ends))
        else:
            for dim, label in enumerate(dim_names(feature)):
                cells = (_short(values[dim]) for values in found.values())
                table.add_row(escape(name) if dim == 0 else "", escape(f"{dim} {label}"), *cells)
        table.add_section()
    return table


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m data.inspect", description="What is in a dataset of a robot.")
    parser.add_argument("dataset", help="LeRobot or RLDS folder, .tfrecord or .npz")
    parser.add_argument("--out", type=pathlib.Path, help="folder for plots, contact sheets and report.json")
    given = parser.parse_args(arguments)
    console, broken = Console(width=None if sys.stdout.isatty() else PAGE), []
    try:
        dataset = open_dataset(given.dataset, broken.append)
        summary = summarise(dataset)
        problems = [*(Problem("files", "", problem) for problem in broken), *find_problems(dataset)]
        print_report(summary, problems, console)
        if given.out is not None:
            files = write_figures(dataset, given.out)
            report = {"summary": dataclasses.asdict(summary), "problems": [dataclasses.asdict(p) for p in problems]}
            (given.out / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
            console.print(f"{len(files)} figures and report.json in {given.out}")
    except (ValueError, OSError) as error:
        for problem in broken:
            print(f"warning: {problem}", file=sys.stderr)
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
