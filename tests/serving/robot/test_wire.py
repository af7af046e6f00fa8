"""Frames are those of openpi's client, and no bytes do more than name data."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.robot.wire import pack, unpack

CONTENTS = [
    {},
    {"a": np.zeros(1, np.float32)},
    {"images": {"cam": np.arange(24, dtype=np.uint8).reshape(2, 4, 3)}, "prompt": "pick ☃ up", "n": 3, "x": 1.5},
    {"scalar": np.float32(2.5), "flag": np.bool_(True), "none": None, "list": [1, "b", b"c"]},
    {"empty": np.zeros((0, 3), np.int64), "text": np.array(["ab", "c"])},
    {"strided": np.arange(12, dtype=np.int16).reshape(3, 4)[:, ::2]},
]


def same(left, right):
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and (left == right).all()
    return type(left) is type(right) and left == right


@pytest.mark.parametrize("content", CONTENTS)
def test_what_was_packed_is_unpacked(content):
    assert same(unpack(pack(content)), content)


@pytest.mark.parametrize("content", CONTENTS)
def test_frames_are_those_of_openpis_client(content):
    theirs = pytest.importorskip("openpi_client.msgpack_numpy")
    assert pack(content) == theirs.packb(content)
    assert same(theirs.unpackb(pack(content)), content)


def test_an_array_is_a_map_with_binary_keys():
    expected = bytes.fromhex("81a16184") + b"\xc4\x0b__ndarray__\xc3" + b"\xc4\x04data\xc4\x04" + bytes(4)
    assert pack({"a": np.zeros(1, "<f4")}) == expected + b"\xc4\x05dtype\xa3<f4" + b"\xc4\x05shape\x91\x01"


@pytest.mark.parametrize("array", [np.array([{}]), np.zeros(2, "c8"), np.zeros(1, [("a", "f4")])])
def test_objects_structures_and_complex_numbers_are_refused_both_ways(array):
    with pytest.raises(ValueError, match="allowed: booleans"):
        pack({"a": array})
    frame = pack({"a": np.zeros(4, "u1")}).replace(b"\xa3|u1", b"\xa2|O" if array.dtype.kind == "O" else b"\xa2c8")
    with pytest.raises(ValueError, match="no msgpack message"):
        unpack(frame)


def test_an_array_larger_than_its_bytes_is_refused():
    with pytest.raises(ValueError, match="no msgpack message"):
        unpack(pack({"a": np.zeros(3, "u1")}).replace(b"shape\x91\x03", b"shape\x91\x7f"))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 200), st.integers(0, 255))
def test_any_bytes_are_a_message_or_a_value_error(noise, place, byte):
    good = bytearray(pack(CONTENTS[2]))
    good[place % len(good)] = byte
    for frame in (noise, bytes(good), bytes(good[: place % len(good)])):
        with contextlib.suppress(ValueError):  # of the project's own, see above
            unpack(frame)
