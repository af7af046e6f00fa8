"""`python -m eval.few_shot --config C --checkpoint K --workdir W`: success over demonstrations of something new.

    python -m eval.few_shot --config configs/few_shot.py --checkpoint runs/few_shot/base/specialise

For each case, a variant of the config file that adapts a checkpoint, and its twin `<case>_scratch` that begins from
nothing: demonstrations are recorded of the tasks and arms in its `evaluate.tabletop`, both are trained on the first 10,
50 and 100 of them, and act in the same unseen episodes. Writes `few_shot.json` and `few_shot.png`. The same command
goes on where it was stopped. Options of training follow as `--config.<path>=<value>`.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs import command
from configs.schema import parse, to_plain
from eval.config import RobotConfig, completed
from eval.curve import draw
from eval.jobs.job import Job
from eval.jobs.summary import paired, rate
from eval.journal import Record, write_json
from model.startup import prepare_kernels
from train.checkpoint import Checkpoint

STARTS = {"checkpoint": "", "scratch": "_scratch"}  # where learning starts, and how the config's variant ends
CASES, COUNTS = ("new_arm", "new_task"), (10, 50, 100)


@dataclasses.dataclass(frozen=True)
class Study:
    """What is varied, and where it goes. options: of training, as `--config.<path>=<value>`."""

    config: str
    checkpoint: Checkpoint
    workdir: Path
    counts: tuple[int, ...]
    episodes: int
    options: tuple[str, ...] = ()

    def read(self, variant: str) -> Any:
        """The config of a variant. Raises ValueError for what cannot be studied."""
        config = command.read(f"{self.config}:{variant}", self.options, completed)
        if to_plain(config).get("evaluate", {}).get("tabletop") is None:
            raise ValueError(f"{self.config}:{variant} has no evaluate.tabletop; it says which tasks and arms are new")
        return config

    def section(self, variant: str) -> RobotConfig:
        """How a variant is judged."""
        section = parse(RobotConfig, to_plain(self.read(variant).evaluate.tabletop), "config.evaluate.tabletop")
        return dataclasses.replace(section, episodes=self.episodes, conditions=("normal",))

    def check(self, case: str) -> None:
        """Raises ValueError for a case that the config file does not have and for counts that cannot be split."""
        for ending in STARTS.values():
            section = self.section(case + ending)
            if not section.tasks or not section.arms:
                raise ValueError(f"{self.config}:{case} names no evaluate.tabletop.tasks or arms; say which are new")
            kinds = len(section.tasks) * len(section.arms)
            uneven = [count for count in self.counts if count < kinds or count % kinds]
            if uneven:
                raise ValueError(
                    f"--counts has {uneven[0]}; case {case!r} has {kinds} pairs of task and arm, give multiples of that"
                )

    def run(self, case: str) -> list[dict[str, Any]]:
        """A row for each count and start, those of a count in pairs."""
        rows = []
        for count in self.counts:
            data = self._record(case, count)
            found = {start: self._judge(case, count, start, data) for start in STARTS}
            pairs = paired(found["checkpoint"], found["scratch"])
            assert pairs is not None
            for start, records in found.items():
                row = {"case": case, "start": start, "demonstrations": count} | rate(records)
                rows.append(row | ({"over_scratch": dataclasses.asdict(pairs)} if start == "checkpoint" else {}))
        return rows

    def _record(self, case: str, count: int) -> Path:
        """`count` demonstrations of the case's tasks and arms, evenly; those of a smaller count are the first ones."""
        section, data = self.section(case), self.workdir / case / str(count) / "data"
        if not (data / "instructions.txt").exists():
            each = count // (len(section.tasks) * len(section.arms))
            names = ["--task", *section.tasks, "--arm", *section.arms, "--episodes", str(each)]
            _python("eval.record", "--out", str(data), *names, "--anywhere", "--hold", "4", "--noise", "0")
        return data

    def _judge(self, case: str, count: int, start: str, data: Path) -> list[Record]:
        variant, folder = case + STARTS[start], self.workdir / case / str(count) / start
        config = self.read(variant)
        options = [f"--config.vocabulary.path={self._vocabulary()}"]
        for name, source in config.sources.items():
            if "embodiment" in source:
                options.append(f"--config.sources.{name}.root={data / source.embodiment}")
        if start == "checkpoint":
            first = config.train.phases[0]
            options.append(f"--config.phases.{first}.init=path:{self.checkpoint.path}")
        arguments = ["--config", f"{self.config}:{variant}", "--workdir", str(folder), *options, *self.options]
        _python("train", *arguments)
        section = self.section(variant)
        job = Job("tabletop", section, Checkpoint.open(folder / section.policy), folder / "evaluation")
        job.execute()
        return list(job.records().values())

    def _vocabulary(self) -> Path:
        """That of the checkpoint, which from-scratch training shares."""
        path = self.workdir / "checkpoint_vocabulary.model"
        if not path.exists() or path.read_bytes() != self.checkpoint.vocabulary_bytes:
            path.write_bytes(self.checkpoint.vocabulary_bytes)
        return path


def study(settings: Study, cases: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of all cases; `few_shot.json` and `few_shot.png` grow with each case."""
    for case in cases:
        settings.check(case)
    settings.workdir.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for case in cases:
        rows += settings.run(case)
        write_json(settings.workdir / "few_shot.json", rows)
        draw(rows, settings.workdir / "few_shot.png")
    return rows


def shown(row: dict[str, Any]) -> str:
    """A row as a line of text."""
    name = f"{row['case']:10} {row['demonstrations']:5} from {row['start']:10}"
    share = [100 * value for value in (row["successes"] / row["episodes"], row["low"], row["high"])]
    line = f"{name} {share[0]:5.1f} % ({share[1]:.0f} to {share[2]:.0f}) of {row['episodes']}"
    over = row.get("over_scratch")
    if over is None:
        return line
    return f"{line}, {100 * over['difference']:+.1f} points over scratch (p = {over['p_value']:.2g})"


def _python(module: str, *arguments: str) -> None:
    """Runs a command of this stack in a process of its own. Raises ValueError where it fails."""
    print(f"python -m {module} {' '.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", module, *arguments])
    if done.returncode:
        raise ValueError(f"`python -m {module}` ended with exit code {done.returncode}; its own message says why")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m eval.few_shot", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", required=True, help="a config file with the variants CASE and CASE_scratch")
    parser.add_argument("--checkpoint", required=True, help="what is adapted: <workdir>/<phase> of another run")
    parser.add_argument("--workdir", type=Path, default=Path("runs/few_shot"), help="where results go")
    parser.add_argument("--cases", nargs="+", default=list(CASES), help="variants of the config")
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS), help="of demonstrations")
    parser.add_argument("--episodes", type=int, default=50, help="of each task and arm, in evaluation")
    options, rest = parser.parse_known_args()
    prepare_kernels()
    try:
        strange = [argument for argument in rest if not argument.startswith("--config.") or "=" not in argument]
        if strange:
            raise ValueError(f"unexpected {strange[0]}; settings of training are given as --config.<path>=<value>")
        checkpoint, counts = Checkpoint.open(options.checkpoint), tuple(sorted(set(options.counts)))
        settings = Study(options.config, checkpoint, options.workdir, counts, options.episodes, tuple(rest))
        for row in study(settings, options.cases):
            print(shown(row))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
