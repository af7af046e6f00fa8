"""Demonstrations at the rate of control, one LeRobot dataset for each arm."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from data.lerobot import LeRobotWriter, encode_png
from eval.envs.tabletop import ARMS, Tabletop, demonstrate

IMAGE, STATE, ACTION, PLAN = "observation.images.front", "observation.state", "action", "annotation.plan"
HOLD = 20  # control steps after success


def features(arm: str) -> dict:
    columns = {STATE: ARMS[arm].proprio_names, ACTION: ARMS[arm].action_names}
    columns |= {PLAN: ("from_y", "from_x", "to_y", "to_x")}
    found = {key: {"dtype": "float32", "shape": [len(n)], "names": list(n)} for key, n in columns.items()}
    return found | {IMAGE: {"dtype": "image", "shape": [64, 64, 3], "names": ["height", "width", "channels"]}}


def record(out: pathlib.Path, arms: Sequence[str], tasks: Sequence[str], episodes: int, control_hz: int) -> None:
    """`episodes` of each arm and task that succeed, with seeds from 0; as in the demo they begin anywhere and go on
    after success, without noise."""
    for arm in arms:
        with LeRobotWriter(out / arm, control_hz, features(arm), arm) as writer:
            for task in tasks:
                environment, seed, kept = Tabletop(arm, task, control_hz=control_hz), 0, 0
                while kept < episodes:
                    episode = demonstrate(environment, seed, anywhere=True, hold=HOLD)
                    seed += 1
                    if episode.success:
                        images = [encode_png(image) for image in episode.images]
                        columns = {IMAGE: images, STATE: episode.proprio, ACTION: episode.actions, PLAN: episode.plans}
                        writer.add_episode(columns, episode.instruction)
                        kept += 1
                print(f"{arm}, {task}: {kept} of {seed} attempts at {control_hz} Hz", flush=True)
