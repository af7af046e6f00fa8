"""Say where the time of a run went, from the files beside it alone.

    python -m train.goodput runs/demo

Prints a table of each phase and of the processes that others wait for, and writes `goodput.json` and `goodput.png`.
Works while the run goes on, and on a copy of the folder without the checkpoints.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from data.whole import write_whole
from train.goodput.account import CATEGORIES, Account, accounts, stragglers
from train.goodput.picture import draw


def report(found: Sequence[Account]) -> dict:
    """What `goodput.json` holds."""
    total = sum(account.total for account in found)
    return {
        "goodput": sum(account.seconds["productive"] for account in found) / total if total else 0.0,
        "seconds": total,
        "phases": [
            {
                **{key: value for key, value in dataclasses.asdict(account).items() if key != "curve"},
                "goodput": account.goodput,
                "stragglers": stragglers(account.ranks),
            }
            for account in found
        ],
    }


def show(found: Sequence[Account], console: Console) -> None:
    table = Table("", *(account.phase for account in found), "", title="where the time went")
    for category, meaning in CATEGORIES.items():
        cells = [f"{a.seconds[category]:.1f} s  {a.seconds[category] / (a.total or 1):6.1%}" for a in found]
        table.add_row(category, *cells, meaning)
    table.add_row("in all", *(f"{a.total:.1f} s" for a in found), "from the first start to the last end")
    table.add_row("starts", *(str(len(a.starts)) for a in found), "")
    console.print(table)
    for account in found:
        if len(account.ranks) > 1:
            console.print(_ranks(account))


def _ranks(account: Account) -> Table:
    slow = stragglers(account.ranks)
    told = f"the others wait for {', '.join(f'rank {rank}' for rank in slow)}" if slow else "no stragglers"
    table = Table("rank", "steps", "ms a step", "own work", "data", "waiting for devices", title=account.phase)
    table.caption = told
    for rank in account.ranks:
        figures = (f"{rank[name]:.1f}" for name in ("step_ms", "own_ms", "data_ms", "blocked_ms"))
        table.add_row(str(rank["rank"]), str(rank["steps"]), *figures)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m train.goodput", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="--workdir of a run, or the folder of one of its phases")
    parser.add_argument("--out", type=Path, help="folder of goodput.json and goodput.png; that of the run if not given")
    options = parser.parse_args(arguments)
    out = options.out or options.run
    try:
        found = accounts(options.run)
        show(found, Console())
        write_whole(out / "goodput.json", json.dumps(report(found), indent=1) + "\n")
        draw(found, out / "goodput.png")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"goodput {report(found)['goodput']:.1%}; {out / 'goodput.json'}, {out / 'goodput.png'}")


if __name__ == "__main__":
    main()
