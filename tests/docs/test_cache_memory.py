"""The table of cache memory is that of the code, and says what the Gemma 3 report does."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest

from configs.gemma3 import text_model
from configs.schema import parse
from docs.cache_memory import all_global, gib, render
from model.config import ModelConfig

PAGE = pathlib.Path(__file__).parents[2] / "docs/cache_memory.md"


def test_the_table_is_up_to_date():
    assert PAGE.read_text() == render(), "run `python -m docs.cache_memory > docs/cache_memory.md`"


def test_a_27b_keeps_a_sixth_of_what_global_layers_alone_would():
    """62 layers of 16 heads of width 128, 10 of them global: 2 * 2 bytes * (10 * 128k + 52 * 1024) * 2048."""
    config = dataclasses.replace(parse(ModelConfig, text_model("27b")), dtype="bfloat16")
    assert gib(config, 131_072) * 2**30 == 4 * (10 * 131_072 + 52 * 1024) * 16 * 128
    assert gib(config, 131_072) == pytest.approx(10.4, abs=0.05)
    assert gib(all_global(config), 131_072) == 62
