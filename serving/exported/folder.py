"""A folder that runs with JAX alone: functions as StableHLO, weights as safetensors, a manifest, a tokenizer, a loader.

`manifest.json`: `functions` with the names, shapes and dtypes of their arguments (sizes that are text are symbols),
`weights` by path, the `model`'s config, `tokenizer` with its SHA-256, `platforms` and `versions`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np
from jax import export

from configs.schema import parse
from data.vocabulary import Vocabulary
from model.config import ModelConfig
from model.model import create, split
from serving.acting import head_of
from serving.exported.functions import TILE, Function, Functions, portable
from serving.exported.weights import Weights, stored_tensors
from serving.interchange.source import Source
from serving.model import LoadedModel
from serving.observing import ObservationRows

PLATFORMS = ("cpu", "cuda", "tpu")
_LOADER = Path(__file__).with_name("load.py")


def functions_of(source: Source, weights: Weights) -> Functions:
    """Raises ValueError for a model with a head for actions that was not trained on robots' episodes."""
    rows, head = None, head_of(source.config, source.phase.get("objective", ""), tokens=False)
    assert head != "tokens"
    if head is not None:
        if "mixture" not in source.phase:
            raise ValueError(
                f"phase {source.checkpoint.phase!r} has no mixture; a policy needs to know its observations"
            )
        rows = ObservationRows.of(source.checkpoint, source.phase, source.vocabulary)
    return Functions(source.config, source.vocabulary, weights, rows, head)


def write_functions(folder: Path, functions: Functions) -> dict[str, Any]:
    """Lowers each for all platforms at once; returns their arguments for the manifest."""
    described = {}
    for name, function in functions.all().items():
        exported = export.export(jax.jit(function.run), platforms=PLATFORMS)(*function.arguments)
        (folder / f"{name}.jax_export").write_bytes(exported.serialize())
        described[name] = _described(function) | {
            "results": [_shape(value) for value in jax.tree.leaves(exported.out_avals)][:1],
            "calling_convention": exported.calling_convention_version,
        }
        if name == "policy":
            described[name]["head"] = functions.head
    return described


def write_rest(folder: Path, source: Source, weights: Weights, functions: dict[str, Any]) -> None:
    """Manifest, tokenizer, loader and, for a policy, what turns observations and chunks into its robots' units."""
    vocabulary = source.vocabulary
    vocabulary.save(folder / "tokenizer.model")
    window = max((section.window or 0 for section in (source.config.local_attention,) if section), default=0)
    manifest = {
        "functions": functions,
        **weights.described(),
        "model": dataclasses.asdict(source.config),
        "tile": TILE,
        "least_tiles": max(1, -(-window // TILE)),
        "tokenizer": {
            "file": "tokenizer.model",
            "sha256": hashlib.sha256(vocabulary.model).hexdigest(),
            "num_codes": vocabulary.num_codes,
            "num_unused": vocabulary.num_unused,
            "text_size": vocabulary.text_size,
            "bos_id": int(vocabulary.bos_id),
            "eos_id": int(vocabulary.eos_id),
        },
        "platforms": list(PLATFORMS) if functions else [],
        "versions": {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "numpy": np.__version__},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    if functions:
        shutil.copyfile(_LOADER, folder / "load.py")
    if "policy" in functions:
        for name in ("statistics.json", "transforms.json"):
            shutil.copyfile(source.checkpoint.path / "files" / name, folder / name)


def read_model(folder: str | Path) -> LoadedModel:
    """The model that a folder holds; quantised weights become float32, scale times q.

    Raises:
        ValueError: a folder without a manifest of ours, another tokenizer than the one it names, a missing tensor.
    """
    folder = Path(folder)
    if not (folder / "manifest.json").is_file():
        raise ValueError(f"{folder} holds no manifest.json; give a folder that `serving.export --to stablehlo` wrote")
    manifest = json.loads((folder / "manifest.json").read_text())
    described = manifest["tokenizer"]
    content = (folder / described["file"]).read_bytes()
    if hashlib.sha256(content).hexdigest() != described["sha256"]:
        raise ValueError(f"{folder / described['file']} is not the tokenizer of manifest.json; export the folder again")
    vocabulary = Vocabulary(content, described["num_codes"], described["num_unused"])
    config = dataclasses.replace(portable(parse(ModelConfig, manifest["model"], "model")), kernels="auto")
    weights, stored = Weights.from_description(manifest), stored_tensors(folder)
    lacking = sorted(weights.tensors().keys() - stored.keys())
    if lacking:
        raise ValueError(f"{folder} lacks the tensor {lacking[0]!r}; export it again")
    params, buffers = weights.states({name: tensor.read() for name, tensor in stored.items()})
    graph = split(jax.eval_shape(lambda: create(config, vocabulary.size, 0)))[0]
    return LoadedModel(config, vocabulary, {}, graph, *jax.device_put((params, buffers)))


def _described(function: Function) -> dict[str, Any]:
    named = zip(function.names, function.arguments, strict=True)
    # The weights have a list of their own.
    return {"arguments": {n: {k: _shape(v) for k, v in a.items()} for n, a in named if n != "weights"}}


def _shape(value: Any) -> dict[str, Any]:
    return {"shape": [d if isinstance(d, int) else str(d) for d in value.shape], "dtype": value.dtype.name}
