"""Reading somebody else's config.json: every field is used, known to change nothing, or refused by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.config import ModelConfig

# Written by transformers, without effect on what a model computes from given tokens.
_WITHOUT_EFFECT = {
    *("_attn_implementation_autoset", "_name_or_path", "_sliding_window_pattern", "architectures"),
    *("attention_dropout", "auto_map", "bos_token_id"),
    *("cache_implementation", "dtype", "eos_token_id", "initializer_range", "layer_types", "max_position_embeddings"),
    *("model_type", "output_router_logits", "pad_token_id", "router_aux_loss_coef", "router_jitter_noise"),
    *("torch_dtype", "transformers_version", "use_cache", "vocab_size"),
}


class Fields:
    """Takes fields one by one; `finish` refuses what nobody took."""

    def __init__(self, fields: Mapping[str, Any], model_type: str, file: str = "config.json"):
        self._fields, self._taken = dict(fields), set(_WITHOUT_EFFECT)
        self._model_type, self._file = model_type, file

    def take(self, name: str, default: Any = ...) -> Any:
        """The field's value. Raises ValueError where it is absent and has no default."""
        self._taken.add(name)
        if name not in self._fields and default is ...:
            raise ValueError(f"{self._file} lacks {name!r}, which {self._model_type} needs; add the field")
        return self._fields.get(name, default)

    def require(self, name: str, *allowed: Any, default: Any = ...) -> None:
        """Refuses a value that this stack cannot express."""
        value = self.take(name, allowed[0] if default is ... else default)
        if value not in allowed:
            names = ", ".join(repr(a) for a in allowed)
            raise ValueError(
                f"{self._file}: {name} is {value!r}; of {self._model_type} this stack expresses only {names}. "
                "A model with another value cannot be imported."
            )

    def finish(self) -> None:
        unknown = sorted(set(self._fields) - self._taken)
        if unknown:
            raise ValueError(
                f"{self._file}: {', '.join(unknown)} is not understood for {self._model_type}; without it the "
                "import could compute something else. Remove the field if it has no effect."
            )


def section(config: ModelConfig, name: str, model_type: str) -> Any:
    """A section of our config that this architecture cannot do without. Raises ValueError where it is None."""
    found = getattr(config, name)
    if found is None:
        raise ValueError(f"{name} is None; a {model_type} has it")
    return found


def read_rope(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Refuses frequencies that are not base^(-2i/h) / factor."""
    rope = Fields(given, where)
    rope.require("rope_type", "default", "linear")
    base, factor = rope.take("rope_theta"), rope.take("factor", 1.0)
    rope.finish()
    return {"rope_base": float(base), "rope_scale": float(factor)}
