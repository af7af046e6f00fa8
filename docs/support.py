"""`python -m docs.support > docs/support.md` writes what trains on which mesh, from what tests have found.

The cells are listed here and filled by tests/sharding/test_support.py, which computes every one of them on virtual
devices and compares with one device. What it found is docs/support.json, written by

    SUPPORT_MATRIX=docs/support.json python -m pytest -m "slow or not slow" tests/sharding/test_support.py
"""

from __future__ import annotations

import itertools
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from configs.command import load
from model.model import axes_of, create, split
from sharding.mesh import AXES
from sharding.rules import Axes, kept_whole
from train.optimizer import parameter_names
from train.sections import Sections
from train.teacher import by_name

__all__ = [
    "ALL",
    "AXIS_SETS",
    "EQUAL",
    "OUTCOMES",
    "PHASES",
    "REFUSALS",
    "ROWS",
    "STACKS",
    "TOLERANCE",
    "cells",
    "render",
    "rows",
]

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = ("demo.py", "gemma3.py:1b", "gemma3.py:27b")  # whose parameters are listed
OUTCOMES = pathlib.Path(__file__).with_name("support.json")
TOLERANCE = 1e-5
EQUAL = "equal"  # the outcome of a cell where a mesh gives what one device gives; any other is why it is refused
AXIS_SETS = tuple(" x ".join(axes) for count in (1, 2, 5) for axes in itertools.combinations(AXES, count))
ALL = AXIS_SETS[-1]
STACKS = {
    "dense": "local and global attention with soft-cap and sinks, dense feed-forwards",
    "moe": "global attention, mixture of experts with a shared expert and a balancing bias",
    "hybrid": "S5, local and global attention, dense feed-forwards and mixtures of experts, images",
}
PHASES = {
    "next_token": "mixture of experts",
    "distill": "teacher of another kind",
    "distill, stored": "teacher's entries from a store",
    "reward": "",
    "dpo": "",
    "bins": "images",
    "l1": "images",
    "flow": "images",
    "local_decoder": "images",
    "grpo": "draws answers",
    "bond": "draws answers",
    "on_policy_distill": "draws answers",
    "lora": "adapters, objective dpo",
    "quantize": "int4 in blocks, objective next_token",
    "accumulate": "two microbatches, objective next_token",
    "ema": "averaged parameters, which are evaluated, objective next_token",
    "muon": "objective next_token",
    "siglip": "SigLIP encoder, objective flow",
}


ROWS = ("packed", "unpacked")


def cells(name: str) -> tuple[str, ...]:
    """The sets of axes that a stack or a phase is tried on."""
    return AXIS_SETS if name in STACKS else (ALL,)


def rows(name: str, axes: str) -> tuple[str, ...]:
    """The outcomes that a set of axes has: one for each kind of rows, where they are given by hand."""
    return tuple(f"{axes}, {kind}" for kind in ROWS) if name in STACKS else (axes,)


# What is changed in the small text config of tests/train/tiny_config.py, and what is said to it.
REFUSALS: tuple[tuple[dict[str, Any], str], ...] = (
    (
        {"mesh": {"data": 4}},
        "config.phases.learn.pipeline.batch_size is 2, but config.mesh lays rows over data * fsdp * expert = 4 "
        "devices; make batch_size a multiple of 4, or these axes smaller",
    ),
    (
        {"mesh": {"data": 2}, "phases.teach.accumulate": 2},
        "config.phases.teach.pipeline.batch_size is 2 in 2 microbatches (accumulate), but config.mesh lays rows over "
        "data * fsdp * expert = 2 devices; make batch_size a multiple of 4, or these axes smaller",
    ),
    (
        {"mesh": {"data": 1, "context": 8}},
        "config.phases.learn.pipeline.slots is 24, config.mesh.context = 8 cuts a row into 16 equal chunks; make slots "
        "a multiple of 16 or context smaller",
    ),
    (
        {"mesh": {"data": 1, "tensor": 2}},
        "config.models.student.global_attention.num_kv_heads is 1, which config.mesh.tensor = 2 does not divide; set "
        "config.mesh.tensor to a divisor of 1 or change global_attention.num_kv_heads",
    ),
    (
        {"mesh": {"data": 1, "expert": 2}},
        "config.models.teacher.moe.num_experts is 3, which config.mesh.expert = 2 does not divide; set "
        "config.mesh.expert to a divisor of 3 or change moe.num_experts",
    ),
    (
        {"mesh": {"data": 1, "fsdp": 2}, "models.teacher.model_dim": 17},
        "config.models.teacher.model_dim is 17, which config.mesh.fsdp = 2 does not divide; set config.mesh.fsdp to a "
        "divisor of 17 or change model_dim",
    ),
    (
        {"mesh": {"data": 2, "slices": {"rows": 2}}},
        "config.mesh.slices is {'rows': 2}; it gives axes among data, fsdp, expert, context, tensor a positive number "
        "of slices",
    ),
)

