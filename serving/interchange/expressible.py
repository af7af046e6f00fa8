"""Which architecture of HF transformers computes what a model of ours computes, told by writing and reading configs."""

from __future__ import annotations

import dataclasses
from typing import Any

from model.config import ImageConfig, ModelConfig
from serving.interchange.files import ARCHITECTURES, with_text_fields

# What no architecture has, by the field that gives it.
_OURS_ALONE = ("recurrent", "robot", "bins", "l1", "flow", "local_decoder", "reward", "num_codes", "num_other_codes")
# Without effect on what a trained model computes, or compared as `mixers` and `feed_forwards`.
_WITHOUT_EFFECT = {"pattern", "ffn", "dtype", "remat", "scan", "kernels", "moe.balance_loss", "moe.z_loss"}


def architecture_for(config: ModelConfig, vocab_size: int, preferred: str | None = None) -> Any:
    """The architecture that expresses `config`: the preferred `model_type` if it can, else the first that can.

    Raises:
        ValueError: none can; the message names the fields that stand in the way.
    """
    alone = [field for field in _OURS_ALONE if getattr(config, field)]
    alone += ["image"] if isinstance(config.image, ImageConfig) else []
    if alone:
        raise ValueError(
            f"{alone[0]} is {getattr(config, alone[0])!r}, which no architecture of HF transformers has; only a model "
            "without it can be exported there. Use --to hf --custom for text, or --to stablehlo"
        )
    names = sorted(ARCHITECTURES, key=lambda name: name != preferred)
    found = {name: differences(ARCHITECTURES[name], config, vocab_size) for name in names}
    fitting = [name for name in names if not found[name]]
    if fitting:
        return ARCHITECTURES[fitting[0]]
    reasons = "".join(f"\n  {name}: {'; '.join(fields[:3])}" for name, fields in found.items())
    raise ValueError(
        f"no architecture of HF transformers expresses this model; in the way are{reasons}\n"
        "Use --to hf --custom, or --to stablehlo"
    )


def differences(architecture: Any, config: ModelConfig, vocab_size: int) -> list[str]:
    """The fields whose effect is lost when `config` is written as this architecture and read again."""
    try:
        written = architecture.write_config(config)
        written = with_text_fields(architecture, written, vocab_size=vocab_size)
        again = architecture.read_config(written | {"model_type": architecture.model_type})
    except ValueError as error:
        return [str(error)]
    return unequal(config, again)


def unequal(config: ModelConfig, other: ModelConfig) -> list[str]:
    """What two configs compute differently, by field."""
    ours, theirs = effects(config), effects(other)
    absent = object()
    return [
        f"{field} is {ours.get(field)!r}, it has {theirs.get(field)!r}"
        for field in (*ours, *(theirs.keys() - ours.keys()))
        if ours.get(field, absent) != theirs.get(field, absent)
    ]


def effects(config: ModelConfig) -> dict[str, Any]:
    """The fields that decide what the model computes, by dotted path; a section that is None is one field."""
    flat = _flat(dataclasses.asdict(config)) | {"mixers": config.mixers, "feed_forwards": config.feed_forwards}
    for section in ("local_attention", "global_attention"):
        attention = getattr(config, section)
        if attention is not None:
            # Rounded, as some write its inverse square.
            scale = attention.query_scale or attention.head_dim**-0.5
            flat[f"{section}.query_scale"] = float(f"{scale:.6g}")
    return {field: value for field, value in flat.items() if field not in _WITHOUT_EFFECT}


def _flat(tree: dict[str, Any], where: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{where}{key}.") if isinstance(value, dict) else {f"{where}{key}": value}
    return found
