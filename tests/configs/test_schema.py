from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal

import ml_collections
import pytest
from ml_collections import config_dict

from configs import schema


@dataclasses.dataclass(frozen=True)
class Attention:
    heads: int
    window: int | None = None
    base: float = 10_000.0

    def __post_init__(self):
        if self.heads <= 0:
            raise ValueError(f"heads is {self.heads}; allowed: positive integers")
        if self.window is not None and self.window < self.heads:
            raise ValueError("a window smaller than the heads is refused")


@dataclasses.dataclass(frozen=True)
class Adam:
    kind: Literal["adam"]
    rate: float
    betas: tuple[float, float] = (0.9, 0.99)


@dataclasses.dataclass(frozen=True)
class Sgd:
    kind: Literal["sgd"]
    rate: float


@dataclasses.dataclass(frozen=True)
class Experiment:
    name: str
    attention: Attention
    pattern: tuple[Literal["local", "global"], ...] = ("local",)
    optimizer: Adam | Sgd = Adam(kind="adam", rate=1e-3)
    phases: dict[str, Attention] = dataclasses.field(default_factory=dict)
    seed: int | str = 0
    fast: bool = False
    note: Any = None


def experiment(**changes: Any) -> dict:
    return {"name": "tiny", "attention": {"heads": 2}} | changes


def test_a_config_dict_becomes_nested_frozen_dataclasses():
    config = ml_collections.ConfigDict(
        experiment(
            pattern=["local", "global"],
            phases={"pretrain": {"heads": 1}, "distil": {"heads": 4, "window": 8}},
            optimizer={"kind": "sgd", "rate": 1},
        )
    )
    parsed = schema.parse(Experiment, config)
    assert parsed == Experiment(
        name="tiny",
        attention=Attention(heads=2),
        pattern=("local", "global"),
        phases={"pretrain": Attention(1), "distil": Attention(4, 8)},
        optimizer=Sgd(kind="sgd", rate=1.0),
    )
    assert isinstance(parsed.optimizer.rate, float)
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed.name = "other"  # type: ignore[misc]


def test_a_field_reference_is_resolved_to_its_value():
    width = config_dict.FieldReference(3)
    config = ml_collections.ConfigDict(experiment(attention={"heads": width}))
    config.seed = width
    parsed = schema.parse(Experiment, config)
    assert (parsed.attention.heads, parsed.seed) == (3, 3)


def test_a_parsed_section_is_taken_as_it_is():
    attention = Attention(heads=2)
    assert schema.parse(Experiment, experiment(attention=attention)).attention is attention


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ({"atention": 1}, "config.atention = 1 (int)", "Did you mean 'attention'?"),
        ({"attention": {"heads": 2, "zzz": 3}}, "config.attention.zzz", "Allowed: heads, window, base"),
        ({"attention": {"window": 3}}, "config.attention.heads is missing", "--config.attention.heads="),
        ({"attention": {"heads": "2"}}, "config.attention.heads is '2'", "must be an int"),
        ({"attention": {"heads": True}}, "config.attention.heads is True (bool)", "must be an int"),
        ({"attention": {"heads": 2.0}}, "config.attention.heads is 2.0 (float)", "must be an int"),
        ({"attention": {"heads": 2, "base": True}}, "config.attention.base is True (bool)", "must be a number"),
        ({"attention": {"heads": 2, "window": 1.5}}, "config.attention.window is 1.5", "an int or None"),
        ({"attention": 7}, "config.attention is 7 (int)", "section with named fields"),
        ({"attention": None}, "config.attention is None", "section with named fields"),
        ({"fast": 1}, "config.fast is 1 (int)", "True or False"),
        ({"name": 3}, "config.name is 3 (int)", "must be a text"),
        ({"pattern": ("local", "globl")}, "config.pattern[1] is 'globl'", "Did you mean 'global'?"),
        ({"pattern": "local"}, "config.pattern is 'local'", "a list, each item one of 'local', 'global'"),
        ({"optimizer": {"kind": "adam", "rate": 1.0, "betas": (0.9,)}}, "config.optimizer.betas", "a list of 2"),
        ({"optimizer": {"kind": "sgd", "rate": "x"}}, "config.optimizer.rate is 'x'", "must be a number"),
        (
            {"optimizer": {"kind": "lion", "rate": 1.0}},
            "config.optimizer is {'kind': 'lion'",
            "a section (kind='sgd', rate)",
        ),
        ({"phases": {"distil": {"heads": None}}}, "config.phases.distil.heads is None", "must be an int"),
        ({"seed": 1.5}, "config.seed is 1.5 (float)", "an int or a text"),
    ],
)
def test_a_bad_value_is_refused_with_its_path_and_what_is_allowed(changes, path, message):
    with pytest.raises(ValueError) as error:
        schema.parse(Experiment, experiment(**changes))
    assert path in str(error.value)
    assert message in str(error.value)


def test_errors_of_post_init_get_the_path():
    with pytest.raises(ValueError, match=r"^config\.phases\.a\.heads is 0; allowed: positive"):
        schema.parse(Experiment, experiment(phases={"a": {"heads": 0}}))
    with pytest.raises(ValueError, match=r"^config\.attention: a window smaller"):
        schema.parse(Experiment, experiment(attention={"heads": 2, "window": 1}))


@dataclasses.dataclass(frozen=True)
class Momentum:
    decay: float = 0.9
    kind: Literal["momentum"] = "momentum"

    def __post_init__(self):
        if not 0 < self.decay < 1:
            raise ValueError(f"decay is {self.decay}; allowed: between 0 and 1")


@dataclasses.dataclass(frozen=True)
class Averaged:
    average: Momentum | Sgd = Momentum()


def test_a_section_whose_kind_has_a_default_is_meant_where_no_kind_is_given():
    """So its errors, and the fields that a command line may change, are its own."""
    assert schema.parse(Averaged, {"average": {"decay": 0.5}}) == Averaged(Momentum(0.5))
    with pytest.raises(ValueError, match=r"^config\.average\.decay is 2\.0; allowed: between 0 and 1"):
        schema.parse(Averaged, {"average": {"decay": 2.0}})
    assert schema.complete(Averaged, ml_collections.ConfigDict({"average": {}})).average.decay == 0.9
    assert schema.parse(Averaged, {"average": {"kind": "sgd", "rate": 1.0}}) == Averaged(Sgd("sgd", 1.0))


def test_an_unset_required_placeholder_is_refused():
    config = ml_collections.ConfigDict(experiment())
    config.seed = config_dict.required_placeholder(int)
    with pytest.raises(ValueError, match="required placeholder without a value"):
        schema.parse(Experiment, config)


def test_plain_data_survives_json_and_parses_to_the_same_config():
    config = schema.parse(Experiment, experiment(pattern=("global",), phases={"a": {"heads": 1}}, note=[1, {"k": "v"}]))
    assert schema.parse(Experiment, json.loads(json.dumps(schema.to_plain(config)))) == config


def test_what_no_config_can_hold_is_refused():
    with pytest.raises(ValueError, match="no config value"):
        schema.to_plain({"function": len})


def test_the_hash_depends_on_values_alone():
    config = schema.parse(Experiment, experiment())
    reordered = dict(reversed(schema.to_plain(config).items()))
    assert schema.config_hash(config) == schema.config_hash(reordered) == "991214fa6b7e19a8"
    assert schema.config_hash(dataclasses.replace(config, seed=1)) != schema.config_hash(config)
