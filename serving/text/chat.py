"""Messages as one prompt: the template of Gemma where the vocabulary has its turns, else a plain pattern."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageOps

from data.elements import Document
from data.image_processing import rgb
from data.image_prompt import ImageForm, ImageMarks, image_prompt
from data.vocabulary import Vocabulary
from serving.prompts import as_document
from serving.text.errors import bad
from serving.text.fields import Fields, require_text

ROLES = ("system", "developer", "user", "assistant")
PLAIN_TURN = "{role}: {content}\n"
_START, _END = "<start_of_turn>", "<end_of_turn>"
_MAX_PIXELS = 50_000_000


@dataclasses.dataclass(frozen=True)
class Message:
    role: str
    text: str  # with a placeholder where a picture stands


@dataclasses.dataclass(frozen=True)
class ChatPrompt:
    """stop and ends: where the answer ends beside end-of-text."""

    document: Document
    stop: tuple[str, ...] = ()
    ends: frozenset[int] = frozenset()


class ChatTemplate:
    """How messages become a prompt of one model."""

    def __init__(self, vocabulary: Vocabulary, image: ImageForm | None = None, turn: str = PLAIN_TURN):
        """turn: the pattern of a turn with {role} and {content}, for vocabularies without Gemma's turns. An answer is
        written after a turn's beginning, and ends before the beginning of the user's next.

        Raises ValueError for a pattern that does not hold {content} once.
        """
        pieces = turn.split("{content}")
        if len(pieces) != 2:
            raise ValueError(f"turn is {turn!r}; allowed: text that holds {{content}} once, such as {PLAIN_TURN!r}")
        self.vocabulary, self.image = vocabulary, image
        self._before, self._after = pieces
        self.is_gemma = not vocabulary.has_symbols and _has(vocabulary, _START) and _has(vocabulary, _END)

    def prompt(self, messages: Any) -> ChatPrompt:
        """Raises ApiError for messages that are no conversation."""
        if not isinstance(messages, list) or not messages:
            raise bad("messages must be a list that is not empty", "messages")
        pictures: list[np.ndarray] = []
        read = [self._message(message, f"messages[{i}]", pictures) for i, message in enumerate(messages)]
        text = self._gemma(read) if self.is_gemma else self._plain(read)
        document = self._document(text, pictures)
        if self.is_gemma:
            return ChatPrompt(document, ends=frozenset([self.vocabulary.piece_id(_END)]))
        return ChatPrompt(document, stop=tuple(filter(str.strip, [self._after + self._beginning("user").rstrip()])))

    def _gemma(self, messages: Sequence[Message]) -> str:
        """The system's words stand before the user's first; turns alternate."""
        system = ""
        if messages[0].role in ("system", "developer"):
            system, messages = messages[0].text + "\n\n", messages[1:]
        for i, message in enumerate(messages):
            expected = ("user", "assistant")[i % 2]
            if message.role != expected:
                raise bad(
                    f"this model's turns alternate from the user's on; turn {i} is the {message.role}'s", "messages"
                )
        if not messages or messages[-1].role != "user":
            raise bad("the last message must be the user's", "messages")
        names = {"user": "user", "assistant": "model"}
        turns = [f"{names[m.role]}\n{system if m is messages[0] else ''}{m.text}{_END}\n" for m in messages]
        return "".join(_START + turn for turn in [*turns, "model\n"])

    def _plain(self, messages: Sequence[Message]) -> str:
        turns = [self._beginning(m.role) + m.text + self._after for m in messages]
        return "".join(turns) + self._beginning("assistant").rstrip(" ")

    def _beginning(self, role: str) -> str:
        return self._before.replace("{role}", role)

    def _document(self, text: str, pictures: Sequence[np.ndarray]) -> Document:
        if not pictures:
            return as_document(text, self.vocabulary)
        assert self.image is not None
        try:
            return image_prompt(text, pictures, self.vocabulary, self.image)
        except ValueError as error:
            raise bad(str(error), "messages") from None

    def _message(self, message: Any, path: str, pictures: list[np.ndarray]) -> Message:
        fields = Fields(message, path)
        role, content = fields.text("role"), fields.any("content")
        fields.end()
        if role not in ROLES:
            raise bad(f"{path}.role is {str(role)[:60]!r}; allowed: {', '.join(ROLES)}", f"{path}.role")
        if isinstance(content, str):
            parts = [require_text(content, f"{path}.content")]
        elif isinstance(content, list) and content:
            parts = [self._part(part, f"{path}.content[{i}]", pictures) for i, part in enumerate(content)]
        else:
            raise bad(f"{path}.content must be a string or a list of parts", f"{path}.content")
        trimmed = self.is_gemma and role in ("user", "assistant")  # as its own template does
        return Message(role, "".join(part.strip() if trimmed else part for part in parts))

    def _part(self, part: Any, path: str, pictures: list[np.ndarray]) -> str:
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
        if self.image is None:
            raise bad(f"{path} is an image, and this model takes none", path)
        image = Fields(fields.any("image_url"), f"{path}.image_url")
        fields.end()
        url = image.text("url")
        image.neutral({"detail": ("auto",)})
        image.end()
        pictures.append(_decoded(url or "", f"{path}.image_url.url"))
        return ImageMarks.of(self.vocabulary).placeholder


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


def _has(vocabulary: Vocabulary, piece: str) -> bool:
    try:
        vocabulary.piece_id(piece)
    except ValueError:
        return False
    return True
