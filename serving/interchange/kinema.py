"""A model of ours as a custom module of HF transformers, for what no architecture of that library expresses.

The folder brings its own `modeling_kinema.py`, which `trust_remote_code=True` runs. Tensors keep our layouts and, but
for the layers' prefix, our names; so does config.json with the fields of `model.config.ModelConfig`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from configs.schema import parse
from model.config import ModelConfig
from serving.interchange.fields import Fields
from serving.interchange.stacking import abstract_states
from serving.interchange.tensors import Entry

_CUSTOM = Path(__file__).parent / "custom"
# Not about text, or without effect on what a trained model computes. A number of theirs is called `dtype` too.
_MORE = ("image", "robot", "bins", "l1", "flow", "local_decoder", "reward", "num_other_codes")
_LEFT_OUT = (*_MORE, "dtype", "remat", "scan", "kernels")
_SECTIONS = [field.name for field in dataclasses.fields(ModelConfig) if field.name not in _LEFT_OUT]


class Kinema:
    """`kinema`: every mixer and feed-forward, without pictures and heads for actions."""

    model_type, class_name = "kinema", "KinemaForCausalLM"
    modules = tuple(_CUSTOM / name for name in ("configuration_kinema.py", "modeling_kinema.py"))

    def entries(self, config: ModelConfig) -> Iterator[Entry]:
        """Every parameter and buffer of the model layer by layer."""
        alone = dataclasses.replace(config, scan=False)
        for states in abstract_states(alone, vocab_size=config.num_codes + 1):
            for path in states:
                yield Entry(path.replace("stack/remainder/", "layers/").replace("/", "."), path)

    def read_config(self, given: Mapping[str, Any]) -> ModelConfig:
        fields = Fields(given, self.model_type)
        sections = {name: fields.take(name) for name in _SECTIONS}
        fields.finish()
        return parse(ModelConfig, sections, "config.json")

    def write_config(self, config: ModelConfig) -> dict[str, Any]:
        """Raises ValueError for a model that does more than text, by the field's name."""
        more = [name for name in _MORE if getattr(config, name)]
        if more:
            raise ValueError(
                f"{more[0]} is {getattr(config, more[0])!r}, but the module of a {self.model_type} is for text alone; "
                "use --to stablehlo"
            )
        sections = dataclasses.asdict(config)
        files = {"AutoConfig": "configuration_kinema.KinemaConfig", "AutoModelForCausalLM": "modeling_kinema"}
        files["AutoModelForCausalLM"] += f".{self.class_name}"
        return {name: sections[name] for name in _SECTIONS} | {"auto_map": files, "use_cache": False}
