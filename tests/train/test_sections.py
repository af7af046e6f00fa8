"""The shipped configs and the command line: every default spelled, and nothing else changed."""

import dataclasses
import pathlib

import pytest
from ml_collections import ConfigDict

from configs.command import load, read
from configs.schema import config_hash, parse
from eval import config as evaluation
from train.build import check
from train.sections import Config, completed

ROOT = pathlib.Path(__file__).parents[2]
NAMES = sorted(p.stem for p in (ROOT / "configs").glob("*.py") if "def get_config" in p.read_text())
NAMES = [name for name in NAMES if name not in ("command", "schema")]


def without_options(config):
    """The checked config; the defaults of options are those of the objective, not of `PhaseConfig`."""
    parsed = parse(Config, config)
    phases = {name: dataclasses.replace(phase, options={}) for name, phase in parsed.phases.items()}
    return dataclasses.replace(parsed, phases=phases)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_config_works_and_means_the_same_with_its_defaults_spelled(name):
    config = load(str(ROOT / f"configs/{name}.py"))
    spelled = completed(config)
    check(spelled)
    assert without_options(spelled) == without_options(config)
    assert config_hash(completed(spelled)) == config_hash(spelled)
    judged = {k: spelled[k] for k in ("sources", "evaluate")}
    assert not spelled.evaluate or parse(evaluation.Config, judged)


def test_fields_that_the_demo_leaves_out_can_be_given():
    file = str(ROOT / "configs/demo.py")
    overrides = {
        "phases.pretrain.eval_every": "500",
        "phases.distil.options.alpha": "0.5",
        "train.spike_factor": "None",
        "mesh.fsdp": "2",
        "models.student.global_attention.softcap": "30",
    }
    config = read(file, [f"--config.{path}={value}" for path, value in overrides.items()], completed)
    parsed = parse(Config, config)
    assert parsed.phases["pretrain"].eval_every == 500
    assert parsed.phases["distil"].options == {"alpha": 0.5, "temperature": 1.0}
    assert parsed.train.spike_factor is None
    assert parsed.mesh.fsdp == 2
    assert parsed.models["student"].attention("global").softcap == 30.0
    config = read(file, ["--config.evaluate.tabletop.episodes=7"], evaluation.completed)
    assert parse(evaluation.EvaluateConfig, config.evaluate).tabletop.episodes == 7  # type: ignore[union-attr]


def test_a_config_of_another_shape_passes_through_to_be_refused_with_its_path():
    config = ConfigDict({"phases": {"a": {"options": {}, "objective": "dream"}}, "models": 3})
    spelled = completed(config)
    assert spelled.seed == 0
    assert spelled.models == 3
    with pytest.raises(ValueError, match=r"^config\.train is missing|^config\.vocabulary is missing"):
        parse(Config, spelled)
