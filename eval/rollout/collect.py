"""What every recording shares: worker processes, seeds in order with replacements for failures, a progress bar."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import multiprocessing
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data.lerobot import LeRobotDataset, LeRobotWriter
from eval.envs.environment import EVALUATION_SEED

MAX_TRIES = 4  # attempts for each episode asked for
STATE, ACTION, POINTS = "observation.state", "action", "annotation.points"
LABELS_EVERY = 10  # frames: neighbours show the same things
Columns = dict[str, list]
Made = tuple[str, Columns, bool]  # instruction, dataset columns, success
Run = Callable[[Callable[[Any], Made], Iterable[Any]], Iterable[Made]]


@dataclasses.dataclass(frozen=True)
class Count:
    """What one task and robot came to, failed attempts included."""

    successes: int
    attempts: int
    frames: int


def check_seeds(seed: int, episodes: int) -> None:
    """Raises ValueError unless the attempts at so many episodes from `seed` on stay off the seeds of evaluation."""
    if not 0 <= seed <= seed + MAX_TRIES * episodes < EVALUATION_SEED:
        raise ValueError(
            f"seed={seed}: seeds of recorded episodes lie in 0..{EVALUATION_SEED - 1}; those from {EVALUATION_SEED} up "
            "are kept for evaluation"
        )


def runner(stack: contextlib.ExitStack, processes: int) -> Run:
    """`map` in order, over fresh processes when there are several: a forked one would inherit a broken JAX."""
    if processes == 1:
        return map
    pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(processes))
    return functools.partial(pool.imap, chunksize=1)


def collect(
    run: Run,
    make: Callable[[Any], Made],
    job: Callable[[int], Any],
    writer: LeRobotWriter,
    episodes: int,
    what: str,
    keep_failures: bool,
    on_progress: Callable[[int], None],
) -> Count:
    """Writes `episodes` episodes; attempt i is `make(job(i))`.

    Attempts are made in order, first as many as are asked for, then replacements for those that failed; what is written
    does not depend on `run`. Raises ValueError where too many fail.
    """
    kept = successes = attempts = frames = 0
    while kept < episodes:
        if attempts >= MAX_TRIES * episodes:
            raise ValueError(
                f"only {successes} of {attempts} attempts at {what} succeeded; use less noise, or keep failures"
            )
        jobs = [job(attempts + i) for i in range(episodes - kept)]
        for sentence, columns, success in run(make, jobs):
            attempts, successes, frames = attempts + 1, successes + success, frames + len(columns[ACTION])
            if success or keep_failures:
                writer.add_episode(columns, sentence)
                kept += 1
                on_progress(1)
    return Count(successes, attempts, frames)


def write_instructions(out: pathlib.Path) -> None:
    """`instructions.txt`: what every episode was told and what things are called, for training a vocabulary."""
    lines = []
    for root in sorted(path.parent.parent for path in out.glob("*/meta/info.json")):
        dataset = LeRobotDataset(root)
        lines += [dataset.episode_task(episode) for episode in range(dataset.num_episodes)]
        if POINTS in dataset.features:
            annotated = dataset.column(POINTS)[::LABELS_EVERY]
            lines += [point["label"] for text in annotated for point in json.loads(text)]
    (out / "instructions.txt").write_text("".join(f" {line}\n" for line in lines))  # as inside a sentence


@contextlib.contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with the time that remains, moved on by calling what this yields."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bars:
        bar = bars.add_task(title, total=total)
        yield lambda done: bars.advance(bar, done)
