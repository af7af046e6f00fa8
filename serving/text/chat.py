"""Messages of a request as a prompt; the template is the one that training has."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageOps

from data.chat import ROLES, ChatPrompt, ChatTemplate, Message
from data.image_processing import rgb
from serving.text.errors import bad
from serving.text.fields import Fields, require_text

_MAX_PIXELS = 50_000_000


class ChatReader:
    """Reads the messages of requests for one model."""

    def __init__(self, template: ChatTemplate):
        self.template = template

    def prompt(self, messages: Any) -> ChatPrompt:
        """Raises ApiError for messages that are no conversation."""
        if not isinstance(messages, list) or not messages:
            raise bad("messages must be a list that is not empty", "messages")
        read = [self._message(message, f"messages[{i}]") for i, message in enumerate(messages)]
        try:
            return self.template.prompt(read)
        except ValueError as error:
            raise bad(str(error), "messages") from None

    def _message(self, message: Any, path: str) -> Message:
        fields = Fields(message, path)
        role, content = fields.text("role"), fields.any("content")
        fields.end()
        if role not in ROLES:
            raise bad(f"{path}.role is {str(role)[:60]!r}; allowed: {', '.join(ROLES)}", f"{path}.role")
        if isinstance(content, str):
            return Message(role, (require_text(content, f"{path}.content"),))
        if not isinstance(content, list) or not content:
            raise bad(f"{path}.content must be a string or a list of parts", f"{path}.content")
        return Message(role, tuple(self._part(part, f"{path}.content[{i}]") for i, part in enumerate(content)))

    def _part(self, part: Any, path: str) -> str | np.ndarray:
        fields = Fields(part, path)
        kind = fields.text("type")
        if kind == "text":
            text = fields.text("text")
            fields.end()
            if text is None:
                raise bad(f"{path}.text is missing", f"{path}.text")
            return text
        if kind != "image_url":
            raise bad(f"{path}.type is {str(kind)[:60]!r}; allowed: 'text', 'image_url'", f"{path}.type")
        if self.template.image is None:
            raise bad(f"{path} is an image, and this model takes none", path)
        image = Fields(fields.any("image_url"), f"{path}.image_url")
        fields.end()
        url = image.text("url")
        image.neutral({"detail": ("auto",)})
        image.end()
        return _decoded(url or "", f"{path}.image_url.url")


def _decoded(url: str, path: str) -> np.ndarray:
    """uint8[H,W,3] of a `data:` URL; nothing is fetched."""
    header, _, content = url.partition(",")
    if not header.startswith("data:image/") or not header.endswith(";base64"):
        raise bad(f"{path} must begin with data:image/...;base64, as this server fetches nothing", path)
    try:
        with PillowImage.open(io.BytesIO(base64.b64decode(content, validate=True))) as opened:
            if opened.width * opened.height > _MAX_PIXELS:
                raise bad(f"{path} is {opened.width} x {opened.height} pixels; allowed: {_MAX_PIXELS} in all", path)
            return rgb(ImageOps.exif_transpose(opened))
    except (OSError, ValueError, SyntaxError, binascii.Error, PillowImage.DecompressionBombError) as error:
        raise bad(f"{path} holds no picture that can be read: {str(error)[:100]}", path) from None
