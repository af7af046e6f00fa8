"""`python -m eval`: judges checkpoints.

python -m eval --config C --workdir W                    what the config's `evaluate` section names, see `judge`
python -m eval --config C --suite tabletop               robots in closed loop, see `jobs.command`
python -m eval --suite arc --checkpoint K --out O        text evaluations, see `suites.command`
"""

from __future__ import annotations

import sys

ROBOT_SUITES = ("tabletop", "metaworld", "ogbench", "fetch", "aloha")


def main() -> None:
    """Imports what was asked for alone: processes that simulate read this file too, and have no use for JAX."""
    suite = _suite(sys.argv[1:])
    if suite in ROBOT_SUITES:
        from eval.jobs import command

        command.main()
    elif suite is not None:
        from eval.suites import command

        command.main()
    else:
        from configs import command
        from eval.config import completed
        from eval.judge import main as judge

        command.run(judge, completed)


def _suite(arguments: list[str]) -> str | None:
    """What follows --suite, as `--suite X` or `--suite=X`."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, has_value, value = argument.partition("=")
        if name.lstrip("-") == "suite" and argument.startswith("-"):
            return value if has_value else following
    return None


if __name__ == "__main__":
    main()
