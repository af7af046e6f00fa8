"""The command line of `python -m train.launch`: what to train, and where."""

from __future__ import annotations

import argparse
import dataclasses
import tomllib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from configs.command import sort_arguments
from configs.schema import parse
from train.launch.settings import TARGETS, Settings

FOLLOW = "follow"


@dataclasses.dataclass(frozen=True)
class Request:
    """config: a file, as in `python -m train`. overrides: as `--config.a.b=value`. workdir: relative to the working
    folder of the processes. phase: the only one to run."""

    target: str
    settings: Settings
    config: str
    overrides: tuple[str, ...]
    workdir: str
    phase: str | None
    dry_run: bool

    def command(self, python: str) -> list[str]:
        """What every process runs."""
        chosen = [f"--phase={self.phase}"] if self.phase else []
        given = [f"--config={self.config}", *self.overrides, f"--workdir={self.workdir}", *chosen]
        return [python, "-m", "train", *given]


def read(argv: Sequence[str]) -> Request | Path:
    """The request, or the working folder whose logs to follow. Raises ValueError naming what is wrong."""
    config, overrides, others = sort_arguments(argv)
    given = vars(_parser().parse_args(others))
    target = given.pop("target")
    if target == FOLLOW:
        return Path(given["workdir"])
    if config is None:
        raise ValueError("--config is not given; name a config file, as in --config configs/demo.py")
    run = {name: given.pop(name) for name in ("workdir", "phase", "dry_run")}
    run["workdir"] = run["workdir"] or str(Path("runs") / Path(config.partition(":")[0]).stem)
    file = given.pop("settings")
    settings = _from_file(file, target) | {name: value for name, value in given.items() if value is not None}
    return Request(target, parse(TARGETS[target], settings, target), config, tuple(overrides), **run)


def _from_file(path: str | None, target: str) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        tables = tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"--settings {path} cannot be read: {error}") from error
    unknown = sorted(set(tables) - set(TARGETS))
    if unknown:
        raise ValueError(f"--settings {path} has {unknown[0]!r}; allowed are the tables {', '.join(TARGETS)}")
    return tables.get(target, {})


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m train.launch",
        description="Starts `python -m train` with the same --config (and --config.a.b=value) as many processes.",
    )
    targets = parser.add_subparsers(dest="target", required=True, metavar="{" + ",".join((*TARGETS, FOLLOW)) + "}")
    for name, cls in TARGETS.items():
        words = (cls.__doc__ or "").splitlines()[0]
        target = targets.add_parser(name, help=words, description=words, allow_abbrev=False)
        target.add_argument("--workdir", help="where results go; runs/<name of the config file> if not given")
        target.add_argument("--phase", help="the only phase to run")
        target.add_argument("--dry-run", action="store_true", help="print what would be started, and start nothing")
        target.add_argument(
            "--settings", metavar="FILE", help=f"TOML file whose table [{name}] has any of the following"
        )
        _add_fields(target, cls)
    follow = targets.add_parser(FOLLOW, help="Shows the logs of all ranks of a run as they are written.")
    follow.add_argument("workdir")
    return parser


def _add_fields(parser: argparse.ArgumentParser, cls: type[Settings]) -> None:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint, words = hints[field.name], field.metadata["help"]
        default = "" if field.default in ("", (), None) else f" ({field.default})"
        more: dict[str, Any] = {"help": f"{words}{default}".strip()}
        if typing.get_origin(hint) is tuple:
            more |= {"action": "append", "metavar": words.split(";")[0].split(" ")[0]}
        elif typing.get_origin(hint) is Literal:
            more |= {"choices": typing.get_args(hint)}
        elif hint is int or (isinstance(hint, types.UnionType) and int in typing.get_args(hint)):
            more |= {"type": int, "metavar": "N"}
        parser.add_argument("--" + field.name.replace("_", "-"), default=None, **more)
