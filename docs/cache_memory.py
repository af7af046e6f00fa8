"""`python -m docs.cache_memory > docs/cache_memory.md` writes what caches take, by size of model and of context."""

from __future__ import annotations

import dataclasses

from configs.gemma3 import SIZES, text_model
from configs.schema import parse
from model.cache import cache_bytes
from model.config import ModelConfig

CONTEXTS = (8_192, 32_768, 131_072)
HEAD = """# Memory of caches

Made by `python -m docs.cache_memory > docs/cache_memory.md`; a test computes it anew.

GiB of keys and values in bfloat16 for one sequence of the Gemma 3 configs (`configs/gemma3.py`), and in brackets what
it would be if all layers were global. An attention layer keeps 2 S K h numbers: K key/value heads of width h, with S
the whole context in a global layer and at most the window in a local one. A recurrent layer keeps 2 N numbers in
float32 whatever the context. The same closed form sizes the caches of every server here: `model.cache.cache_bytes`.
"""


def render() -> str:
    """The whole page."""
    contexts = [f"{context // 1024}k" for context in CONTEXTS]
    rows = [_row("size", "layers", "K", "h", "window", *contexts), "|---" * (5 + len(CONTEXTS)) + "|"]
    for size in SIZES:
        config = dataclasses.replace(parse(ModelConfig, text_model(size)), dtype="bfloat16")
        attention = config.attention("local")
        sizes = attention.num_kv_heads, attention.head_dim, attention.window
        cells = [f"{gib(config, context):.3g} ({gib(all_global(config), context):.3g})" for context in CONTEXTS]
        rows.append(_row(size, config.num_layers, *sizes, *cells))
    return "\n".join([HEAD, *rows, ""])


def gib(config: ModelConfig, context: int) -> float:
    return cache_bytes(config, 1, context) / 2**30


def all_global(config: ModelConfig) -> ModelConfig:
    """The same model if each of its layers saw the whole context."""
    return dataclasses.replace(config, pattern=("global",), local_attention=None)


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    print(render(), end="")
