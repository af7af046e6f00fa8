"""`python -m eval.report WORKDIR` writes WORKDIR/report.html from whatever parts of the run are there."""

from __future__ import annotations

import argparse
import pathlib

from eval.report.page import write_report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m eval.report", description=__doc__)
    parser.add_argument("workdir", type=pathlib.Path, help="folder of a run, such as runs/demo")
    try:
        path = write_report(parser.parse_args().workdir)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
