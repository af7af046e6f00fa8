"""Finds the frames after which a robot hardly moves, and writes the others as a ranges file for training.

    python -m data.idle DATASET --out ranges.json [--feature observation.state] [--chunk 16] [--threshold 0.01]

A policy that is shown many frames in which nothing happens learns to wait (the recipe for DROID of openpi). The file is
named by `ranges` of a source of episodes; the dataset stays as it is.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from data.datasets import open_dataset
from data.ranges import FrameRanges
from data.robot_dataset import RobotDataset

STATE, CHUNK, THRESHOLD = "observation.state", 16, 0.01


def idle_frames(
    dataset: RobotDataset, feature: str = STATE, chunk: int = CHUNK, threshold: float = THRESHOLD
) -> list[np.ndarray]:
    """bool[frames] for every episode: true where no dim of `feature` moves in the next `chunk` frames.

    To move is to leave the present value by `threshold` of the dim's range, from the 1st to the 99th percentile over
    the dataset; near the end of an episode, by the share of it that belongs to the frames that are left. The last frame
    is as idle as the one before it. Raises ValueError for numbers out of range.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least 1 frame")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}; it must be a share of a dim's range in (0, 1)")
    values_NA = np.nan_to_num(dataset.column(feature).astype(np.float64))
    low_A, high_A = np.quantile(values_NA, (0.01, 0.99), axis=0)
    values_NA = values_NA[:, high_A > low_A] / (high_A - low_A)[high_A > low_A]
    found = []
    for start, length in zip(dataset.starts, dataset.episode_lengths, strict=False):
        now_TA = values_NA[start : start + length]
        moved_T = np.zeros(length)
        for ahead in range(1, min(chunk, length - 1) + 1):
            change_t = np.abs(now_TA[ahead:] - now_TA[:-ahead]).max(axis=1, initial=0)
            moved_T[:-ahead] = np.maximum(moved_T[:-ahead], change_t)
        moved_T *= chunk / np.clip(np.arange(length)[::-1], 1, chunk)
        moved_T[-1] = moved_T[max(length - 2, 0)]
        found.append(moved_T < threshold)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m data.idle", description="Frames worth training on.")
    parser.add_argument("dataset", help="LeRobot or RLDS folder, .tfrecord or .npz")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="ranges file to write")
    parser.add_argument("--feature", default=STATE, help="what must move")
    parser.add_argument("--chunk", type=int, default=CHUNK, help="frames ahead in which it must")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="share of a dim's range")
    given = parser.parse_args(arguments)
    try:
        dataset = open_dataset(given.dataset)
        idle = idle_frames(dataset, given.feature, given.chunk, given.threshold)
        ranges = FrameRanges.of([~idle_N for idle_N in idle])
        if not any(ranges.kept):
            raise ValueError(f"threshold {given.threshold} leaves no frame of {given.dataset}; lower it")
        settings = {"feature": given.feature, "chunk": given.chunk, "threshold": given.threshold}
        ranges.save(given.out, dataset=dataset.root.name, **settings)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    dropped = sum(int(idle_N.sum()) for idle_N in idle)
    print(
        f"{given.out}: keeps {dataset.num_frames - dropped} of {dataset.num_frames} frames in "
        f"{sum(len(kept) for kept in ranges.kept)} ranges of {dataset.num_episodes} episodes"
    )


if __name__ == "__main__":
    main()
