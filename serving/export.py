"""A checkpoint for others: a folder of HF transformers, or the bare weights for Orbax.

    python -m serving.export --checkpoint runs/demo/distil --to hf --out DIR [--dtype bfloat16]
    python -m serving.export --checkpoint runs/text/pretrain --to hf --custom --out DIR
    python -m serving.export --checkpoint runs/demo/distil --to gguf --out FILE [--dtype q8_0]
    python -m serving.export --checkpoint runs/demo/distil --to orbax --out DIR
    python -m serving.export --checkpoint runs/demo/distil --to stablehlo --out DIR [--quantize int4 --block 32]

`hf` is for architectures that transformers has; a model with anything else is refused by the field's name before a file
is written. With `--custom` the folder brings a module of its own, which `trust_remote_code=True` runs and which has
every layer of this stack, for text. `orbax` takes every model and leaves out what only training needs; what it writes
is again a checkpoint. `gguf` is one file for llama.cpp, of a Gemma 3 or 4, and needs the library gguf.
`stablehlo` takes every model too: functions for CPU, CUDA and TPU that a loader of JAX alone
runs, with weights in 8 or 4 bits if wanted (docs/formats.md).
Every export is read back and compared before it gets its name; with torch and transformers installed (here or in the
interpreter that `--reference` names), they must compute the same logits from it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.whole import new_folder
from model.quantization import Quantization
from serving.exported.check import check_functions
from serving.exported.folder import functions_of, write_functions, write_rest
from serving.exported.weights import Weights
from serving.interchange.bare import refuse_unequal, write_weights
from serving.interchange.expressible import architecture_for
from serving.interchange.gate import ExportError, Gate, installed_reference
from serving.interchange.gguf_file import TYPES, export_gguf
from serving.interchange.kinema import Kinema
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
    custom: bool = False,
) -> float:
    """Writes the folder `out`, or nothing at all; returns the largest difference of logits that the gate saw.

    dtype: of all weights, else as stored. reference: a Python interpreter with torch and transformers for the gate.
    custom: with a module of its own, which the reader must trust, for text models that transformers lacks.

    Raises:
        ValueError: a model that no architecture of transformers expresses, by the field's name; `out` exists.
        ExportError: what was written is not the model, by the name of the tensor or field that differs.
    """
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes is {max_shard_bytes}; allowed: positive numbers")
    source = Source(checkpoint, dtype, with_buffers=custom)
    architecture: Any = Kinema()
    if custom:
        architecture.write_config(source.config)  # refuses what it lacks
    else:
        architecture = architecture_for(source.config, source.vocabulary.size, source.model_type)
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


def export_stablehlo(
    checkpoint: Checkpoint,
    out: str | Path,
    *,
    dtype: str | None = None,
    form: Quantization | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> tuple[Weights, float]:
    """Writes the folder `out`, or nothing at all; returns its weights and the largest difference of logits.

    dtype: of all weights, else as stored. form: of the weights of matmuls, if they are to be quantised.
    Raises what `export_hf` raises, but takes every model.
    """
    source = Source(checkpoint, dtype)
    weights = Weights.of(source, form)
    functions = functions_of(source, weights)
    with new_folder(out) as aside:
        weights.write(aside, source, max_shard_bytes)
        write_rest(aside, source, weights, write_functions(aside, functions))
        return weights, check_functions(aside)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m serving.export", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="<workdir>/<phase>, one step in it, or an imported folder")
    parser.add_argument("--to", required=True, choices=("hf", "gguf", "orbax", "stablehlo"))
    parser.add_argument("--out", required=True, help="the folder to write, a file with --to gguf")
    parser.add_argument(
        "--dtype", choices=tuple(TYPES), help="of all weights (float16, q8_0: --to gguf); default: as stored"
    )
    parser.add_argument(
        "--max_shard_gb", type=float, default=MAX_SHARD_BYTES / 1e9, help="of one file; --to hf, stablehlo"
    )
    parser.add_argument("--reference", help="a Python with torch and transformers that reads it back; --to hf")
    parser.add_argument(
        "--custom", action="store_true", help="--to hf with a module of its own, for what transformers has not"
    )
    parser.add_argument("--quantize", choices=("int8", "int4", "fp8"), help="the weights of matmuls; --to stablehlo")
    parser.add_argument("--block", type=int, default=0, help="inputs that share a scale; 0: a whole channel's")
    options = parser.parse_args(arguments)
    try:
        if options.quantize and options.to != "stablehlo":
            raise ValueError(f"--quantize is {options.quantize} with --to {options.to}; allowed: --to stablehlo")
        if options.custom and options.to != "hf":
            raise ValueError(f"--custom is given with --to {options.to}; allowed: --to hf")
        if options.block and not options.quantize:
            raise ValueError(f"--block is {options.block} without --quantize; give --quantize int8, int4 or fp8")
        form = Quantization(options.quantize, options.block) if options.quantize else None
        size = int(options.max_shard_gb * 1e9)
        checkpoint = Checkpoint.open(options.checkpoint)
        if options.to == "gguf":
            num_tensors = export_gguf(checkpoint, options.out, dtype=options.dtype)
            print(f"{options.out}: {num_tensors} tensors read back bit for bit")
            return
        if options.to == "orbax":
            export_orbax(checkpoint, options.out, dtype=options.dtype)
            print(f"{options.out}: read back bit for bit")
            return
        if options.to == "stablehlo":
            weights, apart = export_stablehlo(
                checkpoint, options.out, dtype=options.dtype, form=form, max_shard_bytes=size
            )
            print(f"{options.out}: {weights.num_bytes} bytes of weights; logits differ by at most {apart:.2g}")
            return
        reference = options.reference or installed_reference()
        settings = {"dtype": options.dtype, "max_shard_bytes": size, "custom": options.custom}
        apart = export_hf(checkpoint, options.out, reference=reference, **settings)
        reader = "transformers" if reference else "this stack, as transformers is not installed"
        print(f"{options.out}: read back by {reader}; logits differ by at most {apart:.2g}")
    except (ValueError, OSError, ExportError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
