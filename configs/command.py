"""The command line of a program that is given a config: `--config FILE[:variant] [--config.a.b=value] [--workdir
W]`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags


def run(main: Callable[[ConfigDict, Path], None]) -> None:
    """Calls `main(config, workdir)`; a `ValueError` becomes one line on standard error and exit code 1.

    The working folder is runs/<name of the config file> if none is given.
    """
    config = config_flags.DEFINE_config_file("config", None, "Config file, with `:variant` where it has variants.")
    workdir = flags.DEFINE_string("workdir", None, "Where results go; runs/<name of the config file> if not given.")
    flags.mark_flag_as_required("config")

    def start(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments {argv[1:]}; settings are given as --config.<path>=<value>")
        logging.set_verbosity(logging.WARNING)
        name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
        try:
            main(config.value, Path(workdir.value or Path("runs") / name))
        except ValueError as error:
            sys.exit(f"error: {error}")

    app.run(start, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    """Absl's parser, with one line instead of a traceback for a config that cannot be read or a field it lacks."""
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        given = [arg.split("=")[0] for arg in argv if re.match(r"--?config\.", arg)]
        hint = f"; look at {', '.join(given)}" if given and not isinstance(error, ValueError) else ""
        sys.exit(f"error: the config has no such field or value: {_last_line(error)}{hint}")
    except (flags.Error, OSError) as error:
        sys.exit(f"error: {_last_line(error)}")


def _last_line(error: Exception) -> str:
    """What went wrong, without the traceback that a config file's own error carries."""
    text = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    return [line.strip() for line in text.strip().splitlines()][-1]
