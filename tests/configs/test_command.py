"""The command line as programs see it; the config completed with the defaults of a small schema."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import pytest
from absl import flags
from ml_collections import ConfigDict

from configs import command
from configs.schema import complete, config_hash, parse, to_plain

FILE = """
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

def get_config(variant=""):
    if variant not in ("", "long"):
        raise ValueError(f"config has no variant {variant!r}; leave it out or choose 'long'")
    config = ConfigDict({"name": "tiny", "layers": {"a": {"heads": 2}}, "limit": placeholder(int)})
    config.phases = {"one": {"optimizer": {"kind": "sgd", "rate": 1}, "shares": {"text": 1}}}
    config.phases.one.steps = 100 if variant else 10
    config.twice = config.phases.one.get_ref("steps") * 2
    return config
"""


@dataclasses.dataclass(frozen=True)
class Layer:
    heads: int
    base: float = 10_000.0
    window: int | None = None
    cap: float | None = 30.0
    activation: Literal["gelu", "silu"] = "gelu"


@dataclasses.dataclass(frozen=True)
class Adam:
    rate: float
    kind: Literal["adam"] = "adam"
    betas: tuple[float, float] = (0.9, 0.99)


@dataclasses.dataclass(frozen=True)
class Sgd:
    rate: float
    kind: Literal["sgd"] = "sgd"
    momentum: float = 0.0
    nesterov: bool = False


@dataclasses.dataclass(frozen=True)
class Phase:
    steps: int
    optimizer: Adam | Sgd = Adam(rate=1e-3, betas=(0.5, 0.5))
    shares: dict[str, float] = dataclasses.field(default_factory=dict)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    teacher: str | None = None


@dataclasses.dataclass(frozen=True)
class Experiment:
    name: str
    phases: dict[str, Phase]
    layers: dict[str, Layer]
    twice: int
    extra: Layer | None = None  # a section that is left out unless it is given
    limit: int | None = None
    freeze: tuple[str, ...] = ()
    seed: int = 0


def completed(config: ConfigDict) -> ConfigDict:
    return complete(Experiment, config)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(FILE)
    return str(path)


@pytest.fixture
def read(file):
    return lambda *overrides, variant="": command.read(file + variant, [f"--config.{o}" for o in overrides], completed)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("seed=3", 3),
        ("phases.one.steps=7", 7),
        ("phases.one.optimizer.momentum=0.5", 0.5),
        ("phases.one.optimizer.nesterov=true", True),
        ("phases.one.optimizer.rate=1e-4", 1e-4),  # 1 in the file
        ("phases.one.shares.text=0.25", 0.25),
        ("phases.one.teacher=two", "two"),
        ("layers.a.activation=silu", "silu"),
        ("layers.a.window=500", 500),
        ("layers.a.cap=3", 3.0),
        ("layers.a.cap=None", None),
        ("limit=5", 5),
        ("freeze=('a', 'b')", ("a", "b")),
        ("freeze=a", ("a",)),
    ],
)
def test_every_field_can_be_given_whether_the_file_spells_it_or_not(read, override, value):
    found = read(override)
    for name in override.partition("=")[0].split("."):
        found = found[name]
    assert found == value
    assert type(found) is type(value)


def test_what_is_given_reaches_the_dataclasses_and_the_rest_has_its_default(read):
    parsed = parse(Experiment, read("layers.a.window=500", "phases.one.optimizer.momentum=0.5"))
    assert parsed == Experiment(
        name="tiny",
        phases={"one": Phase(10, Sgd(1.0, momentum=0.5), {"text": 1.0})},
        layers={"a": Layer(2, window=500)},
        twice=20,
    )


def test_a_variant_is_handed_to_the_file_and_references_follow_overrides(read):
    assert read(variant=":long").phases.one.steps == 100
    assert read("phases.one.steps=6").twice == 12


def test_an_optional_section_stays_none_and_a_required_one_that_is_absent_stays_absent():
    config = completed(ConfigDict({"name": "tiny", "phases": {"one": {}}}))
    assert config.extra is None
    assert "layers" not in config
    assert set(config.phases.one) == {"optimizer", "shares", "options", "teacher"}
    assert config.phases.one.optimizer.betas == (0.5, 0.5)  # of the field's default, not of the class


def test_the_hash_is_the_same_whether_a_default_is_spelled_or_not(read):
    bare = read()
    spelled = ConfigDict(to_plain(bare))
    spelled.layers.a.base = 10_000  # an int where a float is meant
    assert config_hash(completed(spelled)) == config_hash(bare) == config_hash(completed(bare))
    assert config_hash(read("seed=1")) != config_hash(bare)


def test_completing_leaves_the_given_config_as_it_is_and_passes_on_what_fits_no_field():
    config = ConfigDict({"name": 3, "phases": {"one": {"optimizer": {"kind": "lion"}}}, "layers": 7, "unknown": 1})
    before = config.to_dict()
    result = completed(config)
    assert config.to_dict() == before
    assert (result.name, result.layers, result.unknown) == (3, 7, 1)
    with pytest.raises(ValueError, match=r"config\.unknown = 1 \(int\) is not a known field"):
        parse(Experiment, result)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("phases.one.stps=5", "config.phases.one.stps is not a known field. Did you mean config.phases.one.steps?"),
        ("steps=5", "config.steps is not a known field. Did you mean config.phases.one.steps?"),
        ("layrs.a.heads=5", "config.layrs.a.heads is not a known field. Did you mean config.layers.a.heads?"),
        (
            "qqq=5",
            "config.qqq is not a known field. config has extra, freeze, layers, limit, name, phases, seed, twice.",
        ),
        ("seed.x=5", "config.seed is 0, not a section; set it with --config.seed=<value>"),
        ("extra.heads=5", "config.extra is None; give the whole section in the config file to set extra.heads"),
        ("extra=5", "config.extra is None; give the whole section in the config file"),
    ],
)
def test_a_field_that_does_not_exist_is_refused_in_one_line_with_the_nearest_one(read, override, message):
    with pytest.raises(ValueError) as error:
        read(override)
    assert str(error.value) == message


def test_a_value_of_another_type_is_refused_in_one_line(read):
    with pytest.raises(flags.Error, match=r"^flag --config.seed=abc: invalid literal for int\(\)[^\n]*$"):
        read("seed=abc")


def test_arguments_are_sorted_whichever_way_they_are_written():
    argv = ["train", "--config", "a.py:b", "--workdir", "w", "--config.seed", "-1", "-config.x=y=z", "--phase=p"]
    path, overrides, others = command.sort_arguments(argv)
    assert path == "a.py:b"
    assert overrides == ["--config.seed=-1", "--config.x=y=z"]
    assert others == ["train", "--workdir", "w", "--phase=p"]
    with pytest.raises(ValueError, match=r"^--config has no value; write --config=<value>$"):
        command.sort_arguments(["train", "--config", "--workdir=w"])


@pytest.fixture
def program(monkeypatch):
    """Runs a program on arguments; returns what its `main` got, or its exit message."""
    values = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", values)
    monkeypatch.setattr(flags, "DEFINE_string", functools.partial(flags.DEFINE_string, flag_values=values))
    monkeypatch.setattr(command.app, "run", lambda start, flags_parser: start(flags_parser(["program", *arguments])))
    arguments: list[str] = []

    def run(*argv, main=lambda *given: calls.append(given)):
        nonlocal arguments
        arguments, calls[:] = list(argv), []
        command.run(main, completed)
        return calls[0]

    calls: list[Any] = []
    return run


def test_a_program_gets_the_config_and_the_folder_named_after_its_file(program, file):
    config, workdir = program("--config", file, "--config.seed=2")
    assert config.seed == 2
    assert str(workdir) == "runs/tiny"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--config is not given; name a config file, as in --config configs/demo.py"),
        (["--config={file}:short"], "config has no variant 'short'; leave it out or choose 'long'"),
        (
            ["--config=nowhere/x.py"],
            "--config is 'nowhere/x.py'; give a Python file (.py) that exists, as in configs/demo.py",
        ),
        (
            ["--config=README.md"],
            "--config is 'README.md'; give a Python file (.py) that exists, as in configs/demo.py",
        ),
        (["--config={file}", "--config.sed=1"], "config.sed is not a known field. Did you mean config.seed?"),
        (["--config={file}", "--config.seed=x"], "flag --config.seed=x: invalid literal for int() with base 10: 'x'"),
        (["--config={file}", "oops"], "unexpected oops; settings are given as --config.<path>=<value>"),
        (["--config={file}", "--wrkdir=w"], "Unknown command line flag 'wrkdir'. Did you mean: workdir ?"),
    ],
)
def test_a_mistake_on_the_command_line_exits_with_one_line(program, file, argv, message):
    with pytest.raises(SystemExit) as stop:
        program(*(argument.format(file=file) for argument in argv))
    assert stop.value.code == f"error: {message}"  # a text as the code of an exit is printed, and 1 is the status


def test_a_value_error_of_the_program_exits_with_its_message(program, file):
    def main(config, workdir):
        raise ValueError("config.seed is 0; choose another")

    with pytest.raises(SystemExit) as stop:
        program("--config", file, main=main)
    assert stop.value.code == "error: config.seed is 0; choose another"
