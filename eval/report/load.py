"""Reads what a run left in its working folder; every part may be missing."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Phase:
    """One training phase: its metrics in order of steps, and the facts written at its end (None = not ended)."""

    name: str
    rows: tuple[dict[str, Any], ...]
    done: dict[str, Any] | None

    def series(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and finite values of one metric, float64[n] each."""
        pairs = [(row["step"], row[key]) for row in self.rows if isinstance(row.get(key), (int, float))]
        steps, values = np.array(pairs, np.float64).reshape(-1, 2).T
        finite = np.isfinite(values)
        return steps[finite], values[finite]

    def figure(self, key: str) -> float | None:
        """The phase's own figure of itself, or where it did not end, the median over its steps so far."""
        if self.done is not None and key in self.done:
            return self.done[key]
        values = self.series(key)[1]
        return float(np.median(values)) if len(values) else None

    @property
    def keys(self) -> list[str]:
        return sorted({key for row in self.rows for key in row})


@dataclasses.dataclass(frozen=True)
class Episode:
    """A recorded attempt: frames uint8[n,H,W,3] and what was asked for."""

    frames: np.ndarray
    instruction: str
    task: str
    arm: str
    success: bool
    condition: str = "normal"


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything the page shows. Empty containers stand for parts that were not run."""

    name: str
    summary: dict[str, Any]
    config: dict[str, Any]
    phases: tuple[Phase, ...]
    samples: tuple[dict[str, Any], ...]
    episodes: tuple[Episode, ...]


def load_run(workdir: pathlib.Path) -> Run:
    """Reads `summary.json`, `config.json`, `samples.json`, `episodes/*.npz`, each phase's `metrics.jsonl`, `done.json`.

    Raises:
        ValueError: if the folder does not exist or a file in it cannot be read.
    """
    if not workdir.is_dir():
        raise ValueError(f"{workdir} is not a folder; give the working folder of a run, such as runs/demo")
    config = _config(workdir)
    order = list(config.get("train", {}).get("phases") or config.get("phases") or ())
    folders = [path.parent for path in workdir.glob("*/metrics.jsonl")]
    folders.sort(key=lambda f: (order.index(f.name) if f.name in order else len(order), _first_time(f)))
    return Run(
        name=workdir.resolve().name,
        summary=_json(workdir / "summary.json", {}),
        config=config,
        phases=tuple(
            Phase(folder.name, _metrics(folder / "metrics.jsonl"), _json(folder / "done.json", None))
            for folder in folders
        ),
        samples=tuple(_json(workdir / "samples.json", [])),
        episodes=load_episodes(workdir),
    )


def load_episodes(folder: pathlib.Path) -> tuple[Episode, ...]:
    """`folder/episodes/*.npz`, in order of their names; those being written are left out."""
    paths = sorted(path for path in folder.glob("episodes/*.npz") if not path.name.endswith(".part.npz"))
    return tuple(map(_episode, paths))


def _config(workdir: pathlib.Path) -> dict[str, Any]:
    """The config of the run: beside its summary, or else in its newest checkpoint."""
    checkpoints = sorted(workdir.glob("*/checkpoints/*/files/config.json"), key=lambda path: path.stat().st_mtime)
    return _json(workdir / "config.json", None) or (_json(checkpoints[-1], {}) if checkpoints else {})


def _json(path: pathlib.Path, missing: Any) -> Any:
    if not path.exists():
        return missing
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); write it again or remove it") from error


def _first_time(folder: pathlib.Path) -> float:
    """When a phase was last written to: phases without a config are shown in the order in which they ran."""
    return (folder / "metrics.jsonl").stat().st_mtime


def _metrics(path: pathlib.Path) -> tuple[dict[str, Any], ...]:
    """Rows by step. Of what is written twice for a step the later counts; a half-written last line is left out."""
    rows: dict[int, dict[str, Any]] = {}
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows[int(row["step"])] = rows.get(int(row["step"]), {}) | row
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise ValueError(
                f"{path}, line {number}: not a JSON object with a step ({error}); remove the line"
            ) from error
    return tuple(rows[step] for step in sorted(rows))


def _episode(path: pathlib.Path) -> Episode:
    try:
        with np.load(path, allow_pickle=False) as file:
            frames = file["frames"]
            if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
                raise ValueError(f"frames are {frames.dtype}{list(frames.shape)}, not uint8[n,H,W,3] with n > 0")
            texts = {key: str(file[key]) for key in ("instruction", "task", "arm")}
            condition = str(file["condition"]) if "condition" in file else "normal"
            return Episode(frames, **texts, success=bool(file["success"]), condition=condition)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ValueError(f"{path} is no episode recording: {error}; remove it or record it again") from error
