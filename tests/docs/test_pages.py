"""The user guide is true: its commands, files, configs and worked example are those of the code."""

from __future__ import annotations

import importlib.util
import pathlib
import re

import numpy as np
import pytest

from configs.command import load
from data.batch import KINDS
from data.elements import Chunk, Image, Tokens, Vector
from data.layout import RowShape, collate, lay_out
from docs.reference import render
from model.structure import structure_of
from train.build import check
from train.sections import completed

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_config_reference_is_up_to_date():
    assert (ROOT / "docs/configs.md").read_text() == render(), "run `python -m docs.reference > docs/configs.md`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_module_and_link_that_a_page_names_exists(page):
    text = page.read_text()
    for module in set(re.findall(r"python -m ([\w.]+)", text)):
        assert importlib.util.find_spec(module) is not None, module
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (page.parent / target).exists(), target
    for target in set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text(), target


@pytest.mark.parametrize("name", ["my_text.py", "my_robot.py"])
def test_the_configs_of_the_guide_are_accepted(name, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/guide.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if block.startswith(f"# {name}")]
    (tmp_path / name).write_text(block)
    check(completed(load(str(tmp_path / name))))


def test_the_worked_example_of_the_contract_is_what_the_code_makes():
    tokens = lambda ids, weight: Tokens(np.array(ids, np.int32), np.full(len(ids), weight, np.float32))  # noqa: E731
    text = (tokens([1, 40, 41, 2], 1),)
    robot = (
        tokens([1], 0),
        Image(np.zeros((4, 4, 3), np.uint8), num_slots=2),
        tokens([50, 51], 0),
        Vector(np.zeros(3, np.float32), embodiment=0),
        tokens([9], 0),
        Chunk(np.zeros((4, 2), np.float32), np.ones((4, 2), bool), embodiment=0),
    )
    shape = RowShape(13, images=1, image_size=(4, 4), vectors=1, chunk=4, width=3, image_id=7, vector_id=8)
    batch = collate([lay_out([text, robot], shape)])
    structure = structure_of(batch.segment_ids, batch.positions, batch.span_ids)
    rows = {
        "slot": range(13),
        "tokens": batch.tokens[0],
        "kinds": [KINDS[kind] for kind in batch.kinds[0]],
        "segment_ids": batch.segment_ids[0],
        "positions": batch.positions[0],
        "span_ids": batch.span_ids[0],
        "loss_weights": batch.loss_weights[0].astype(int),
        "keep": np.asarray(structure.keep_BT[0]).astype(int),
        "lo, hi (global)": [f"{lo},{hi}" for lo, hi in zip(*(x[0] for x in structure.interval()), strict=True)],
        "lo, hi (window 3)": [f"{lo},{hi}" for lo, hi in zip(*(x[0] for x in structure.interval(3)), strict=True)],
    }
    page = (ROOT / "docs/contract.md").read_text()
    for name, values in rows.items():
        row = f"| {name} | " + " | ".join(str(value) for value in values) + " |"
        assert row in page, row
    slots = {"image_slot": batch.media["image_slot"], "action_slot": batch.values["action_slot"]}
    slots["proprio_slot"] = batch.values["proprio_slot"]
    for name, slot in slots.items():
        assert f"`{name}` = [{slot[0, 0]}]" in page
