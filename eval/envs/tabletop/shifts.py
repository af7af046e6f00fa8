"""What can differ between training and evaluation, one thing at a time: looks, words, and what the actions meet.

The three kinds are those of the generalisation suite of Gemini Robotics (arXiv 2503.20020, section 3.3). What is drawn
for a shifted episode comes from a generator of its own, so that an episode lies as it lies without the shift, save
where the shift is about that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from eval.envs.shifted import Kind
from eval.envs.tabletop.render import CAMERA, LIGHT, LOOK, SUN, Look, RayCamera
from eval.envs.tabletop.scene import COLOURS, MAX_EXTRAS, SHAPES, TABLE_GREY, Layout, Object
from eval.envs.tabletop.tasks import HALF_TABLE, Episode, Goal, Task

VIEW_HALF = 0.235  # metres: what lies within this distance of the middle is in the picture
APART = 0.1  # from a distractor to whatever the task is about
START_ABOVE_LOW, START_ABOVE_HIGH = np.array([-0.1, -0.2, 0.27]), np.array([0.1, 0.2, 0.34])


@dataclasses.dataclass(frozen=True)
class Shift:
    """One way in which an episode differs from those of training; each field says how much, 0 or False: not at all.

    light: dimmer by this share, in a tint, from another side. shades: colours mixed with this share of black or white.
    table: of wood or chequered. distractors: so many more objects in colours of no task. camera: metres it is moved.
    wording: the sentences in `language.WORDINGS` to draw from. typos: misspelt words.
    start: the arm begins higher than ever and with open gripper. outside: the layout is stretched by this share, and
    the object named lies where none did. weight: objects are heavier by this factor. lag: motors are weaker by this
    share.
    """

    kind: Kind
    light: float = 0.0
    shades: float = 0.0
    table: bool = False
    distractors: int = 0
    camera: float = 0.0
    wording: str = ""
    typos: int = 0
    start: bool = False
    outside: float = 0.0
    weight: float = 0.0
    lag: float = 0.0

    def look(self, rng: np.random.Generator) -> Look:
        """Camera, light and table of an episode."""
        look, sun, dim_3, table = LOOK, SUN, np.ones(3), LOOK.table_P3
        camera, lamp = CAMERA, LIGHT
        if self.camera:
            away = rng.normal(size=3)
            moved = CAMERA.position + self.camera * away / np.linalg.norm(away)
            camera = RayCamera(tuple(moved), CAMERA.target, CAMERA.field_of_view, CAMERA.size)
        if self.light:
            dim_3 = (1 - self.light) * rng.uniform(0.85, 1.15, 3)
            sun, position = SUN * (-1, -1, 1), LIGHT.position * (-1, -1, 1)
            lamp = RayCamera(tuple(position), LIGHT.target, LIGHT.field_of_view, LIGHT.size)
        if self.camera or self.light:
            look = Look.of(camera, lamp, sun)
        if self.table:
            table = _wood(look.ground_2P) if rng.random() < 0.5 else _chequered(look.ground_2P)
        return dataclasses.replace(look, table_P3=table, dim_3=dim_3)

    def colours(self, rng: np.random.Generator) -> Mapping[str, tuple[float, ...]]:
        """Every colour in the shade of the episode."""
        if not self.shades:
            return COLOURS
        towards = {name: float(rng.random() < 0.5) for name in COLOURS}
        mix = lambda name: (1 - self.shades) * np.array(COLOURS[name]) + self.shades * towards[name]  # noqa: E731
        return {name: tuple(mix(name)) for name in COLOURS}

    def sample(self, task: Task, rng: np.random.Generator) -> Episode:
        """An episode of a task, stretched until the object that it names lies outside the square of training."""
        layout, goal = task.sample(rng)
        while self.outside:
            layout = _stretched(layout, 1 + self.outside)
            if max(map(abs, layout.objects[goal.target].xy)) > HALF_TABLE:
                break
            layout, goal = task.sample(rng)
        return layout, goal

    def distract(self, layout: Layout, goal: Goal, rng: np.random.Generator) -> Layout:
        """The layout with more objects at its edges, out of the way of what is to be done."""
        if not self.distractors:
            return layout
        busy = _busy(layout, goal)
        extras: list[Object] = []
        colours = rng.permutation(list(EXTRA_COLOURS))[: self.distractors].tolist()
        for x, y in rng.uniform(-VIEW_HALF, VIEW_HALF, (400, 2)).tolist():
            taken = [*busy, *(np.array(extra.xy) for extra in extras)]
            if len(extras) < self.distractors and min(float(np.hypot(*(point - (x, y)))) for point in taken) > APART:
                shape = str(rng.choice(list(SHAPES)))
                extras.append(Object(colours[len(extras)], shape, (x, y), float(rng.uniform(-1, 1))))
        return dataclasses.replace(layout, extras=tuple(extras))


EXTRA_COLOURS = {
    "brown": (0.42, 0.26, 0.12),
    "pink": (1.0, 0.62, 0.76),
    "white": (0.98, 0.98, 0.98),
    "black": (0.07, 0.07, 0.07),
    "olive": (0.45, 0.47, 0.15),
}

SHIFTS = {
    "light": Shift("visual", light=0.45),
    "colours": Shift("visual", shades=0.35),
    "background": Shift("visual", table=True),
    "distractors": Shift("visual", distractors=MAX_EXTRAS),
    "camera": Shift("visual", camera=0.06),
    "rephrased": Shift("instruction", wording="rephrased"),
    "typos": Shift("instruction", typos=2),
    "spanish": Shift("instruction", wording="spanish"),
    "start": Shift("action", start=True),
    "placement": Shift("action", outside=0.3),
    "heavy": Shift("action", weight=3.0),
    "slow_arm": Shift("action", lag=0.5),
}


def _stretched(layout: Layout, factor: float) -> Layout:
    """Everything farther from the middle by a factor."""
    move = lambda thing: dataclasses.replace(thing, xy=(factor * thing.xy[0], factor * thing.xy[1]))  # noqa: E731
    return dataclasses.replace(layout, objects=tuple(map(move, layout.objects)), zones=tuple(map(move, layout.zones)))


def _busy(layout: Layout, goal: Goal) -> list[np.ndarray]:
    """Where the arm works: at objects and zones, and from behind the object that is named to where it goes."""
    points = [np.array(thing.xy) for thing in (*layout.objects, *layout.zones)]
    if layout.zones:
        start, end = np.array(layout.objects[goal.target].xy), np.array(layout.zones[goal.zone].xy)
        points += [start + share * (end - start) for share in np.linspace(-0.8, 1.0, 8)]
    return points


def _wood(ground_2P: np.ndarray) -> np.ndarray:
    """Brown boards along x with a grain."""
    x, y = ground_2P
    grain = 0.06 * np.sin(60 * x + 9 * np.sin(14 * y)) + 0.05 * np.sin(170 * y)
    seam = np.abs((y / 0.09) % 1 - 0.5) > 0.46
    return (np.array([0.62, 0.43, 0.26]) * (1 + grain - 0.35 * seam)[:, None]).clip(0, 1)


def _chequered(ground_2P: np.ndarray) -> np.ndarray:
    """Squares of 8 cm, the table's grey and a darker one."""
    odd = (np.floor(ground_2P / 0.08).astype(int).sum(0) % 2)[:, None]
    return np.where(odd, TABLE_GREY, 0.6 * TABLE_GREY) * np.ones(3)
