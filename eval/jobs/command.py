"""`python -m eval --config C --suite S`: a policy on a suite of simulated robots, as a job of its own.

    python -m eval --config configs/demo.py --suite tabletop --processes 4 \\
        "--config.evaluate.tabletop.conditions=('normal','visual','instruction','action')" \\
        --config.evaluate.tabletop.slots=64
    python -m eval --config C --suite metaworld --checkpoint runs/a/act --compare runs/b/act --out runs/a_b
    python -m eval --config C --suite metaworld --host $SLURM_PROCID --hosts $SLURM_NTASKS

What is judged is the section `evaluate.<suite>` of the config, or its defaults. A job that was stopped goes on where it
was with the same command; one that is asked for more episodes or conditions keeps those that it has. With --hosts,
every host is given the same --out on a file system that they share, and the last to end writes the summary. With
--compare, another checkpoint acts in the same episodes, and pairs are compared.
"""

from __future__ import annotations

import dataclasses
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from configs import command
from configs.schema import parse, to_plain
from data.whole import write_whole
from eval.config import EvaluateConfig, RobotConfig, completed
from eval.envs import registry
from eval.jobs.job import Job
from eval.jobs.page import build_page
from eval.jobs.processes import SimulatorError
from eval.jobs.suites import shifts_of
from eval.jobs.summary import compare_jobs, summarise
from eval.journal import Record, write_json
from model.startup import prepare_kernels
from train.checkpoint import Checkpoint

VERSIONS = ("jax", "flax", "mujoco", "numpy", "metaworld", "ogbench", "gymnasium-robotics", "gym-aloha")

_SUITE = flags.DEFINE_string("suite", None, f"What robots are asked to do: {', '.join(registry.SUITES)}.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Whose policy; the phase that the config names if not given.")
_COMPARE = flags.DEFINE_string("compare", None, "A checkpoint that acts in the same episodes, for comparison.")
_OUT = flags.DEFINE_string(
    "out", None, "Where results go; <workdir>/evaluations/<suite> if not given.", allow_override=True
)
_PROCESSES = flags.DEFINE_integer("processes", None, "That simulate; the config's number if not given.")
_HOST = flags.DEFINE_integer("host", 0, "Which of the hosts this is, from 0.")
_HOSTS = flags.DEFINE_integer("hosts", 1, "Hosts that share the work.")


def main() -> None:
    command.run(_judge, completed)


def _judge(config: ConfigDict, workdir: Path) -> None:
    prepare_kernels()
    suite = _SUITE.value
    assert suite is not None  # `eval.__main__` comes here for suites of robots
    if not 0 <= _HOST.value < _HOSTS.value:
        raise ValueError(f"--host is {_HOST.value}; it must be 0 .. --hosts - 1 = {_HOSTS.value - 1}")
    section = section_of(config, suite)
    if _PROCESSES.value is not None:
        section = dataclasses.replace(section, processes=_PROCESSES.value)
    out = Path(_OUT.value or workdir / "evaluations" / suite)
    job = Job(suite, section, Checkpoint.open(_CHECKPOINT.value or workdir / section.policy), out)
    other = None
    if _COMPARE.value is not None:
        other = dataclasses.replace(job, checkpoint=Checkpoint.open(_COMPARE.value), out=out / "compared")
    jobs = [job, *([other] if other else [])]
    try:
        done = [_execute(each, _HOST.value, _HOSTS.value) for each in jobs]
    except SimulatorError as error:
        sys.exit(f"error: {error}")
    if all(done):
        summary = write_summary(job, other)
        print(f"{shown(summary)}\n{out / 'report.html'}")
    else:
        print(f"{out}: other hosts are not done; the last one writes the summary")


