"""Ray-cast pictures against one ray at a time, and annotated points against the pixels they name."""

import hashlib
import subprocess
import sys

import mujoco
import numpy as np
import pytest

from eval.envs.tabletop import ARMS, TASKS, Tabletop
from eval.envs.tabletop.render import AMBIENT, CAMERA, DIFFUSE, LIGHT, MOVING, SHADOW, SUN, Painter
from eval.envs.tabletop.scene import COLOURS, TABLE_GREY, Layout, Object, Zone, build_model, place

HASH = "import hashlib; from eval.envs.tabletop import Tabletop; "
HASH += "print(hashlib.sha256(Tabletop('arm6', 'sort').reset(3)['image'].tobytes()).hexdigest())"


def _table(layout: Layout):
    model = build_model("arm5")
    data = mujoco.MjData(model)
    place(model, data, layout)
    data.qpos[model.joint("shoulder").qposadr[0]] = -1.5  # the arm lies back, out of the picture
    mujoco.mj_kinematics(model, data)
    return Painter(model, layout), data


def _single_rays(env):
    """The geom that each ray hits, cast one by one: int[4096]."""
    geom, hits_P = np.zeros(1, np.int32), np.zeros(len(CAMERA.rays_P3), int)
    for pixel, ray in enumerate(CAMERA.rays_P3):
        mujoco.mj_ray(env.model, env.data, CAMERA.position, ray, MOVING, 1, -1, geom)
        hits_P[pixel] = geom[0]
    return hits_P


@pytest.mark.parametrize("arm", ARMS)
def test_every_pixel_shows_what_a_single_ray_hits(arm):
    env = Tabletop(arm, "lift")
    env.reset(11)
    for _ in range(9):
        env.step(env.expert_action(), render=False)
    _, shown_P = env._painter.frame(env.data)
    everywhere, n = np.zeros(4096, np.int32), 4096
    rays, spare = CAMERA.rays_P3.ravel().copy(), (np.zeros(n), np.zeros(3 * n))
    mujoco.mj_multiRay(env.model, env.data, CAMERA.position, rays, MOVING, 1, -1, everywhere, *spare, n, 10.0)
    np.testing.assert_array_equal(shown_P, everywhere)  # casting inside bounding boxes alone loses nothing
    # mj_multiRay itself culls by angle and trims the corners of boxes by a pixel or two.
    assert (shown_P != _single_rays(env)).sum() <= 10
    assert (shown_P >= 0).sum() > 100


def test_a_face_has_the_colour_of_its_object_shaded_by_its_normal():
    painter, data = _table(Layout((Object("red", "cube", (0.0, 0.0)),)))
    picture, _ = painter.frame(data)
    (row, column), _ = CAMERA.project(np.array([[0.0, 0.0, 0.052]]))[0][0] * 64, None
    top = 255 * np.array(COLOURS["red"]) * (AMBIENT + DIFFUSE * SUN[2])
    np.testing.assert_allclose(picture[int(row), int(column)], top, atol=1)


def test_zones_are_discs_of_the_true_radius_and_the_table_is_neutral():
    painter, data = _table(Layout((), (Zone("green", (0.05, -0.05)),)))
    picture, shown_P = painter.frame(data)
    _, (pixels,) = painter.pixels_in_sight(shown_P)
    # Pixels of a disc = its solid angle: compare with the share of rays whose ground point lies inside.
    ground = CAMERA.position + CAMERA.rays_P3 * (-CAMERA.position[2] / CAMERA.rays_P3[:, 2:])
    assert pixels == (np.hypot(ground[:, 0] - 0.05, ground[:, 1] + 0.05) < 0.075).sum() > 150
    grey = 255 * TABLE_GREY * (AMBIENT + DIFFUSE * SUN[2])
    np.testing.assert_allclose(picture[60, 60], grey, atol=1)


