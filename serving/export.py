"""A checkpoint for others: a folder of HF transformers, or the bare weights for Orbax.

    python -m serving.export --checkpoint runs/demo/distil --to hf --out DIR [--dtype bfloat16]
    python -m serving.export --checkpoint runs/demo/distil --to orbax --out DIR

`hf` is for architectures that transformers has; a model with anything else is refused by the field's name before a file
is written. `orbax` takes every model and leaves out what only training needs; what it writes is again a checkpoint.
Every export is read back and compared before it gets its name; with torch and transformers installed (here or in the
interpreter that `--reference` names), they must compute the same logits from it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from serving.interchange.bare import refuse_unequal, write_weights
from serving.interchange.expressible import architecture_for
from serving.interchange.folders import new_folder
from serving.interchange.gate import ExportError, Gate, installed_reference
from serving.interchange.source import Source
from serving.interchange.write import entries_of, write_folder
from train.checkpoint import Checkpoint

MAX_SHARD_BYTES = 5_000_000_000


def export_hf(
    checkpoint: Checkpoint,
    out: str | Path,
    *,
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    reference: str | None = None,
) -> float:
    """Writes the folder `out`, or nothing at all; returns the largest difference of logits that the gate saw.

    dtype: of all weights, else as stored. reference: a Python interpreter with torch and transformers for the gate.

    Raises:
        ValueError: a model that no architecture of transformers expresses, by the field's name; `out` exists.
        ExportError: what was written is not the model, by the name of the tensor or field that differs.
    """
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes is {max_shard_bytes}; allowed: positive numbers")
    source = Source(checkpoint, dtype)
    imported_from = checkpoint.meta.get("source", {}).get("model_type")
    architecture = architecture_for(source.config, source.vocabulary.size, imported_from)
    entries_of(source, architecture)
    with new_folder(out) as aside:
        write_folder(aside, source, architecture, max_shard_bytes)
        return Gate(aside, source).check(reference)


def export_orbax(checkpoint: Checkpoint, out: str | Path, *, dtype: str | None = None) -> None:
    """Writes a checkpoint `out` of the weights to use alone, or nothing at all.

    Raises what `export_hf` raises, but takes every model.
    """
    source = Source(checkpoint, dtype)
    with new_folder(out) as aside:
        write_weights(aside / "params", source)
        for item in ("buffers", "files", "source"):
            if (checkpoint.path / item).is_dir():
                shutil.copytree(checkpoint.path / item, aside / item)
        refuse_unequal(aside / "params", source)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m serving.export", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="<workdir>/<phase>, one step in it, or an imported folder")
    parser.add_argument("--to", required=True, choices=("hf", "orbax"))
    parser.add_argument("--out", required=True, help="the folder to write")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of all weights; default: as stored")
    parser.add_argument("--max_shard_gb", type=float, default=MAX_SHARD_BYTES / 1e9, help="of one file; --to hf")
    parser.add_argument("--reference", help="a Python with torch and transformers that reads it back; --to hf")
    options = parser.parse_args(arguments)
    try:
        checkpoint = Checkpoint.open(options.checkpoint)
        if options.to == "orbax":
            export_orbax(checkpoint, options.out, dtype=options.dtype)
            print(f"{options.out}: read back bit for bit")
            return
        reference = options.reference or installed_reference()
        size = int(options.max_shard_gb * 1e9)
        apart = export_hf(checkpoint, options.out, dtype=options.dtype, max_shard_bytes=size, reference=reference)
        reader = "transformers" if reference else "this stack, as transformers is not installed"
        print(f"{options.out}: read back by {reader}; logits differ by at most {apart:.2g}")
    except (ValueError, OSError, ExportError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
