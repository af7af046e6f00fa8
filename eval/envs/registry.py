"""Simulated robots by name: `make(suite, task)`. A package is loaded only when one of its robots is made."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from collections.abc import Callable, Sequence

from eval.envs import tabletop
from eval.envs.environment import Environment
from eval.envs.rendering import backend
from eval.envs.wordings import aloha, fetch, metaworld, ogbench

WORDINGS = ("train", "test")
Build = Callable[[str, str, str, tuple[str, ...], int], Environment]  # task, robot, wording, cameras, image size


@dataclasses.dataclass(frozen=True)
class Suite:
    """Robots that come together: what they can be asked to do, and how one is made.

    cameras: all there are; the first is what is drawn unless others are asked for. image_sizes: pixels, smallest and
    largest. image_size: the usual one.
    """

    build: Build
    robots: tuple[str, ...]
    tasks: tuple[str, ...]
    cameras: tuple[str, ...]
    image_size: int = 96
    image_sizes: tuple[int, int] = (32, 1024)


def _tabletop(task: str, robot: str, wording: str, cameras: tuple[str, ...], image_size: int) -> Environment:
    from eval.envs.tabletop.adapter import TabletopEnvironment

    return TabletopEnvironment(task, robot, wording)


def _metaworld(task: str, robot: str, wording: str, cameras: tuple[str, ...], image_size: int) -> Environment:
    from eval.envs.metaworld import MetaWorld

    return MetaWorld(task, wording, cameras, image_size)


def _ogbench(task: str, robot: str, wording: str, cameras: tuple[str, ...], image_size: int) -> Environment:
    from eval.envs.ogbench import OGBench

    return OGBench(task, wording, cameras, image_size)


def _fetch(task: str, robot: str, wording: str, cameras: tuple[str, ...], image_size: int) -> Environment:
    with contextlib.redirect_stderr(io.StringIO()):  # on import the package prints a notice about its other robots
        from eval.envs.fetch import Fetch

    return Fetch(task, wording, cameras, image_size)


def _aloha(task: str, robot: str, wording: str, cameras: tuple[str, ...], image_size: int) -> Environment:
    from eval.envs.aloha import Aloha

    return Aloha(task, wording, cameras, image_size)


SUITES = {
    "tabletop": Suite(_tabletop, tuple(tabletop.ARMS), tuple(tabletop.TASKS), ("front",), 64, (64, 64)),
    "metaworld": Suite(_metaworld, ("sawyer",), tuple(metaworld.WORDINGS), ("front", "left", "wrist")),
    "ogbench": Suite(_ogbench, ("ur5e",), tuple(ogbench.WORDINGS), ("front",)),
    "fetch": Suite(_fetch, ("fetch",), tuple(fetch.WORDINGS), ("front", "side")),
    "aloha": Suite(_aloha, ("aloha",), tuple(aloha.WORDINGS), ("top", "front")),
}


def check(
    suite: str,
    tasks: Sequence[str] = (),
    robots: Sequence[str] = (),
    wording: str = "train",
    cameras: Sequence[str] = (),
    image_size: int | None = None,
) -> Suite:
    """The suite of that name. Raises ValueError for a name that it does not have, with those that it has."""
    _known("suite", [suite], tuple(SUITES))
    chosen = SUITES[suite]
    _known("task", tasks, chosen.tasks)
    _known("robot", robots, chosen.robots)
    _known("wording", [wording], WORDINGS)
    _known("camera", cameras, chosen.cameras)
    low, high = chosen.image_sizes
    if image_size is not None and not low <= image_size <= high:
        raise ValueError(f"image_size={image_size}: pictures of {suite} have {low} to {high} pixels a side")
    return chosen


def make(
    suite: str,
    task: str,
    robot: str | None = None,
    *,
    wording: str = "train",
    cameras: Sequence[str] | None = None,
    image_size: int | None = None,
) -> Environment:
    """One robot at one task; the first robot and the first camera of the suite unless others are named.

    Raises ValueError for names that are not known, and where the packages of the suite are not installed.
    """
    chosen = check(suite, [task], [robot] if robot else (), wording, cameras or (), image_size)
    views = chosen.cameras[:1] if cameras is None else tuple(cameras)
    if suite != "tabletop":  # which draws by ray casting
        os.environ.setdefault("MUJOCO_GL", backend())  # the packages would look for a display
    try:
        return chosen.build(task, robot or chosen.robots[0], wording, views, image_size or chosen.image_size)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"suite {suite!r} needs the package {error.name!r}, which is not installed; "
            "install the `sim` extra: pip install '.[sim]'"
        ) from None


def _known(kind: str, names: Sequence[str], allowed: tuple[str, ...]) -> None:
    for name in names:
        if name not in allowed:
            raise ValueError(f"{kind} {name!r} is not known; choose from {', '.join(allowed)}")
