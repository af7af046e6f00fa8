"""Pictures by OpenGL: what is on top, what is left out, and several renderers in one process."""

import mujoco
import numpy as np
import pytest

from eval.envs.rendering import Renderer, backend, fixed_camera, free_camera

SCENE = """<mujoco><worldbody><light pos="2 0 4"/><light pos="-2 0 4"/>
<camera name="front" pos="0 -3 1" xyaxes="1 0 0 0 0 1"/>
<geom type="plane" size="5 5 .1" rgba=".5 .5 .5 1"/>
<geom type="box" size=".3 .3 .3" pos="{x} 0 {z}" rgba="{rgba} 1"/>
</worldbody></mujoco>"""


@pytest.fixture(autouse=True)
def _needs_opengl(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", backend())
    model, _ = scene()
    try:
        Renderer(model, 8).close()
    except ValueError as error:
        pytest.skip(str(error))


def scene(x: float = 0, z: float = 1, rgba: str = "1 0 0") -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = mujoco.MjModel.from_xml_string(SCENE.format(x=x, z=z, rgba=rgba))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def centre(picture: np.ndarray) -> tuple[float, float]:
    """Row and column of what is red."""
    rows, columns = np.nonzero(picture[..., 0] > picture[..., 1] + 60.0)
    return float(rows.mean()), float(columns.mean())


def test_up_in_the_world_is_up_in_the_picture_and_right_is_right():
    low, high = (picture_of(*scene(z=z)) for z in (0.7, 1.3))
    left, right = (picture_of(*scene(x=x)) for x in (-0.5, 0.5))
    assert low.shape == (48, 48, 3)
    assert low.dtype == np.uint8
    assert centre(high)[0] < centre(low)[0] - 5
    assert centre(left)[1] < centre(right)[1] - 5
    free = free_camera((0, 0, 1), distance=3, azimuth=90, elevation=0)  # looks along y, as the model's camera does
    assert np.allclose(centre(picture_of(*scene(), camera=free)), centre(picture_of(*scene())), atol=1)


def picture_of(model, data, camera=None) -> np.ndarray:
    renderer = Renderer(model, 48)
    picture = renderer.picture(data, camera or fixed_camera(model, "front"))
    renderer.close()
    return picture


def test_nothing_casts_a_shadow_and_there_is_no_sky():
    picture = picture_of(*scene(z=0.6))
    below = picture[-4, :, :].astype(int)  # the ground in front of and beside the box
    assert np.ptp(below.mean(axis=1)) < 25
    assert (picture[0] == 0).all()


def test_a_renderer_that_ends_leaves_the_others_alone():
    model, data = scene(rgba="0 1 0")
    camera = fixed_camera(model, "front")
    first, second = Renderer(model, 16), Renderer(model, 32)  # of another size, so that nothing is shared
    before = second.picture(data, camera)
    assert before.std() > 10
    first.close()
    np.testing.assert_array_equal(second.picture(data, camera), before)
    third = Renderer(model, 24)
    expected = third.picture(data, camera)
    del second  # frees what it has while the third is in use
    np.testing.assert_array_equal(third.picture(data, camera), expected)
    third.close()
    third.close()  # once is enough


def test_models_with_the_same_meshes_share_what_opengl_holds_of_them():
    models = [scene(rgba=rgba) for rgba in ("1 0 0", "0 0 1")]
    renderers = [Renderer(model, 32) for model, _ in models]
    camera = fixed_camera(models[0][0], "front")
    red, blue = (renderer.picture(data, camera) for renderer, (_, data) in zip(renderers, models, strict=True))
    assert renderers[0]._canvas is renderers[1]._canvas
    assert Renderer(models[0][0], 16)._canvas is not renderers[0]._canvas
    assert red[16, 16, 0] > 100 > red[16, 16, 2]
    assert blue[16, 16, 2] > 100 > blue[16, 16, 0]
    renderers[0].close()
    np.testing.assert_array_equal(renderers[1].picture(models[1][1], camera), blue)


@pytest.mark.filterwarnings("ignore")  # of glfw, before it fails
@pytest.mark.parametrize("name", ["the other one", "disable"])
def test_a_backend_that_cannot_draw_is_named_with_the_remedy(monkeypatch, name):
    other = "egl" if backend() == "osmesa" else "osmesa"  # two of them cannot be had in one process
    name = {"the other one": other}.get(name, name)
    monkeypatch.setenv("MUJOCO_GL", name)
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(ValueError, match=rf"MUJOCO_GL={name}: no pictures .*libosmesa6"):
        Renderer(scene()[0], 9)  # of a size that nothing is kept for
