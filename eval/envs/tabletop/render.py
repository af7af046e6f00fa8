"""Pictures by ray casting: no OpenGL, no display, the same pixels every time.

The table and its zones never move within an episode, so they are painted once; a frame then casts rays only where the
bounding box of something that moves can appear. The light is a camera too: what it sees of the ground is not in shadow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import mujoco
import numpy as np

from eval.envs.tabletop.arms import ARM_GROUP
from eval.envs.tabletop.scene import COLOURS, OBJECT_GROUP, TABLE_GREY, ZONE_RADIUS, ZONE_TINT, Layout

IMAGE_SIZE = 64
AMBIENT, DIFFUSE, SHADOW = 0.45, 0.55, 0.62
SUN = np.array([0.45, -0.25, 0.86]) / np.linalg.norm([0.45, -0.25, 0.86])  # towards the light, for shading
MOVING = np.array([group in (OBJECT_GROUP, ARM_GROUP) for group in range(6)], np.uint8)
CORNERS_38 = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1], indexing="ij")).reshape(3, 8).astype(float)
NEAR = 0.05  # metres: a bounding box that comes closer to the camera than this is cast everywhere


class RayCamera:
    """A square pinhole camera of `size` x `size` rays at `position` that looks at `target` (metres, world frame)."""

    def __init__(self, position: tuple, target: tuple, field_of_view: float, size: int):
        self.position, self.target, self.field_of_view, self.size = (
            np.array(position, float),
            target,
            field_of_view,
            size,
        )
        forward = np.array(target, float) - self.position
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        right /= np.linalg.norm(right)
        self.half = np.tan(np.radians(field_of_view) / 2)
        self.axes = np.stack([np.cross(forward, right), right, forward])  # rows: down, right, forward
        centres = (np.arange(size) + 0.5) / size * 2 - 1
        down, across = np.meshgrid(centres, centres, indexing="ij")
        rays = np.stack([self.half * down, self.half * across, np.ones_like(down)], -1).reshape(-1, 3) @ self.axes
        self.rays_P3 = rays / np.linalg.norm(rays, axis=1, keepdims=True)

    def project(self, points_N3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World points to (row, column) in 0..1 of the picture's height and width, float[N,2], and depth, float[N]."""
        local_N3 = (points_N3 - self.position) @ self.axes.T
        depth_N = local_N3[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            return (local_N3[:, :2] / (depth_N[:, None] * self.half) + 1) / 2, depth_N

    def ground(self) -> np.ndarray:
        """Where each ray meets the table, float[P,2] in metres."""
        return (self.position + self.rays_P3 * (-self.position[2] / self.rays_P3[:, 2:]))[:, :2]

    def cast(self, model: mujoco.MjModel, data: mujoco.MjData, boxes_G83: np.ndarray) -> tuple[np.ndarray, ...]:
        """What rays through `boxes_G83` hit of arm and objects: pixels int[n], geoms int[n], normals float[n,3]."""
        pixels = np.flatnonzero(self._covered(boxes_G83))
        n = len(pixels)
        ids, distances, normals = np.empty(n, np.int32), np.empty(n), np.empty(3 * n)
        rays = self.rays_P3[pixels].ravel()
        mujoco.mj_multiRay(model, data, self.position, rays, MOVING, 1, -1, ids, distances, normals, n, 10.0)
        hit = np.flatnonzero(ids >= 0)
        return pixels[hit], ids[hit], normals.reshape(-1, 3)[hit]

    def _covered(self, boxes_G83: np.ndarray) -> np.ndarray:
        """bool[P]: pixels inside the projection of a box given by its corners."""
        image, depth = self.project(boxes_G83.reshape(-1, 3))
        image_G82, near_G = image.reshape(-1, 8, 2) * self.size, depth.reshape(-1, 8).min(1) < NEAR
        low = np.clip(np.floor(image_G82.min(1)), 0, self.size).astype(int)
        high = np.clip(np.ceil(image_G82.max(1)), 0, self.size).astype(int)
        low[near_G], high[near_G] = 0, self.size
        covered = np.zeros((self.size, self.size), bool)
        for (top, left), (bottom, right) in zip(low.tolist(), high.tolist(), strict=True):
            covered[top:bottom, left:right] = True
        return covered.ravel()


CAMERA = RayCamera(position=(0.46, 0.0, 0.78), target=(-0.012, 0.0, 0.02), field_of_view=33.5, size=IMAGE_SIZE)
LIGHT = RayCamera(position=(0.30, -0.42, 2.5), target=(0.0, 0.0, 0.0), field_of_view=17.0, size=32)


WHITE_TABLE = 255 * (AMBIENT + DIFFUSE * SUN[2])  # brightness of white paint on the table, in the light
SHADE = (SHADOW * np.arange(256)).astype(np.uint8)  # a level in the light to the level in shadow


@dataclasses.dataclass(frozen=True)
class Look:
    """From where a scene is seen and lit.

    sun: float[3], towards the light. ground_2P: where each ray meets the table, metres. light_cell_P: the light's pixel
    that sees it, the last one where none does. table_P3: paint of the bare table, 0..1. dim_3: factor of red, green
    and blue in the picture.
    """

    camera: RayCamera
    light: RayCamera
    sun: np.ndarray
    ground_2P: np.ndarray
    light_cell_P: np.ndarray
    table_P3: np.ndarray
    dim_3: np.ndarray | None = None

    @classmethod
    def of(cls, camera: RayCamera, light: RayCamera, sun: np.ndarray) -> Look:
        """The usual grey table seen by `camera`, lit by `light`."""
        ground = camera.ground()
        image, _ = light.project(np.concatenate([ground, np.zeros((len(ground), 1))], 1))
        cells = np.floor(image * light.size).astype(int)
        inside = ((cells >= 0) & (cells < light.size)).all(1)
        cell_P = np.where(inside, cells[:, 0] * light.size + cells[:, 1], light.size**2)
        return cls(camera, light, sun, ground.T.copy(), cell_P, np.full((len(ground), 3), TABLE_GREY))


LOOK = Look.of(CAMERA, LIGHT, SUN)


class Painter:
    """Draws one episode: the table is painted at construction, what moves at every call of `frame`."""

    def __init__(
        self,
        model: mujoco.MjModel,
        layout: Layout,
        look: Look = LOOK,
        colours: Mapping[str, tuple[float, ...]] = COLOURS,
    ):
        self.model, self.look, self.lit = model, look, (WHITE_TABLE * look.table_P3).astype(np.uint8)
        self.zone_of_pixel = np.full(IMAGE_SIZE**2, -1, np.int8)
        for slot, zone in enumerate(layout.zones):
            inside = np.flatnonzero(
                (look.ground_2P[0] - zone.xy[0]) ** 2 + (look.ground_2P[1] - zone.xy[1]) ** 2 < ZONE_RADIUS**2
            )
            tint = (1 - ZONE_TINT) * np.asarray(colours[zone.colour]) + ZONE_TINT
            self.lit[inside] = WHITE_TABLE * tint
            self.zone_of_pixel[inside] = slot
        self.shaded = SHADE[self.lit]
        self.moving = np.flatnonzero(MOVING[model.geom_group])
        boxes_G6 = model.geom_aabb[self.moving]
        self.corners_G38 = boxes_G6[:, :3, None] + CORNERS_38 * boxes_G6[:, 3:, None]
        self.colours = 255 * model.geom_rgba[:, :3]
        first = model.geom("object0").id
        self.objects, self.num_zones = slice(first, first + len(layout.objects)), len(layout.zones)

    def frame(self, data: mujoco.MjData) -> tuple[np.ndarray, np.ndarray]:
        """The picture uint8[64,64,3] and the geom that each pixel shows, int32[4096], -1 for the table."""
        turned_G38 = data.geom_xmat[self.moving].reshape(-1, 3, 3) @ self.corners_G38
        boxes_G83 = data.geom_xpos[self.moving][:, None] + turned_G38.transpose(0, 2, 1)
        look = self.look
        shadow_map = np.zeros(look.light.size**2 + 1, bool)
        shadow_map[look.light.cast(self.model, data, boxes_G83)[0]] = True
        shadow = np.flatnonzero(shadow_map[look.light_cell_P])
        picture_P3 = self.lit.copy()
        picture_P3[shadow] = self.shaded[shadow]
        pixels, geoms, normals = look.camera.cast(self.model, data, boxes_G83)
        brightness = AMBIENT + DIFFUSE * np.maximum(normals @ look.sun, 0)
        picture_P3[pixels] = self.colours[geoms] * brightness[:, None]
        if look.dim_3 is not None:
            picture_P3 = (look.dim_3 * picture_P3).clip(0, 255).astype(np.uint8)
        shown_P = np.full(IMAGE_SIZE**2, -1, np.int32)
        shown_P[pixels] = geoms
        return picture_P3.reshape(IMAGE_SIZE, IMAGE_SIZE, 3), shown_P

    def pixels_in_sight(self, shown_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many pixels of a drawn frame show each object, int[n], and each zone, int[z]."""
        geoms_N = np.bincount(shown_P[shown_P >= 0], minlength=self.objects.stop)
        zones_N = np.bincount(self.zone_of_pixel[(shown_P < 0) & (self.zone_of_pixel >= 0)], minlength=self.num_zones)
        return geoms_N[self.objects], zones_N
