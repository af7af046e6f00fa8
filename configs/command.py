"""The command line of a program that is given a config: `--config FILE[:variant] [--config.a.b=value] [--workdir W]`.

Every field of the config can be given, those that the file leaves to their defaults too.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, FieldReference, config_flags

Complete = Callable[[ConfigDict], ConfigDict]


def run(main: Callable[[ConfigDict, Path], None], complete: Complete) -> None:
    """Calls `main(config, workdir)`; a `ValueError` becomes one line on standard error and exit code 1.

    complete: the config with every default spelled, see `configs.schema.complete`. The working folder is runs/<name of
    the config file> if none is given.
    """
    workdir = flags.DEFINE_string("workdir", None, "Where results go; runs/<name of the config file> if not given.")
    given: list[tuple[ConfigDict, str]] = []  # the config and the name of its file

    def parse_flags(argv: Sequence[str]) -> list[str]:
        try:
            path, overrides, others = sort_arguments(argv)
            others = flags.FLAGS(others)  # ends here if help is asked for
            if len(others) > 1:
                raise ValueError(f"unexpected {' '.join(others[1:])}; settings are given as --config.<path>=<value>")
            if path is None:
                raise ValueError("--config is not given; name a config file, as in --config configs/demo.py")
            given.append((read(path, overrides, complete), Path(path.partition(":")[0]).stem))
        except (ValueError, TypeError, OSError, flags.Error) as error:
            sys.exit(f"error: {error}")
        return others

    def start(_: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        config, name = given[0]
        try:
            main(config, Path(workdir.value or Path("runs") / name))
        except ValueError as error:
            sys.exit(f"error: {error}")

    app.run(start, flags_parser=parse_flags)


def sort_arguments(argv: Sequence[str]) -> tuple[str | None, list[str], list[str]]:
    """The value of --config, the overrides as `--config.a.b=value`, and all other arguments."""
    path, overrides, others, rest = None, [], [], list(argv)
    while rest:
        argument = rest.pop(0)
        if not re.match(r"--?config([.=]|$)", argument):
            others.append(argument)
            continue
        name, has_value, value = argument.partition("=")
        if not has_value:
            if not rest or rest[0].startswith("--"):
                raise ValueError(f"{name} has no value; write {name}=<value>")
            value = rest.pop(0)
        name = name.lstrip("-")
        if name == "config":
            path = value
        else:
            overrides.append(f"--{name}={value}")
    return path, overrides, others


def read(path: str, overrides: Sequence[str], complete: Complete) -> ConfigDict:
    """The completed config of a file `FILE[:variant]` with overrides `--config.a.b=value`; `None` unsets what it can.

    Raises ValueError naming the nearest field for one that does not exist, flags.Error for a value of another type, and
    what `get_config` raises.
    """
    config = complete(load(path))
    typed = ["command"]
    for override in overrides:
        name, _, value = override.removeprefix("--config.").partition("=")
        section, field = _find(config, name)
        raw = dict(section.items(preserve_field_references=True))[field]
        if value == "None" and isinstance(raw, FieldReference):
            section[field] = None
        elif raw is None:
            raise ValueError(f"config.{name} is None; give the whole section in the config file")
        else:
            typed.append(override)
    flag_values = flags.FlagValues()
    holder = config_flags.DEFINE_config_dict("config", config, flag_values=flag_values, sys_argv=typed)
    flag_values(typed)
    return holder.value


def load(path: str) -> ConfigDict:
    """What `get_config` of `FILE[:variant]` returns. Raises ValueError for no such file and for one without it."""
    file, _, variant = path.partition(":")
    spec = importlib.util.spec_from_file_location("_config", file)
    if spec is None or spec.loader is None or not Path(file).is_file():
        raise ValueError(f"--config is {file!r}; give a Python file (.py) that exists, as in configs/demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"{file} has no function get_config(variant=''); a config file returns its config from there")
    config = module.get_config(variant) if variant else module.get_config()
    if not isinstance(config, ConfigDict):
        raise ValueError(f"get_config of {file} returns {type(config).__name__}; it must return a ConfigDict")
    return config


def _find(config: ConfigDict, path: str) -> tuple[ConfigDict, str]:
    """The section that holds a field, and the field's name in it."""
    section: Any = config
    where, names = "config", path.split(".")
    for depth, name in enumerate(names):
        if section is None:
            raise ValueError(f"{where} is None; give the whole section in the config file to set {path}")
        if not isinstance(section, ConfigDict):
            raise ValueError(f"{where} is {section!r}, not a section; set it with --{where}=<value>")
        if name not in section:
            near = _nearest(path, list(_paths(config)))
            remedy = f"Did you mean config.{near}?" if near else f"{where} has {', '.join(section) or 'no fields'}."
            raise ValueError(f"config.{path} is not a known field. {remedy}")
        if depth < len(names) - 1:
            section, where = section[name], f"{where}.{name}"
    return section, names[-1]


def _nearest(path: str, paths: Sequence[str]) -> str | None:
    """The path most like `path`: among those that end in the same name, if there are any."""
    same_name = [known for known in paths if known.split(".")[-1] == path.split(".")[-1]]
    return next(iter(difflib.get_close_matches(path, same_name or paths, 1, 0.0 if same_name else 0.6)), None)


def _paths(section: ConfigDict, where: str = "") -> Iterator[str]:
    for name, value in section.items():
        yield where + name
        if isinstance(value, ConfigDict):
            yield from _paths(value, f"{where}{name}.")
