"""The files that suites read, below the folder that --data names; what is missing is said with what was expected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def find(data: Path, pattern: str) -> list[Path]:
    """The files that match, sorted. Raises ValueError where there are none."""
    found = sorted(data.glob(pattern))
    if not found:
        raise ValueError(f"--data {data} has no {pattern}; give the folder that holds {pattern.split('/')[0]}/")
    return found


def lines(path: Path, *fields: str) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file. Raises ValueError naming the file and line where one lacks a field."""
    objects = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number} is not JSON: {error}") from None
        lacking = [field for field in fields if field not in item]
        if lacking:
            raise ValueError(f"{path}:{number} has no {', '.join(lacking)}; every line needs {', '.join(fields)}")
        objects.append(item)
    return objects
