"""The fields of a request body: every one that came must be read, with the right type and within its range."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from serving.text.errors import bad


def parse_object(body: bytes) -> dict[str, Any]:
    """Raises ApiError for anything but a JSON object."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise bad(f"the request body is not JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise bad(f"the request body is {_kind(value)}; it must be a JSON object")
    return value


class Fields:
    """Takes fields out of a JSON object; `null` is the same as nothing."""

    def __init__(self, value: Any, path: str = ""):
        if not isinstance(value, Mapping):
            raise bad(f"{path or 'the request body'} is {_kind(value)}; it must be an object", path or None)
        self._left = {name: field for name, field in value.items() if field is not None}
        self._path = f"{path}." if path else ""

    def any(self, name: str, default: Any = None) -> Any:
        return self._left.pop(name, default)

    def text(self, name: str) -> str | None:
        value = self.any(name)
        if value is None:
            return None
        return require_text(value, self._path + name)

    def flag(self, name: str) -> bool:
        value = self.any(name, False)
        if not isinstance(value, bool):
            raise bad(f"{self._path}{name} is {_kind(value)}; it must be true or false", self._path + name)
        return value

    def number(self, name: str, default: float, least: float, most: float) -> float:
        value = self.any(name, default)
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        # Compared before it is made a float, as a JSON number may have any number of digits.
        if not numeric or not least <= value <= most or not math.isfinite(value):
            raise bad(f"{self._path}{name} is {_shown(value)}; allowed: {least:g} to {most:g}", self._path + name)
        return float(value)

    def integer(self, name: str, default: int | None, least: int | None = None, most: int | None = None) -> Any:
        value = self.any(name, default)
        if value is None:
            return None
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or (least is not None and value < least) or (most is not None and value > most):
            allowed = "a whole number" + (f" from {least}" if least is not None else "")
            allowed += f" to {most}" if most is not None else " on" if least is not None else ""
            raise bad(f"{self._path}{name} is {_shown(value)}; allowed: {allowed}", self._path + name)
        return value

    def neutral(self, allowed: Mapping[str, tuple[Any, ...]]) -> None:
        """Takes fields that are not supported; only values with which they have no effect may come."""
        for name, values in allowed.items():
            value = self.any(name)
            if value is not None and value not in values:
                path = self._path + name
                raise bad(f"{path} is {_shown(value)}; this server does not support it", path, "unsupported_parameter")

    def ignored(self, *names: str) -> None:
        """Takes fields that no answer depends on."""
        for name in names:
            self.any(name)

    def end(self) -> None:
        """Raises ApiError for a field that nobody took."""
        if self._left:
            path = self._path + str(next(iter(self._left)))[:100]
            raise bad(f"unknown parameter {path!r}; leave it out", path, "unknown_parameter")


def require_text(value: Any, path: str) -> str:
    """Raises ApiError for anything but a string of Unicode characters."""
    if not isinstance(value, str):
        raise bad(f"{path} is {_kind(value)}; it must be a string", path)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise bad(f"{path} holds half a surrogate pair at {error.start}, which is no character", path) from None
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _shown(value: Any) -> str:
    try:
        shown = repr(value)
    except ValueError:  # an integer of too many digits
        return "a number out of range"
    return shown if len(shown) <= 60 else f"{shown[:60]}..."
