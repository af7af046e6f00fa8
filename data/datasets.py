"""A recorded dataset from its path, whatever its format."""

from __future__ import annotations

import pathlib

from data.lerobot import LeRobotDataset
from data.npz import NpzDataset
from data.rlds import RldsDataset, is_record_file
from data.robot_dataset import Report, RobotDataset


def open_dataset(root: str | pathlib.Path, report: Report | None = None) -> RobotDataset:
    """LeRobotDataset v3.0, v2.1, v2.0 (a folder), RLDS (a folder of TFRecords, or one of them) or an .npz of episodes.

    report: told what is broken, which is then left out; without it a broken dataset is refused.
    Raises ValueError where there is none, and what the format's reader raises.
    """
    path = pathlib.Path(root)
    if (path / "meta").is_dir():
        return LeRobotDataset(path, report=report)
    if path.is_dir():
        archives = sorted(path.glob("*.npz"))
        if any(is_record_file(file) for file in path.iterdir()):
            return RldsDataset(path, report)
        if len(archives) == 1:
            return NpzDataset(archives[0])
        return LeRobotDataset(path)  # which says what is missing
    if path.suffix == ".npz" and path.is_file():
        return NpzDataset(path)
    if is_record_file(path) or (not path.exists() and list(path.parent.glob(path.name))):
        return RldsDataset(path, report)
    if path.exists():
        raise ValueError(
            f"root {str(root)!r} is no dataset; give a LeRobot or RLDS folder, a .tfrecord or an .npz file"
        )
    raise ValueError(f"root {str(root)!r} does not exist; record the dataset first or correct the path")
