"""Pictures of MuJoCo models by OpenGL, set for speed: what costs most without a GPU are shadows, so there are none."""

from __future__ import annotations

import os
import pathlib
import sys
import weakref
import zlib
from typing import Any

import mujoco
import numpy as np

UNWANTED = (
    mujoco.mjtRndFlag.mjRND_SHADOW,
    mujoco.mjtRndFlag.mjRND_REFLECTION,
    mujoco.mjtRndFlag.mjRND_SKYBOX,
    mujoco.mjtRndFlag.mjRND_HAZE,
)
MAX_GEOMS = 2000


class Renderer:
    """Square pictures of `size` pixels of one model.

    The model's settings for shadow maps and multisampling are switched off: 25 ms a light and frame in software.
    Renderers of models with the same meshes and textures share what these need in OpenGL, up to 0.1 GB.
    Raises ValueError where there is no OpenGL that needs no display.
    """

    def __init__(self, model: mujoco.MjModel, size: int):
        model.vis.quality.shadowsize = model.vis.quality.offsamples = 0
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        self._model, self._canvas = model, _canvas_for(model, size)
        self._scene, self._option = mujoco.MjvScene(model, MAX_GEOMS), mujoco.MjvOption()

    def picture(self, data: mujoco.MjData, camera: mujoco.MjvCamera) -> np.ndarray:
        """uint8[size,size,3], the first row on top."""
        assert self._canvas is not None
        mujoco.mjv_updateScene(self._model, data, self._option, None, camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene)
        for flag in UNWANTED:
            self._scene.flags[flag] = False
        return self._canvas.draw(self._scene)

    def close(self) -> None:
        """Gives up its share; otherwise that is done when it is forgotten, or when the process ends."""
        self._canvas = None


class _Canvas:
    """An OpenGL context with the meshes and textures of a model."""

    def __init__(self, model: mujoco.MjModel, size: int):
        try:
            self._gl = _context(size)
            self._gl.make_current()
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except Exception as error:  # each backend fails in its own way where its library or device is missing
            raise ValueError(
                f"MUJOCO_GL={backend()}: no pictures can be drawn with it ({type(error).__name__}: {error}); set "
                "MUJOCO_GL=egl on a GPU, or MUJOCO_GL=osmesa with Debian's libosmesa6 installed"
            ) from None
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._view, self._pixels = mujoco.MjrRect(0, 0, size, size), np.empty((size, size, 3), np.uint8)
        weakref.finalize(self, _free, self._gl, self._context)

    def draw(self, scene: mujoco.MjvScene) -> np.ndarray:
        self._gl.make_current()  # other canvases of this process have contexts of their own
        mujoco.mjr_render(self._view, scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._view, self._context)
        return self._pixels[::-1].copy()


_CANVASES: weakref.WeakValueDictionary[tuple[int, ...], _Canvas] = weakref.WeakValueDictionary()


def _canvas_for(model: mujoco.MjModel, size: int) -> _Canvas:
    """The canvas of that size that holds the same meshes and textures, or a new one."""
    uploaded = (model.mesh_vert, model.mesh_face, model.mesh_texcoord, model.tex_data, model.hfield_data)
    key = (size, model.nmesh, model.ntex, *(zlib.crc32(np.ascontiguousarray(array)) for array in uploaded))
    canvas = _CANVASES.get(key)
    if canvas is None:
        canvas = _CANVASES[key] = _Canvas(model, size)
    return canvas


def _free(gl: Any, context: Any) -> None:
    gl.make_current()  # in another's context it would free that one's
    context.free()
    gl.free()


def fixed_camera(model: mujoco.MjModel, name: str) -> mujoco.MjvCamera:
    """A camera that the model has."""
    camera = mujoco.MjvCamera()
    camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, model.camera(name).id
    return camera


def free_camera(lookat: tuple[float, float, float], distance: float, azimuth: float, elevation: float) -> Any:
    """A camera `distance` metres from the point it looks at; angles in degrees."""
    camera = mujoco.MjvCamera()
    camera.lookat[:], camera.distance, camera.azimuth, camera.elevation = lookat, distance, azimuth, elevation
    return camera


def backend() -> str:
    """What draws without a display: $MUJOCO_GL, else the GPU's "egl" where there is one, else "osmesa"."""
    devices = pathlib.Path("/dev")
    has_gpu = (devices / "nvidiactl").exists() or any(devices.glob("dri/renderD*"))
    return os.environ.get("MUJOCO_GL", "").lower() or ("egl" if has_gpu else "osmesa")


def _context(size: int) -> Any:
    """An OpenGL context of MuJoCo's bindings, whichever was chosen when `mujoco` was first imported."""
    name = backend()
    if not sys.platform.startswith("linux"):
        return mujoco.GLContext(size, size)
    if name == "egl":
        from mujoco.egl import GLContext
    elif name == "osmesa":
        from mujoco.osmesa import GLContext
    else:
        from mujoco.glfw import GLContext
    return GLContext(size, size)
