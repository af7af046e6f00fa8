"""Messages in the form of the OpenAI API, as data files hold them."""

from __future__ import annotations

import base64
import io
from typing import Any

import fsspec
import numpy as np
from PIL import Image as PillowImage
from PIL import ImageOps

from data.chat import ROLES, Message
from data.image_processing import rgb


def read_messages(value: Any, folder: str = "", name: str = "messages") -> list[Message]:
    """Messages in the form of the OpenAI API; images are read from paths relative to `folder` or from data: URLs.

    Raises ValueError naming what is wrong.
    """
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} must be a list of messages that is not empty")
    return [_message(message, f"{name}[{i}]", folder) for i, message in enumerate(value)]


def _message(value: Any, path: str, folder: str) -> Message:
    role, content = (value.get(field) if isinstance(value, dict) else None for field in ("role", "content"))
    if role not in ROLES:
        raise ValueError(f"{path}.role is {str(role)[:60]!r}; allowed: {', '.join(ROLES)}")
    if isinstance(content, str):
        return Message(role, (content,))
    if not isinstance(content, list) or not content:
        raise ValueError(f"{path}.content must be a string or a list of parts")
    return Message(role, tuple(_part(part, f"{path}.content[{i}]", folder) for i, part in enumerate(content)))


def _part(part: Any, path: str, folder: str) -> str | np.ndarray:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    url = (part.get("image_url") or {}).get("url") if kind == "image_url" else None
    if not isinstance(url, str):
        raise ValueError(f"{path} must be a text with `text`, or an image_url with the `url` of a picture")
    try:
        if url.startswith("data:"):
            content = base64.b64decode(url.partition(",")[2])
        else:
            with fsspec.open(url if "://" in url or url.startswith("/") else f"{folder}/{url}", "rb") as file:
                content = file.read()
        with PillowImage.open(io.BytesIO(content)) as opened:
            return rgb(ImageOps.exif_transpose(opened))
    except (OSError, ValueError, SyntaxError, PillowImage.DecompressionBombError) as error:
        raise ValueError(f"{path}: no picture can be read from {url[:80]!r} ({str(error)[:100]})") from None
