"""`python -m train.distill_store.verify DIR`: every shard against its SHA-256; exit code 1 if one differs."""

from __future__ import annotations

import argparse
import sys

from train.distill_store.reader import Store, verify


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    folder = parser.parse_args().folder
    try:
        store, damaged = Store(folder), verify(folder)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if damaged:
        sys.exit(f"error: {', '.join(damaged)} in {folder} changed since written; remove them and write again")
    print(f"{folder}: {len(store.shards)} shards, {store.num_rows} rows, all as they were written")


if __name__ == "__main__":
    main()
