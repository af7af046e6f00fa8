"""A client's message becomes what the policy sees, or an error names the field."""

import numpy as np
import pytest

from serving.robot.fields import PRESETS, Fields, Reader, own_fields
from tests.serving.robot.machine import message

READER = Reader({"arm": own_fields(("observation.images.front",))}, default="arm")


def test_cameras_state_and_prompt_become_an_observation():
    seen = READER.read(message())
    assert seen.images[0].shape == (8, 6, 3)
    assert (seen.instruction, seen.embodiment) == ("push", "arm")
    assert seen.proprio.tolist() == [1, 2]


def test_a_field_may_stand_in_a_map_or_under_its_whole_name():
    flat = {"images/front": message()["images"]["front"], "state": [1, 2], "prompt": "push"}
    np.testing.assert_equal(READER.read(flat).images, READER.read(message()).images)


def test_messages_of_openpis_robots_are_read_as_its_clients_send_them():
    picture = np.zeros((224, 224, 3), np.uint8)
    droid = {
        "observation/exterior_image_1_left": picture,
        "observation/wrist_image_left": picture + 1,
        "observation/joint_position": np.arange(7.0),
        "observation/gripper_position": np.array([0.5]),
        "prompt": "open the drawer",
    }
    seen = Reader({"droid": PRESETS["droid"]}, "droid").read(droid)
    assert seen.proprio.tolist() == [0, 1, 2, 3, 4, 5, 6, 0.5]
    assert [image.max() for image in seen.images] == [0, 1]
    aloha = {"images": {name: np.zeros((3, 48, 64), np.uint8) for name in ("cam_high", "cam_low")}}
    aloha["images"] |= {name: np.zeros((3, 48, 64), np.uint8) for name in ("cam_left_wrist", "cam_right_wrist")}
    seen = Reader({"aloha": PRESETS["aloha"]}, "aloha").read(aloha | {"state": np.zeros(14), "prompt": "fold"})
    assert {image.shape for image in seen.images} == {(48, 64, 3)}


def test_goal_and_running_chunk_may_be_given():
    picture, left = np.full((8, 6, 3), 9, np.uint8), np.ones((3, 2))
    assert READER.read(message()).goal == ()
    seen = READER.read(message(goal={"front": picture}, running=left))
    assert (seen.goal[0] == 9).all()
    assert seen.running.tolist() == left.tolist()
    with pytest.raises(ValueError, match="goal/front is missing"):
        READER.read(message(goal={}))
    with pytest.raises(ValueError, match=r"running is float64 \[2\]; send the actions"):
        READER.read(message(running=np.ones(2)))


def test_pictures_may_be_numbers_from_0_to_1():
    image = np.zeros((2, 2, 3), np.float32)
    image[0, 0] = 1
    seen = READER.read(message(images={"front": image}))
    assert seen.images[0].dtype == np.uint8
    assert seen.images[0][0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"images": {}}, "images/front is missing; the message has 'images', 'prompt', 'state'"),
        ({"images": {"front": np.zeros((8, 6), np.uint8)}}, r"images/front is uint8 \[8, 6\]"),
        ({"images": {"front": np.zeros((8, 6, 3), np.int32)}}, r"images/front is int32 \[8, 6, 3\]"),
        ({"images": {"front": np.zeros((8, 6, 4), np.uint8)}}, "images/front is uint8"),
        ({"images": {"front": np.full((8, 6, 3), 2.0)}}, "images/front holds numbers outside 0..1"),
        ({"images": {"front": np.full((8, 6, 3), np.nan)}}, "images/front holds numbers outside 0..1"),
        ({"images": {"front": "picture"}}, "images/front is str 'picture'"),
        ({"state": "left"}, "state is str 'left'; send a vector"),
        ({"state": np.array([1, np.nan])}, "state is float64.*finite"),
        ({"state": np.zeros((2, 2))}, "state is float64"),
        ({"state": None}, "state is NoneType"),
        ({"prompt": b"push"}, "prompt is bytes"),
        ({"embodiment": "leg"}, "embodiment is 'leg'; allowed: arm"),
        ({"embodiment": 3}, "embodiment is 3; allowed: arm"),
    ],
)
def test_what_cannot_be_used_is_named(changes, named):
    with pytest.raises(ValueError, match=named):
        READER.read(message(**changes))


@pytest.mark.parametrize("content", [None, 3, [1], "text", b"bytes"])
def test_a_message_is_a_map(content):
    with pytest.raises(ValueError, match="send a map of fields"):
        READER.read(content)


def test_a_policy_of_several_robots_wants_to_know_which():
    reader = Reader({"a": Fields(("i",)), "b": Fields(("i",))})
    with pytest.raises(ValueError, match="embodiment is missing; allowed: a, b"):
        reader.read(message())
    assert reader.read(message(embodiment="b", i=np.zeros((2, 2, 3), np.uint8))).embodiment == "b"
    with pytest.raises(ValueError, match="embodiment is 'c'; this policy knows a, b"):
        Reader({"a": Fields(("i",)), "b": Fields(("i",))}, default="c")
