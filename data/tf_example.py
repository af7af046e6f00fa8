"""The bytes features of a serialized tf.train.Example, read straight from the protobuf wire format."""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def bytes_feature(example: bytes, name: str) -> bytes:
    """The single bytes value of feature `name`. Raises ValueError where it is absent or the message is broken.

    Example { Features features = 1 }, Features { map<string, Feature> feature = 1 }, Feature { BytesList = 1 },
    BytesList { repeated bytes value = 1 }; a map entry is a message { key = 1, value = 2 }.
    """
    found = []
    for features in _messages(example, 1):
        for entry in _messages(features, 1):
            key = b"".join(_messages(entry, 1)).decode("utf-8", "replace")
            if key == name:
                values = [
                    v for feature in _messages(entry, 2) for kind in _messages(feature, 1) for v in _messages(kind, 1)
                ]
                if len(values) != 1:
                    raise ValueError(f"feature {name!r} holds {len(values)} byte strings, not one")
                return values[0]
            found.append(key)
    raise ValueError(f"no feature {name!r} in this tf.train.Example (it has {', '.join(sorted(found)) or 'none'})")


def _messages(data: bytes, field: int) -> Iterator[bytes]:
    """The length-delimited values of one field, in order."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        wire_type = tag & 7
        if wire_type == _VARINT:
            _, position = _varint(data, position)
            continue
        if wire_type == _BYTES:
            length, position = _varint(data, position)
        elif wire_type in (_FIXED32, _FIXED64):
            length = 4 if wire_type == _FIXED32 else 8
        else:
            raise ValueError(f"not a protobuf message: wire type {wire_type}")
        if position + length > len(data):
            raise ValueError("truncated protobuf message")
        if wire_type == _BYTES and tag >> 3 == field:
            yield data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("truncated protobuf message")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("not a protobuf message: a varint of more than 10 bytes")
