"""The table: objects and one arm as a MuJoCo model, and the placing of objects without recompiling it.

Zones are paint: they have a colour and a place in the layout and no body.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Mapping

import mujoco
import numpy as np

from eval.envs.tabletop.arms import ARM_ROOT, ARMS, Arm, add_arm

COLOURS = {
    "red": (0.90, 0.07, 0.07),
    "green": (0.05, 0.62, 0.12),
    "blue": (0.08, 0.20, 0.95),
    "yellow": (0.98, 0.86, 0.05),
    "purple": (0.62, 0.10, 0.80),
    "cyan": (0.05, 0.80, 0.85),
}
TABLE_GREY = 0.86
ZONE_TINT = (
    0.35  # a zone's colour is mixed with this share of white, so that an object stands out on a zone of its colour
)


@dataclasses.dataclass(frozen=True)
class Shape:
    """A primitive: MuJoCo geom type, half sizes and height in metres."""

    geom: mujoco.mjtGeom
    size: tuple[float, float, float]
    height: float


SHAPES = {
    "cube": Shape(mujoco.mjtGeom.mjGEOM_BOX, (0.026, 0.026, 0.026), 0.052),
    "cylinder": Shape(mujoco.mjtGeom.mjGEOM_CYLINDER, (0.027, 0.027, 0.0), 0.054),
    "disc": Shape(mujoco.mjtGeom.mjGEOM_CYLINDER, (0.030, 0.014, 0.0), 0.028),
}

NUM_OBJECTS = 4  # slots; an episode may leave some empty
MAX_EXTRAS = 3  # slots of objects that no task is about
ZONE_RADIUS = 0.075
FRICTION = (0.8, 0.01, 0.001)  # low enough that a pushed cylinder slides rather than topples
FELT = 3 * (1.5,) + 3 * (0.0005,)  # N s/m and N m s: viscous drag, so that an object stops when the gripper does
TABLE_GROUP, OBJECT_GROUP = 0, 1
AWAY = -20.0  # metres: where empty slots wait, beyond the far edge of the picture


@dataclasses.dataclass(frozen=True)
class Object:
    """An object as placed at reset: position of its centre on the table in metres, turn about z in radians."""

    colour: str
    shape: str
    xy: tuple[float, float]
    turn: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def height(self) -> float:
        return SHAPES[self.shape].height


@dataclasses.dataclass(frozen=True)
class Zone:
    """A flat coloured disc of radius `ZONE_RADIUS` painted on the table."""

    colour: str
    xy: tuple[float, float]

    @property
    def name(self) -> str:
        return f"{self.colour} zone"


@dataclasses.dataclass(frozen=True)
class Layout:
    """What lies on the table; `extras` are objects that no task is about."""

    objects: tuple[Object, ...]
    zones: tuple[Zone, ...] = ()
    extras: tuple[Object, ...] = ()


def build_model(arm: str, slots: int = NUM_OBJECTS) -> mujoco.MjModel:
    """A private copy of the model of `arm` (a key of `ARMS`) with `slots` objects; compiled once a process."""
    return copy.copy(_compiled(arm, slots))


@functools.cache
def _compiled(arm: str, slots: int) -> mujoco.MjModel:
    model = _table(ARMS[arm], slots).compile()
    for slot in range(slots):
        model.joint(f"object{slot}").damping[:] = FELT
    return model


def _table(arm: Arm, slots: int) -> mujoco.MjSpec:
    spec = mujoco.MjSpec()
    option = spec.option
    option.timestep, option.integrator = 0.01, mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.cone, option.iterations, option.ls_iterations = mujoco.mjtCone.mjCONE_PYRAMIDAL, 8, 10
    # Objects at rest cost nothing until something touches them.
    option.enableflags |= int(mujoco.mjtEnableBit.mjENBL_SLEEP)
    world = spec.worldbody
    world.add_geom(
        name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=(2, 2, 1), rgba=(*3 * (TABLE_GREY,), 1),
        group=TABLE_GROUP, contype=1, conaffinity=0, friction=FRICTION,
    )  # fmt: skip
    for slot in range(slots):
        _add_object(world.add_body(name=f"object{slot}", gravcomp=0), f"object{slot}", SHAPES["cube"])
    add_arm(spec, arm)
    return spec


def _add_object(body: mujoco.MjsBody, name: str, shape: Shape) -> None:
    body.add_freejoint(name=name)
    body.add_geom(
        name=name, type=shape.geom, size=shape.size, mass=0.08, group=OBJECT_GROUP,
        contype=1, conaffinity=1, friction=FRICTION,
    )  # fmt: skip


@functools.cache
def _prototypes() -> tuple[dict[str, int], mujoco.MjModel]:
    """One compiled body per shape, from which the compiler's derived quantities (inertia, bounds) are copied."""
    spec = mujoco.MjSpec()
    for name, shape in SHAPES.items():
        _add_object(spec.worldbody.add_body(name=name), name, shape)
    model = spec.compile()
    return {name: model.body(name).id for name in SHAPES}, model


BODY_FIELDS = ("body_mass", "body_inertia", "body_invweight0", "body_subtreemass")
GEOM_FIELDS = ("geom_type", "geom_size", "geom_rbound", "geom_aabb", "geom_dataid")


def place(
    model: mujoco.MjModel, data: mujoco.MjData, layout: Layout, colours: Mapping[str, tuple[float, ...]] = COLOURS
) -> None:
    """Edits `model` (shapes, colours) and resets `data` (poses) so that the table shows `layout`, arm apart.

    The model needs a slot for each object; those left over wait beyond the picture.
    """
    mujoco.mj_resetData(model, data)
    ids, prototypes = _prototypes()
    items = (*layout.objects, *layout.extras)
    for slot in range(model.body(ARM_ROOT).id - model.body("object0").id):
        item = items[slot] if slot < len(items) else None
        body, source = model.body(f"object{slot}").id, ids[item.shape if item else "cube"]
        geom, source_geom = model.body_geomadr[body], prototypes.body_geomadr[source]
        for field in BODY_FIELDS:
            getattr(model, field)[body] = getattr(prototypes, field)[source]
        for field in GEOM_FIELDS:
            getattr(model, field)[geom] = getattr(prototypes, field)[source_geom]
        pose = data.joint(f"object{slot}").qpos
        if item is None:
            pose[:] = (AWAY, slot, 0.026, 1, 0, 0, 0)
            continue
        model.geom_rgba[geom, :3] = colours[item.colour]
        pose[:] = (*item.xy, item.height / 2, np.cos(item.turn / 2), 0, 0, np.sin(item.turn / 2))


def add_weight(model: mujoco.MjModel, factor: float) -> None:
    """Makes the objects that `place` laid down heavier by a factor."""
    first = model.body("object0").id
    bodies = slice(first, model.body(ARM_ROOT).id)
    for field in ("body_mass", "body_inertia", "body_subtreemass"):
        getattr(model, field)[bodies] *= factor
    model.body_invweight0[bodies] /= factor
