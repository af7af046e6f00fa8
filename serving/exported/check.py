"""What was exported, run: its functions must compute what the model does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from data.batch import Batch
from serving.acting import normalised_chunks
from serving.exported.folder import read_model
from serving.exported.functions import TILE, observed
from serving.exported.weights import stored_tensors
from serving.interchange.gate import TOLERANCE, ExportError
from serving.model import LoadedModel

_BFLOAT16_TOLERANCE = 3e-2  # relative to the largest logit: sums of other order, rounded to 8 bits in every layer
_LENGTHS = (17, 5)  # of two prompts; each then takes two tokens more, one by one


def check_functions(folder: Path) -> float:
    """The largest difference between what the functions give and what the model gives at once, as it reads back.

    Raises ExportError where it is more than rounding explains. Memory holds the weights twice.
    """
    loaded = read_model(folder)
    weights = {name: jnp.asarray(tensor.read()) for name, tensor in stored_tensors(folder).items()}
    functions = json.loads((folder / "manifest.json").read_text())["functions"]
    apart = _compare(loaded, "logits", *_tokens(folder, loaded, weights, functions))
    if "policy" in functions:
        apart = max(apart, _compare(loaded, "chunks", *_chunks(folder, loaded, weights, functions)))
    return apart


def _compare(loaded: LoadedModel, what: str, found: np.ndarray, wanted: np.ndarray) -> float:
    apart = float(np.abs(found - wanted).max())
    relative = TOLERANCE if loaded.config.dtype == "float32" else _BFLOAT16_TOLERANCE
    bound = relative * max(1.0, float(np.abs(wanted).max()))
    if not apart <= bound:
        raise ExportError(
            f"{what} of the exported functions differ from the model's by {apart:.3g}, allowed {bound:.3g}"
        )
    return apart


def _tokens(folder: Path, loaded: LoadedModel, weights: Any, functions: Any) -> tuple[np.ndarray, np.ndarray]:
    """Logits of two prompts of unequal length, each followed by two tokens one by one."""
    shape = (len(_LENGTHS), max(_LENGTHS) + 2)
    ids = np.random.default_rng(0).integers(0, loaded.vocabulary.text_size, shape).astype(np.int32)
    sizes = [
        array["shape"][1] for array in functions["decode"]["arguments"]["cache"].values() if len(array["shape"]) > 1
    ]
    tiles = -(-max([TILE, *(size for size in sizes if isinstance(size, int))]) // TILE)
    names = functions["decode"]["arguments"]["cache"]
    cache = dict(zip(names, jax.tree.leaves(loaded.empty_cache(len(_LENGTHS), tiles * TILE)), strict=True))
    rows, length = np.arange(len(_LENGTHS)), np.array(_LENGTHS, np.int32)
    inputs = {"tokens": ids[:, : max(_LENGTHS)], "length": length} | _no_images(loaded, len(_LENGTHS), max(_LENGTHS))
    logits, cache = _function(folder, "prefill")(weights, cache, inputs)
    found, decode = [logits], _function(folder, "decode")
    for step in range(2):
        one = {"tokens": ids[rows, length + step][:, None], "length": np.ones_like(length)}
        logits, cache = decode(weights, cache, one)
        found.append(logits)
    wanted = [_logits(loaded, ids[row, : n + 2])[n - 1 :] for row, n in enumerate(_LENGTHS)]
    return np.stack(found, 1), np.stack(wanted)


def _chunks(folder: Path, loaded: LoadedModel, weights: Any, functions: Any) -> tuple[np.ndarray, np.ndarray]:
    """Chunks of a row of random tokens, pictures and feelings."""
    rng, inputs = np.random.default_rng(1), {}
    for name, array in functions["policy"]["arguments"]["inputs"].items():
        inputs[name] = np.zeros([2 if size == "b" else size for size in array["shape"]], array["dtype"])
    B, T = inputs["tokens"].shape
    inputs["tokens"][:] = rng.integers(0, loaded.vocabulary.text_size, (B, T))
    inputs["segment_ids"][:], inputs["positions"][:] = 1, np.arange(T)
    for name in ("values/proprio_slot", "values/action_slot"):
        inputs[name][:] = T - 1
    for name in {"noise", "values/proprio"} & inputs.keys():
        inputs[name][:] = rng.normal(size=inputs[name].shape)
    if "media/image" in inputs:
        inputs["media/image"][:] = rng.integers(0, 256, inputs["media/image"].shape)
    inputs["values/action_mask"][:] = True

    @jax.jit
    def run(params: Any, buffers: Any, inputs: Any) -> jax.Array:
        head = functions["policy"]["head"]
        return normalised_chunks(loaded.module(params, buffers), observed(inputs), head, inputs.get("noise"))

    found = _function(folder, "policy")(weights, inputs)
    return np.asarray(found), np.asarray(run(loaded.params, loaded.buffers, inputs))


def _function(folder: Path, name: str) -> Any:
    return jax.jit(export.deserialize(bytearray((folder / f"{name}.jax_export").read_bytes())).call)


def _no_images(loaded: LoadedModel, rows: int, slots: int) -> dict[str, np.ndarray]:
    image = loaded.config.image
    if image is None:
        return {}
    pixels = np.zeros((rows, 1, image.height, image.width, 3), np.uint8)
    return {"image": pixels, "image_slot": np.full((rows, 1), -1, np.int32), "span": np.zeros((rows, slots), np.int32)}


def _logits(loaded: LoadedModel, ids_T: np.ndarray) -> np.ndarray:
    zeros_BT = np.zeros((1, len(ids_T)), np.int32)
    positions_BT = np.arange(len(ids_T), dtype=np.int32)[None]
    batch = Batch(ids_T[None], zeros_BT + 1, positions_BT, zeros_BT, zeros_BT, zeros_BT, media={}, values={})

    @jax.jit
    def run(params: Any, buffers: Any, batch: Batch) -> jax.Array:
        model = loaded.module(params, buffers)
        return model.token_logits(model(batch).hidden_BTD[0])

    return np.asarray(run(loaded.params, loaded.buffers, batch))
