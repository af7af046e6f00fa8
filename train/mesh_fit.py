"""Whether a phase and its model fit the mesh: what would fail at an odd place later is refused by the field's name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from model.config import ModelConfig
from sharding.mesh import AXES, BATCH_AXES, REST, MeshConfig
from train.config import PhaseConfig
from train.fit import options_of
from train.objectives import OBJECTIVES


def stated_sizes(mesh: MeshConfig) -> dict[str, int]:
    """Devices along each axis as far as the config says; 1 where an axis takes the rest."""
    sizes = {axis: getattr(mesh, axis) for axis in AXES}
    return {axis: 1 if size == REST else size for axis, size in sizes.items()}


def check_mesh(where: str, phase: PhaseConfig, model: ModelConfig, sizes: Mapping[str, int]) -> None:
    """Raises ValueError where rows, slots or weights cannot be cut into equal parts for the devices along an axis.

    What no config field says (a vocabulary's size) `sharding.rules` refuses, naming the parameter.
    """
    shards = math.prod(sizes[axis] for axis in BATCH_AXES)
    _check_rows(where, phase, shards)
    if phase.rollout is not None and hasattr(OBJECTIVES[phase.objective], "draws"):
        _check_answers(where, phase, shards)
    slots, context = phase.pipeline.slots, sizes["context"]
    if context > 1 and slots % (2 * context):
        raise ValueError(
            f"{where}.pipeline.slots is {slots}, config.mesh.context = {context} cuts a row into {2 * context} equal "
            f"chunks; make slots a multiple of {2 * context} or context smaller"
        )
    for field, value, axis in model_cuts(model):
        if value % sizes[axis]:
            raise ValueError(
                f"config.models.{phase.model}.{field} is {value}, which config.mesh.{axis} = {sizes[axis]} does not "
                f"divide; set config.mesh.{axis} to a divisor of {value} or change {field}"
            )


def _check_rows(where: str, phase: PhaseConfig, shards: int) -> None:
    rows, given = phase.pipeline.batch_size, f"{where}.pipeline.batch_size is {phase.pipeline.batch_size}"
    if phase.accumulate > 1:
        rows, given = rows // phase.accumulate, f"{given} in {phase.accumulate} microbatches (accumulate)"
    if rows % shards:
        raise ValueError(
            f"{given}, but config.mesh lays rows over data * fsdp * expert = {shards} devices; make batch_size a "
            f"multiple of {shards * phase.accumulate}, or these axes smaller"
        )


def _check_answers(where: str, phase: PhaseConfig, shards: int) -> None:
    """Answers are drawn a model at a time, which can be fewer than a batch has rows."""
    assert phase.rollout is not None
    samples, rows = phase.rollout.samples, phase.pipeline.batch_size
    draws = OBJECTIVES[phase.objective].draws(samples, options_of(where, phase).get("options"))
    for model, number in (("policy", draws.policy), ("anchor", draws.anchor)):
        if rows // samples * number % shards:
            raise ValueError(
                f"{where}.pipeline.batch_size is {rows}, for which {rows // samples * number} answers of the {model} "
                f"are drawn at once, but config.mesh lays rows over data * fsdp * expert = {shards} devices; make "
                f"batch_size a multiple of {samples * (shards // math.gcd(number, shards))}, or these axes smaller"
            )


def model_cuts(model: ModelConfig) -> Iterator[tuple[str, int, str]]:
    """(field, its value, mesh axis) of all sizes that `sharding.rules.RULES` lays over an axis."""
    yield "model_dim", model.model_dim, "fsdp"
    for section in ("local_attention", "global_attention"):
        attention = getattr(model, section)
        if attention is not None:
            yield f"{section}.num_heads", attention.num_heads, "tensor"
            yield f"{section}.num_kv_heads", attention.num_kv_heads, "tensor"
    if model.dense is not None:
        yield "dense.hidden_dim", model.dense.hidden_dim, "tensor"
    if model.moe is not None:
        yield "moe.num_experts", model.moe.num_experts, "expert"
        yield "moe.hidden_dim", model.moe.hidden_dim, "tensor"
        yield "moe.shared_dim", model.moe.shared_dim, "tensor"
    if model.recurrent is not None:
        yield "model_dim", model.model_dim, "tensor"
        yield "recurrent.num_states", model.recurrent.num_states, "tensor"
