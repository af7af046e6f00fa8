"""Every check of a recorded dataset, one after the other."""

from __future__ import annotations

from data.inspection import checks, files
from data.inspection.checks import Problem
from data.robot_dataset import RobotDataset

CHECKS = (
    *(checks.not_finite, checks.constant_dims, checks.stuck_dims, checks.idle),
    *(checks.timestamps, checks.indices, files.video_lengths, checks.instructions),
    *(files.pictures, checks.repeated_episodes, files.moved_files),
)


def find_problems(dataset: RobotDataset) -> list[Problem]:
    """What the checks find, in their order."""
    found = []
    for check in CHECKS:
        try:
            found += check(dataset)
        except ValueError as error:  # a column that cannot be read spoils its checks alone
            found.append(Problem("unreadable", check.__name__.replace("_", " "), str(error)))
    return list(dict.fromkeys(found))
