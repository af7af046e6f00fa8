"""TFRecords without TensorFlow: published checksums, a real file, and damage that is named."""

import pathlib
import random

import pytest

from data.elements import CorruptRecord
from data.tf_example import example_features
from data.tfrecord import crc32c, masked_crc, read_record, record_offsets

BRIDGE = pathlib.Path(__file__).parents[1] / "assets/bridge_mini/bridge_mini.tfrecord"


@pytest.mark.parametrize(
    ("data", "published"),  # RFC 3720, appendix B.4, and the check value of the CRC catalogue
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
    ],
)
def test_checksums_are_the_published_ones(data, published):
    assert crc32c(data) == published


@pytest.mark.parametrize("length", [0, 1, 255, 256, 257, 512, 1000, 5000])
def test_blocks_give_what_byte_after_byte_gives(length):
    data = random.Random(length).randbytes(length)
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    assert crc32c(data) == crc ^ 0xFFFFFFFF


def test_the_records_of_a_real_file_pass_their_checksums():
    places = record_offsets(BRIDGE)
    assert len(places) == 2
    for path_and_place, said in zip(
        places, (b"flip pot upright which is in sink", b"turn lever vertical to front"), strict=True
    ):
        features = example_features(read_record(BRIDGE, *path_and_place))
        assert features["steps/language_instruction"] == [said] * 10
        assert features["steps/action"].shape == (70,)
        assert features["steps/is_first"].tolist() == [1] + [0] * 9
        assert features["steps/observation/image_0"][0][:2] == b"\xff\xd8"  # a JPEG


def test_damage_to_data_spoils_its_record_and_damage_to_a_length_the_file(tmp_path):
    path = tmp_path / "a.tfrecord"
    data = bytearray(BRIDGE.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    first, second = record_offsets(path)
    with pytest.raises(CorruptRecord, match="fails its checksum"):
        read_record(path, *first)
    assert read_record(path, *second)
    data[second[0] - 12] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.tfrecord, record 1: its length fails its checksum"):
        record_offsets(path)


@pytest.mark.parametrize("kept", [5, 12, 2000])
def test_a_truncated_file_is_named_and_gives_its_whole_records_where_that_is_asked_for(tmp_path, kept):
    path, problems = tmp_path / "a.tfrecord", []
    end = sum(record_offsets(BRIDGE)[0]) + 4
    path.write_bytes(BRIDGE.read_bytes()[: end + kept])
    with pytest.raises(ValueError, match=r"a\.tfrecord, record 1: the file ends inside it; copy the file again"):
        record_offsets(path)
    assert record_offsets(path, problems.append) == record_offsets(BRIDGE)[:1]
    assert len(problems) == 1


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.tfrecord").write_bytes(b"\x1f\x8b compressed or something else entirely")
    with pytest.raises(ValueError, match="record 0: its length fails its checksum; the file is damaged, or no plain"):
        record_offsets(tmp_path / "a.tfrecord")


def test_the_mask_is_a_rotation_and_a_constant():
    assert masked_crc(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) % 2**32