def section_of(config: ConfigDict, suite: str) -> RobotConfig:
    """`config.evaluate.<suite>`, or the defaults with the policy of the last phase. Raises ValueError naming fields."""
    given: dict[str, Any] = to_plain(config.get("evaluate", {}))
    if given.get(suite) is None:
        given |= {suite: {"policy": to_plain(config)["train"]["phases"][-1]}}
    section = getattr(parse(EvaluateConfig, given, "config.evaluate"), suite)
    assert isinstance(section, RobotConfig)
    return section


def _execute(job: Job, host: int, hosts: int) -> bool:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task(f"{job.suite} {job.checkpoint.phase}", total=None)
        watch = GroupPrinter(job, progress.console.print)

        def report(done: int, total: int, record: Record | None) -> None:
            progress.update(bar, total=total, completed=done)
            if record is None:
                watch.begin(job.records().values())
                print(f"{job.out}: {done} of {total} episodes are done", flush=True)
            else:
                watch.add(record)

        return job.execute(host, hosts, report)


class GroupPrinter:
    """Prints the rate of each task, arm and condition once all of its episodes are there."""

    def __init__(self, job: Job, write=print):
        self._write, self._size = write, job.config.episodes
        self._groups: dict[tuple[str, str, str], list[Record]] = {}

    def begin(self, records) -> None:
        for record in records:
            self._members(record).append(record)

    def add(self, record: Record) -> None:
        members = self._members(record)
        members.append(record)
        if len(members) == self._size:
            (row,) = summarise(members, {})["success"]
            rates = [100 * value for value in (row["successes"] / row["episodes"], row["low"], row["high"])]
            names = f"{row['task']:6} {row['arm']:6} {row['condition']:21}"
            self._write(f"{names} {rates[0]:5.1f} % ({rates[1]:.0f} to {rates[2]:.0f}) of {row['episodes']}")

    def _members(self, record: Record) -> list[Record]:
        return self._groups.setdefault((record["task"], record["arm"], record["condition"]), [])


def write_summary(job: Job, other: Job | None) -> dict[str, Any]:
    """Writes `summary.json` and `report.html` of a job whose episodes are all there, beside `other` if given."""
    kinds, records = shifts_of(job.suite), list(job.records().values())
    summary = {
        "name": f"{job.checkpoint.path.parents[2].name} on {job.suite}",
        "suite": job.suite,
        "checkpoint": checkpoint_of(job),
        "episodes": len(records),
        **summarise(records, kinds),
        "settings": to_plain(job.config),
        "versions": _versions(),
    }
    if other is not None:
        rows = compare_jobs(records, list(other.records().values()), kinds)
        summary["compared"] = {"checkpoints": [checkpoint_of(job), checkpoint_of(other)], "rows": rows}
    write_json(job.out / "summary.json", summary)
    write_whole(job.out / "report.html", build_page(summary, job.out))
    return summary


def checkpoint_of(job: Job) -> dict[str, Any]:
    return {"path": str(job.checkpoint.path), "phase": job.checkpoint.phase, "step": job.checkpoint.step}


def shown(summary: dict[str, Any]) -> str:
    """The figures that matter, in a few lines."""
    lines = []
    for row in [*summary["conditions"], *summary["kinds"]]:
        name = row.get("condition") or f"all {row['kind']} shifts"
        rate = 100 * row["successes"] / row["episodes"]
        line = f"{name:24} {rate:5.1f} % ({100 * row['low']:.0f} to {100 * row['high']:.0f}) of {row['episodes']}"
        if "difference" in row:
            line += f", {100 * row['difference']:+.1f} points from normal (p = {row['p_value']:.2g})"
        lines.append(line)
    for row in summary.get("compared", {"rows": []})["rows"]:
        low, high = 100 * row["low"], 100 * row["high"]
        lines.append(
            f"than the other, {row['scope']} {row['name']}: {100 * row['difference']:+.1f} points "
            f"({low:+.1f} to {high:+.1f}), p = {row['p_value']:.2g}, {row['pairs']} pairs"
        )
    return "\n".join(lines)


def _versions() -> dict[str, str]:
    found = {}
    for package in VERSIONS:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