def test_an_object_in_the_air_throws_its_shadow_away_from_the_light():
    painter, data = _table(Layout((Object("blue", "cylinder", (0.0, 0.0)),)))
    place = np.array([0.0, 0.0, 0.15])
    data.joint("object0").qpos[:3] = place
    mujoco.mj_kinematics(painter.model, data)
    picture, shown_P = painter.frame(data)
    red_P = picture.reshape(-1, 3)[:, 0].astype(float)
    assert set(np.unique(red_P[shown_P < 0])) == {red_P[0], red_P[0] * SHADOW // 1}
    shaded_P = (shown_P < 0) & (red_P < red_P[0])
    expected = LIGHT.position + (place - LIGHT.position) * LIGHT.position[2] / (LIGHT.position[2] - place[2])
    np.testing.assert_allclose(CAMERA.ground()[shaded_P].mean(0), expected[:2], atol=0.012)
    assert 30 < shaded_P.sum() < 100


def test_all_colours_and_the_gripper_are_far_apart():
    colours = np.array([*COLOURS.values(), (TABLE_GREY,) * 3, (1.0, 0.5, 0.1)])
    gaps = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    assert gaps[~np.eye(len(colours), dtype=bool)].min() > 0.35


def test_projection_is_the_inverse_of_casting():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 4096, 50)
    points = CAMERA.position + CAMERA.rays_P3[pixels] * rng.uniform(0.5, 1.2, (50, 1))
    image, depth = CAMERA.project(points)
    np.testing.assert_allclose(image * 64, np.stack(np.divmod(pixels, 64), 1) + 0.5, atol=1e-9)
    assert (depth > 0).all()


def test_pictures_are_the_same_in_another_process():
    other = subprocess.run([sys.executable, "-c", HASH], check=True, capture_output=True, text=True).stdout.strip()
    assert other == hashlib.sha256(Tabletop("arm6", "sort").reset(3)["image"].tobytes()).hexdigest()


@pytest.mark.parametrize("task", TASKS)
def test_points_lie_on_what_they_name(task):
    """At the annotated pixel the picture has the hue of the named colour, unless the arm is in front."""
    env = Tabletop("arm5", task)
    checked = 0
    for seed in range(8):
        picture = env.reset(seed)["image"]
        arm_P = (env._shown >= 0) & ~np.isin(
            env._shown, np.arange(env._painter.objects.start, env._painter.objects.stop)
        )
        for point in env.points():
            y, x = point["point"]
            row, column = min(63, y * 64 // 1000), min(63, x * 64 // 1000)
            if arm_P.reshape(64, 64)[row, column] or point["label"].endswith("zone"):
                continue  # another object may stand on a zone
            assert isinstance(y, int)
            expected = np.array(COLOURS[point["label"].split()[0]])
            shown = picture[row, column] / 255
            cosine = shown @ expected / np.linalg.norm(shown) / np.linalg.norm(expected)
            assert cosine > 0.98, (point, shown)
            checked += 1
    assert checked > 12


def test_only_what_is_in_sight_is_named():
    env, hidden = Tabletop("arm6", "reach"), 0
    for seed in (*range(10), 55, 127, 134, 145):
        _, points = env.scene(seed)
        hits_P = _single_rays(env)
        pixels = [(hits_P == env.model.geom(f"object{i}").id).sum() for i in range(len(env.layout.objects))]
        visible = {item.name for item, seen in zip(env.layout.objects, pixels, strict=True) if seen >= 4}
        assert {point["label"] for point in points} == visible
        hidden += len(pixels) - len(visible)
    assert hidden >= 3


def test_what_lies_outside_the_picture_is_not_named():
    env = Tabletop("arm5", "reach")
    env.reset(0)
    env.layout = Layout((Object("red", "cube", (0.0, 0.0)), Object("green", "cube", (0.9, 0.0))))
    env._set_up(np.array([-0.15, -0.1, 0.2]), opening=0.0)
    mujoco.mj_kinematics(env.model, env.data)
    env.observe()
    assert [point["label"] for point in env.points()] == ["red cube"]
