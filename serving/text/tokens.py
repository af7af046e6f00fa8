"""What a token is called in an answer, and the bytes that it stands for."""

from __future__ import annotations

import re

from data.vocabulary import Vocabulary

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def token_bytes(vocabulary: Vocabulary, token: int) -> bytes:
    """What the token adds to the text as UTF-8, of which it may be a part; a symbol gives its name."""
    piece = vocabulary.piece(token)
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()


def token_name(vocabulary: Vocabulary, token: int) -> str:
    """The token as text; one byte that is no character as `bytes:\\xE2`, in the manner of the API."""
    content = token_bytes(vocabulary, token)
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)
