"""The features of a serialized tf.train.Example, parsed by protobuf from a description of the message made here."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

_MESSAGES = {  # message -> (field, type, repeated), numbered from 1
    "BytesList": (("value", "bytes", True),),
    "FloatList": (("value", "float", True),),
    "Int64List": (("value", "int64", True),),
    "Feature": (
        ("bytes_list", "BytesList", False),
        ("float_list", "FloatList", False),
        ("int64_list", "Int64List", False),
    ),
    "Entry": (("key", "string", False), ("value", "Feature", False)),  # of the map that Features holds
    "Features": (("feature", "Entry", True),),
    "Example": (("features", "Features", False),),
}


def example_features(example: bytes) -> dict[str, list[bytes] | np.ndarray]:
    """Every feature by name: byte strings, float32[n] or int64[n], as flat as they are stored; an empty one is [].

    Raises ValueError where the message is broken.
    """
    message = example_class()()
    try:
        message.ParseFromString(example)
    except DecodeError as error:
        raise ValueError(f"not a tf.train.Example ({error})") from None
    return {entry.key: _values(entry.value) for entry in message.features.feature}


def bytes_feature(example: bytes, name: str) -> bytes:
    """The single bytes value of feature `name`. Raises ValueError where it is absent or the message is broken."""
    features = example_features(example)
    if name not in features:
        raise ValueError(
            f"no feature {name!r} in this tf.train.Example (it has {', '.join(sorted(features)) or 'none'})"
        )
    values = features[name]
    if not isinstance(values, list) or len(values) != 1:
        raise ValueError(f"feature {name!r} holds {len(values)} values, not one byte string")
    return values[0]


def _values(feature: Any) -> list[bytes] | np.ndarray:
    if len(feature.float_list.value):
        return np.array(feature.float_list.value, np.float32)
    if len(feature.int64_list.value):
        return np.array(feature.int64_list.value, np.int64)
    return list(feature.bytes_list.value)


@functools.cache
def example_class() -> Any:
    """tensorflow/core/example/{example,feature}.proto without the oneof, which the wire does not show."""
    file = descriptor_pb2.FileDescriptorProto(name="kinema_example.proto", package="kinema", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field_name, kind, repeated) in enumerate(fields, start=1):
            field = message.field.add(name=field_name, number=number)
            field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            if kind in _MESSAGES:
                field.type, field.type_name = field.TYPE_MESSAGE, f".kinema.{kind}"
            else:
                field.type = getattr(field, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("kinema.Example"))
