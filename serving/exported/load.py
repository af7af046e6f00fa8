"""Runs the model in this folder with JAX alone: `python load.py 1 57 312` continues these token ids greedily."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

DTYPES = {"F32": jnp.float32, "BF16": jnp.bfloat16, "I8": jnp.int8, "U8": jnp.uint8, "F8_E4M3": jnp.float8_e4m3fn}
FOLDER = Path(__file__).parent
MANIFEST = json.loads((FOLDER / "manifest.json").read_text())


def weights() -> dict:
    """The tensors of all safetensors files, by name."""
    found = {}
    for file in sorted(FOLDER.glob("*.safetensors")):
        start = 8 + int(np.fromfile(file, "<u8", 1)[0])
        header = json.loads(np.fromfile(file, np.uint8, start - 8, offset=8).tobytes())
        for name, entry in header.items():
            if name != "__metadata__":
                first, end = entry["data_offsets"]
                flat = np.fromfile(file, np.uint8, end - first, offset=start + first)
                found[name] = jnp.asarray(flat.view(DTYPES[entry["dtype"]]).reshape(entry["shape"]))
    return found


def function(name: str):
    """`prefill`, `decode`, `policy` or `plan`, compiled for this machine; the manifest has their arguments."""
    run = export.deserialize(bytearray((FOLDER / f"{name}.jax_export").read_bytes())).call
    return jax.jit(run, donate_argnums=1 if "cache" in MANIFEST["functions"][name]["arguments"] else ())


def empty(name: str, argument: str, sizes: dict) -> dict:
    """An argument of a function for these sizes of its symbols: nothing seen, no picture anywhere."""
    arrays = MANIFEST["functions"][name]["arguments"][argument].items()
    fill = {"image_slot": -1}
    return {n: jnp.full([sizes.get(d, d) for d in a["shape"]], fill.get(n, 0), a["dtype"]) for n, a in arrays}


def empty_cache(rows: int, slots: int) -> dict:
    """Room for at least `slots` in each of `rows` rows, in whole tiles."""
    tile = MANIFEST["tile"]
    return empty("decode", "cache", {"b": rows, f"{tile}*s": tile * max(-(-slots // tile), MANIFEST["least_tiles"])})


def greedy(prompts: list, num_tokens: int) -> np.ndarray:
    """int32[b,num_tokens]: after each list of token ids the most likely text tokens, one after the other."""
    rows, longest = len(prompts), max(map(len, prompts))
    inputs = empty("prefill", "inputs", {"b": rows, "t": longest, "m": 1})
    inputs["tokens"] = np.array([[*ids, *[0] * (longest - len(ids))] for ids in prompts], np.int32)
    inputs["length"] = np.array([len(ids) for ids in prompts], np.int32)
    arrays, decode, drawn = weights(), function("decode"), []
    logits, cache = function("prefill")(arrays, empty_cache(rows, longest + num_tokens), inputs)
    for _ in range(num_tokens):
        token = jnp.argmax(logits[:, : MANIFEST["tokenizer"]["text_size"]], -1).astype(jnp.int32)
        drawn.append(np.asarray(token))
        logits, cache = decode(arrays, cache, {"tokens": token[:, None], "length": jnp.ones_like(token)})
    return np.stack(drawn, 1)


if __name__ == "__main__":
    print(*greedy([[int(i) for i in sys.argv[1:]]], 16)[0])
