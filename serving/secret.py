"""Keys and tokens that servers ask for."""

from __future__ import annotations

from pathlib import Path


def read_secret(path: str | None, option: str) -> str | None:
    """What the file at `path` says, without white space around it; None where `option` was not given.

    Raises ValueError for an empty file, OSError for one that cannot be read.
    """
    if path is None:
        return None
    secret = Path(path).read_text().strip()
    if not secret:
        raise ValueError(f"{path} is empty; write the secret into it, or leave out {option}")
    return secret
