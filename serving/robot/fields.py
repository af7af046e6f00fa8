"""Which fields of a client's message hold what: message -> `Observation`, or an error that names the field."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving.policy import Observation


@dataclasses.dataclass(frozen=True)
class Fields:
    """`images`: one field for each camera, in the policy's order. `state`: fields that make up proprioception, joined.

    goal: pictures of how things shall look, which may be left out; so may running, what is left of the chunk that the
    robot carries out. `a/b` is the entry "a/b" of the message or, where there is none, entry "b" of its map "a".
    """

    images: tuple[str, ...]
    state: tuple[str, ...] = ("state",)
    prompt: str = "prompt"
    embodiment: str = "embodiment"
    goal: tuple[str, ...] = ()
    running: str = "running"


# As openpi's clients of these robots send them.
PRESETS = {
    "libero": Fields(("observation/image", "observation/wrist_image"), ("observation/state",)),
    "droid": Fields(
        ("observation/exterior_image_1_left", "observation/wrist_image_left"),
        ("observation/joint_position", "observation/gripper_position"),
    ),
    "aloha": Fields(tuple(f"images/{name}" for name in ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist"))),
}


def own_fields(cameras: Sequence[str]) -> Fields:
    """`images/<last part of the camera's name>`, `state`, `prompt`, and `goal/...` as the images."""
    names = [camera.rsplit(".", 1)[-1] for camera in cameras]
    return Fields(tuple(f"images/{name}" for name in names), goal=tuple(f"goal/{name}" for name in names))


class Reader:
    """Reads messages for the robots of one policy.

    fields: by embodiment. default: the embodiment of messages that name none; None if they must.
    """

    def __init__(self, fields: Mapping[str, Fields], default: str | None = None):
        self.fields, self.default = dict(fields), default
        if default is not None and default not in self.fields:
            raise ValueError(f"embodiment is {default!r}; this policy knows {', '.join(self.fields)}")

    def read(self, message: Any) -> Observation:
        """Raises ValueError naming the field that is missing or cannot be used."""
        if not isinstance(message, Mapping):
            raise ValueError(f"the message is {_kind(message)}; send a map of fields")
        name = self._embodiment(message)
        fields = self.fields[name]
        prompt = _find(message, fields.prompt)
        if not isinstance(prompt, str):
            raise ValueError(f"{fields.prompt} is {_kind(prompt)}; send the instruction as text")
        images = tuple(_pixels(field, _find(message, field)) for field in fields.images)
        parts = [_numbers(field, _find(message, field)) for field in fields.state]
        goal = tuple(_pixels(field, _find(message, field)) for field in fields.goal if _given(message, field))
        running = _steps(fields.running, message[fields.running]) if fields.running in message else None
        return Observation(images, prompt, np.concatenate(parts), name, goal, running)

    def _embodiment(self, message: Mapping) -> str:
        fields = {fields.embodiment for fields in self.fields.values()}
        name = next((message[field] for field in fields if field in message), self.default)
        if not isinstance(name, str) or name not in self.fields:
            given = repr(name)[:100] if name is not None else "missing"
            raise ValueError(f"{' or '.join(sorted(fields))} is {given}; allowed: {', '.join(self.fields)}")
        return name


def _given(message: Mapping, field: str) -> bool:
    return field in message or field.split("/")[0] in message


def _find(message: Mapping, field: str) -> Any:
    if field in message:
        return message[field]
    found: Any = message
    for part in field.split("/"):
        if not isinstance(found, Mapping) or part not in found:
            sent = ", ".join(sorted(repr(key)[:60] for key in message)[:20])
            raise ValueError(f"{field} is missing; the message has {sent or 'no fields'}")
        found = found[part]
    return found


def _pixels(field: str, value: Any) -> np.ndarray:
    """uint8[H,W,3]; a picture may also come as [3,H,W], and as numbers from 0 to 1."""
    allowed = "send uint8 [height, width, 3] or [3, height, width]"
    if not isinstance(value, np.ndarray) or value.ndim != 3:
        raise ValueError(f"{field} is {_kind(value)}; {allowed}")
    if value.shape[-1] != 3 and value.shape[0] == 3:
        value = value.transpose(1, 2, 0)
    if value.shape[-1] != 3 or 0 in value.shape or value.dtype.kind not in "uf":
        raise ValueError(f"{field} is {_kind(value)}; {allowed}")
    if value.dtype.kind == "f":
        if not (np.isfinite(value).all() and value.min() >= 0 and value.max() <= 1):
            raise ValueError(f"{field} holds numbers outside 0..1; {allowed}, or real numbers from 0 to 1")
        return np.round(value * 255).astype(np.uint8)
    if value.dtype != np.uint8:
        raise ValueError(f"{field} is {_kind(value)}; {allowed}")
    return np.ascontiguousarray(value)


def _numbers(field: str, value: Any) -> np.ndarray:
    """float32[a] of a vector, a list of numbers or one number."""
    try:
        numbers = np.atleast_1d(np.asarray(value, np.float32))
    except (TypeError, ValueError):
        raise ValueError(f"{field} is {_kind(value)}; send a vector of numbers") from None
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise ValueError(f"{field} is {_kind(value)} or not finite; send a vector of finite numbers")
    return numbers


def _steps(field: str, value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind not in "fiu":
        raise ValueError(f"{field} is {_kind(value)}; send the actions that are left as [steps, width]")
    return value.astype(np.float32)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return f"{type(value).__name__} {repr(value)[:60]}"
