"""One checkpoint on one suite: what is missing of its episodes is run, and what all came to is summed up.

OUT holds `records-<host>.jsonl` with a line for each episode, `episodes/*.npz` with the filmed ones, `settings.json`,
and, once every episode is there, what `command` makes of them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import parse
from data.robots import EpisodesConfig
from eval.config import RobotConfig
from eval.envs import registry
from eval.jobs.episodes import Episode, plan, share
from eval.jobs.processes import workers
from eval.jobs.run import Cameras, run
from eval.jobs.simulator import Ended, Told
from eval.jobs.suites import Views, conditions_of, stage_of
from eval.journal import Record, RecordFile, keep_settings, read_records
from serving.policy import Actor, Policy
from train.checkpoint import Checkpoint

CAMERA_PREFIX = "observation.images."
Report = Callable[[int, int, Record | None], None]  # told of (done, all, the record that was just added)


@dataclasses.dataclass(frozen=True)
class Job:
    """A checkpoint on a suite. out: where its records are kept; option: how the user named that folder."""

    suite: str
    config: RobotConfig
    checkpoint: Checkpoint
    out: Path
    option: str = "--out"

    @functools.cached_property
    def episodes(self) -> list[Episode]:
        offered = registry.SUITES[self.suite]
        arms = self.config.arms or offered.robots
        tasks = [(task, arm) for task in self.config.tasks or offered.tasks for arm in arms]
        return plan(tasks, conditions_of(self.suite, self.config.conditions), self.config.episodes)

    @property
    def identity(self) -> dict[str, Any]:
        """What the outcome of an episode follows from besides the episode."""
        fields = ("execute", "wording", "goal", "slots", "image_size")
        trained = hashlib.sha256(json.dumps(self.checkpoint.meta, sort_keys=True).encode()).hexdigest()[:16]
        checkpoint = {"phase": self.checkpoint.phase, "step": self.checkpoint.step, "trained": trained}
        return {"suite": self.suite} | checkpoint | {field: getattr(self.config, field) for field in fields}

    def records(self) -> dict[str, Record]:
        """By the episode's name, of all hosts; those that this job asks for, in the order of its plan."""
        paths = sorted(self.out.glob("records-*.jsonl"))
        found = {record["id"]: record for path in paths for record in read_records(path)}
        return {episode.id: found[episode.id] for episode in self.episodes if episode.id in found}

    def execute(self, host: int = 0, hosts: int = 1, report: Report = lambda done, total, record: None) -> bool:
        """Runs what this host still has to do; whether all hosts are done then.

        Raises ValueError where `out` holds episodes of another checkpoint or other settings, or the checkpoint does not
        know the suite's robots or cameras.
        """
        keep_settings(self.out, self.identity, self.option)
        before = self.records()
        waiting = [episode for episode in share(self.episodes, host, hosts) if episode.id not in before]
        done, total = len(before), len(self.episodes)
        report(done, total, None)
        if not waiting:
            return done == total
        views, cameras = self._views()
        actor_of = self._actors(any(episode.condition == "untrained" for episode in waiting))
        config = self.config
        stage = stage_of(views, config.execute, config.films)
        lanes = min(config.batch_size, math.ceil(len(waiting) / config.processes))
        with RecordFile(self.out / f"records-{host}.jsonl") as file, workers(stage, config.processes) as simulators:

            def on_end(ended: Ended) -> None:
                nonlocal done
                if ended.frames is not None:
                    self._keep_film(ended.record, ended.frames)  # before its record: what has one is complete
                file.append([ended.record])
                done += 1
                report(done, total, ended.record)

            run(waiting, actor_of, cameras, simulators, lanes, on_end)
        return len(self.records()) == total

    def _views(self) -> tuple[Views, Cameras]:
        """How environments are made, and which of their cameras the policy looks through."""
        suite, checkpoint = registry.SUITES[self.suite], self.checkpoint
        mixture = checkpoint.config["phases"][checkpoint.phase]["mixture"]
        sections = {name: checkpoint.config["sources"][name] for name in mixture}
        sources = [parse(EpisodesConfig, s, f"sources.{name}") for name, s in sections.items() if "embodiment" in s]
        features = {source.embodiment: source.cameras for source in sources}
        told: dict[str, Told] = {source.embodiment: self.config.goal or source.goal for source in sources}
        cameras = {}
        for arm in self.config.arms or suite.robots:
            if arm not in features:
                raise ValueError(
                    f"{checkpoint.path} knows the robots {', '.join(features) or 'none'}; {self.suite} has "
                    f"{', '.join(suite.robots)}: give those of both in evaluate.{self.suite}.arms"
                )
            cameras[arm] = tuple(feature.removeprefix(CAMERA_PREFIX) for feature in features[arm])
            missing = [camera for camera in cameras[arm] if camera not in suite.cameras]
            if missing:
                raise ValueError(
                    f"{checkpoint.path} looks at {arm} through {missing[0]!r}; {self.suite} has the cameras "
                    f"{', '.join(suite.cameras)}: train on a dataset whose images are named {CAMERA_PREFIX}<camera>"
                )
        return Views(self.suite, self.config.wording, cameras, told, self.config.image_size), cameras

    def _actors(self, untrained: bool) -> Callable[[Episode], Actor]:
        checkpoint, size = with_slots(self.checkpoint, self.config.slots), self.config.batch_size
        policy = Policy(checkpoint, batch_size=size)
        beginner = Policy(checkpoint, batch_size=size, untrained=True) if untrained else policy
        return lambda episode: beginner if episode.condition == "untrained" else policy

    def _keep_film(self, record: Record, frames: np.ndarray) -> None:
        names = {name: record[name] for name in ("instruction", "task", "arm", "condition", "success")}
        folder = self.out / "episodes"
        folder.mkdir(exist_ok=True)
        path = folder / f"{record['id'].replace('/', '_')}.npz"
        np.savez_compressed(aside := path.with_suffix(".part.npz"), frames=frames, **names)
        aside.replace(path)


def with_slots(checkpoint: Checkpoint, slots: int | None) -> Checkpoint:
    """The checkpoint with rows of another length. Raises ValueError for shorter ones than in training."""
    if slots is None:
        return checkpoint
    phase = checkpoint.config["phases"][checkpoint.phase]
    if slots < phase["pipeline"]["slots"]:
        raise ValueError(f"slots is {slots}; training had rows of {phase['pipeline']['slots']}, give as many or more")
    longer = {**phase, "pipeline": {**phase["pipeline"], "slots": slots}}
    phases = checkpoint.config["phases"] | {checkpoint.phase: longer}
    return dataclasses.replace(checkpoint, config={**checkpoint.config, "phases": phases})
