"""What a job has found, kept so that a killed one goes on where it stopped: a line a record, written as it comes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data.whole import write_whole

Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """The records of a file; a last line that is not whole is left out. No file: none."""
    if not path.exists():
        return []
    content = path.read_bytes()
    return [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]


class RecordFile:
    """Appends records to a file that this process alone writes; a line that was cut off is taken out of it first."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                with path.open("r+b") as file:
                    file.truncate(whole)
        self._file = path.open("a")

    def append(self, records: Iterable[Record]) -> None:
        """They are on disk when this returns."""
        for record in records:
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_json(path: Path, content: Any) -> None:
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def keep_settings(out: Path, settings: Mapping[str, Any], option: str = "--out") -> None:
    """Notes in `out/settings.json` what the records there are of.

    Raises ValueError where they are of other settings; `option` is how the user named the folder.
    """
    now = json.loads(json.dumps(settings, default=str))
    out.mkdir(parents=True, exist_ok=True)
    path = out / "settings.json"
    before = json.loads(path.read_text()) if path.exists() else now
    differing = sorted(field for field in {*now, *before} if now.get(field) != before.get(field))
    if differing:
        raise ValueError(
            f"{option} {out} holds answers for other settings: {', '.join(differing)}; give another folder, or remove "
            "it"
        )
    write_json(path, now)