HEAD = """# What trains on which mesh

Made by `python -m docs.support > docs/support.md` from what `tests/sharding/test_support.py` found on virtual CPU
devices, two along each axis that is named (32 for all five). A cell with `-` has not been computed.
"""

STACK_HEAD = """## Stacks

One real train step in float32 against the same step on one device: loss, every other figure that is logged, gradient,
updated parameters and buffers agree to a relative error of {tolerance:g} of the largest number of each array. Packed
rows hold several documents, whose edges and images lie across the borders between devices; unpacked rows hold one.

{about}

| axes | {names} |
|---|{rule}
"""

PHASE_HEAD = """
## Objectives and what phases can be given

A whole phase of one step by `train.phases.run`, evaluation and checkpoint included, on a mesh of all five axes against
one device: losses, evaluation, parameters and buffers agree to a relative error of {tolerance:g}.

| phase | with | all five axes |
|---|---|---|
"""

WHOLE_HEAD = """
## What every device holds whole

A parameter that no rule of `sharding/rules.py` matches is an error. Those whose rules name no mesh axis, and the rest
of the model beside them:

| model | bytes | held whole | parameters held whole |
|---|---|---|---|
"""

REFUSAL_HEAD = """
## What is refused

Sizes that an axis does not divide are refused when a config is read, or, for axes that take the rest of the devices,
when these are known; parameters that no config field gives the size of when they are placed. Nothing has been compiled
then. A config that says the first is told the second:

| config | answer |
|---|---|
"""


def render(outcomes: dict[str, dict[str, str]]) -> str:
    """The page from what was found: name -> axes -> outcome."""
    return "\n".join([HEAD, *_stacks(outcomes), *_phases(outcomes), *_whole(), *_refusals()]) + "\n"


def _stacks(outcomes: dict[str, dict[str, str]]) -> Iterator[str]:
    about = "\n".join(f"- `{name}`: {text}." for name, text in STACKS.items())
    columns = [f"{name}, {kind}" for name in STACKS for kind in ROWS]
    names, rule = " | ".join(columns), "---|" * len(columns)
    yield STACK_HEAD.format(tolerance=TOLERANCE, about=about, names=names, rule=rule).rstrip("\n")
    told = lambda name, cell: outcomes.get(name, {}).get(cell, "-")  # noqa: E731
    for axes in AXIS_SETS:
        yield f"| {axes} | " + " | ".join(told(name, cell) for name in STACKS for cell in rows(name, axes)) + " |"


def _phases(outcomes: dict[str, dict[str, str]]) -> Iterator[str]:
    yield PHASE_HEAD.format(tolerance=TOLERANCE).rstrip("\n")
    yield from (
        f"| {name} | {about or '-'} | {outcomes.get(name, {}).get(ALL, '-')} |" for name, about in PHASES.items()
    )


def _whole() -> Iterator[str]:
    yield WHOLE_HEAD.rstrip("\n")
    for name in CONFIGS:
        for key, params, axes in parameters(str(ROOT / "configs" / name)):
            whole = kept_whole(params, axes)
            kinds = sorted(
                {path.rpartition("/")[0].rpartition("/")[2] + "/" + path.rpartition("/")[2] for path in whole}
            )
            total = sum(x.size * x.dtype.itemsize for x in params.values())
            cells = (
                f"{name}, {key}",
                f"{total:,}",
                f"{sum(whole.values()):,}",
                ", ".join(f"`{kind}`" for kind in kinds),
            )
            yield f"| {' | '.join(cells)} |"


def parameters(config: str) -> Iterator[tuple[str, dict[str, Any], dict[str, Axes]]]:
    """Of each model of a config: its name, its parameters as shapes, and their logical axes, both by their names."""
    sections = Sections.of(load(config))
    for key, model_config in sections.models.items():
        vocab_size = sections.vocabulary.size or 4096  # where it is still to be made
        model = jax.eval_shape(lambda c=model_config, size=vocab_size: create(c, size, sections.seed))
        params = split(model)[1]
        leaves = zip(jax.tree.leaves(parameter_names(params)), jax.tree.leaves(params), strict=True)
        yield key, dict(leaves), by_name(axes_of(model)[0])


def _refusals() -> Iterator[str]:
    yield REFUSAL_HEAD.rstrip("\n")
    for changes, answer in REFUSALS:
        yield f"| `{', '.join(f'{field} = {value}' for field, value in changes.items())}` | {answer} |"


if __name__ == "__main__":
    print(render(json.loads(OUTCOMES.read_text())), end="")
