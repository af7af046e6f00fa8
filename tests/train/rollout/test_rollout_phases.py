"""Whole phases that learn from their own answers: what they log, taking up again, and what is refused."""

import json
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from data.vocabulary import Vocabulary
from tests.train.tiny_config import OPTIMIZER, TEXT, model
from train.build import build_phase, check
from train.checkpoint import Checkpoint
from train.phases import read_sections, run
from train.sections import completed

pytestmark = pytest.mark.usefixtures("quick_compilation", "own_cache")
FIGURES = {"reward", "reward/number", "reward/letters", "kl", "entropy", "length", "ended", "logprob_error", "loss"}


def config_of(folder, **changes) -> Any:
    """`imitate` sums, then `attempt` them; `changes` are dotted paths with `/` for the dot."""
    if not (folder / "vocabulary.model").exists():
        Vocabulary.train([TEXT.read_text()[:8000]], 384, num_codes=4).save(folder / "vocabulary.model")
    shared = {"model": "tiny", "mixture": {"sums": 1.0}, "optimizer": OPTIMIZER}
    letters = {"kind": "format", "pattern": r"[a-z ].*", "weight": 0.5}  # a quarter of what an untrained model writes
    attempt = {
        "objective": "grpo",
        "pipeline": {"batch_size": 8, "slots": 12},
        "rollout": {"samples": 4, "prompt_slots": 8, "num_tokens": 4, "rewards": {"number": {}, "letters": letters}},
        "steps": 4,
        "init": "phase:imitate",
        "teacher": "imitate",
        "eval_every": 2,
        **shared,
    }
    attempt["rollout"]["rewards"]["number"] = {"kind": "number"}
    imitate = {"objective": "next_token", "pipeline": {"batch_size": 2, "slots": 48}, "steps": 2, **shared}
    sums = {"kind": "arithmetic", "num_problems": 60, "largest": 9, "holdout": 0.2}
    result = ConfigDict(
        {
            "seed": 0,
            "mesh": {"data": 1},
            "vocabulary": {"path": str(folder / "vocabulary.model"), "num_codes": 4},
            "sources": {"sums": sums},
            "models": {"tiny": model()},
            "train": {"phases": ("imitate", "attempt"), "checkpoint_every": 100, "log_every": 1, "spike_factor": None},
            "phases": {"imitate": imitate, "attempt": attempt},
        },
        type_safe=False,
    )
    result.update_from_flattened_dict({path.replace("/", "."): value for path, value in changes.items()})
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A work folder in which `imitate` is done."""
    folder = tmp_path_factory.mktemp("sums")
    run(config_of(folder), folder, build_phase, only="imitate")
    return folder


def attempt(folder, name, **changes):
    """The phase in a work folder of its own, begun from the one `imitate` of all."""
    workdir = folder / name
    workdir.mkdir(exist_ok=True)
    if not (workdir / "imitate").exists():
        (workdir / "imitate").symlink_to(folder / "imitate")
    return run(config_of(folder, **changes), workdir, build_phase, only="attempt")["attempt"]


def lines(folder, name) -> list[dict]:
    return [json.loads(line) for line in (folder / name / "attempt" / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(folder):
    return attempt(folder, "straight")


def test_every_step_logs_reward_kl_entropy_and_length(folder, finished):
    steps = [line for line in lines(folder, "straight") if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    for line in steps:
        assert line.keys() >= FIGURES
        assert 1 <= line["length"] <= 4
        assert line["entropy"] > 0
        assert line["logprob_error"] < 1e-4
        np.testing.assert_allclose(line["reward"], line["reward/number"] + 0.5 * line["reward/letters"], atol=1e-6)
    assert any(0 < line["reward/letters"] < 1 for line in steps)
    assert abs(steps[0]["kl"]) < 1e-5  # it begins as its reference
    assert steps[-1]["kl"] > 1e-3


def test_held_out_problems_are_measured_and_end_in_the_report(finished):
    assert finished["evaluation"].keys() >= {"reward", "greedy_reward", "kl", "entropy", "length", "ended"}
    assert finished["evaluation"]["kl"] > 1e-3


@pytest.mark.parametrize("updates", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_was_taken_up_again_ends_bit_identical(folder, finished, updates):
    changes = {"phases/attempt/options": {"updates": updates}} if updates > 1 else {}
    name = "straight"
    if updates > 1:
        name = "straight in twos"
        attempt(folder, name, **changes)
    attempt(folder, f"{updates} at once", **changes, **{"train/steps": 2})
    attempt(folder, f"{updates} at once", **changes)
    straight, resumed = (Checkpoint.open(folder / run / "attempt") for run in (name, f"{updates} at once"))
    jax.tree.map(np.testing.assert_array_equal, straight.params, resumed.params)
    figures = [[line for line in lines(folder, run) if line["step"] == 4] for run in (name, f"{updates} at once")]
    for one, other in zip(*figures, strict=True):
        assert {k: one[k] for k in one.keys() & FIGURES} == {k: other[k] for k in other.keys() & FIGURES}


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        ("bond", {"best_of": 2}),
        pytest.param("grpo", {"anchor": 0.1}, marks=pytest.mark.slow),
        pytest.param("on_policy_distill", {"divergence": "jsd"}, marks=pytest.mark.slow),
    ],
)
def test_each_objective_runs_with_the_same_rollouts(folder, objective, options):
    changes = {"phases/attempt/objective": objective, "phases/attempt/options": options, "phases/attempt/ema": 0.9}
    report = attempt(folder, objective + str(options), **changes, **{"train/steps": 2})
    assert np.isfinite(report["losses"]["loss"])
    assert report["evaluation"]["reward"] >= 0


@pytest.mark.slow
def test_adapters_draw_and_are_measured_as_one_with_what_they_adapt(folder):
    report = attempt(folder, "lora", **{"phases/attempt/lora": {"rank": 2}})
    steps = [line for line in lines(folder, "lora") if "loss" in line]
    assert steps[0]["kl"] < 1e-5
    assert all(line["logprob_error"] < 1e-4 for line in steps)
    assert report["evaluation"]["kl"] > 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"objective": "next_token", "teacher": None},
            r"attempt\.rollout is given, but objective 'next_token' does not",
        ),
        ({"rollout": None}, r"attempt\.rollout is missing, but objective 'grpo' learns .*those that do: grpo, bond"),
        ({"teacher": None}, r"attempt\.teacher is None but objective 'grpo' needs one"),
        ({"rollout/samples": 1}, r"attempt\.rollout\.samples is 1; objective 'grpo' compares"),
        ({"rollout/samples": 3}, r"batch_size is 8; it must be a multiple of rollout\.samples \(3\)"),
        ({"pipeline/slots": 20}, r"pipeline\.slots is 20; .*prompt_slots \+ rollout\.num_tokens = 12"),
        ({"options": {"anchor": 0.5}}, r"attempt\.ema is 0, its objective compares with the moving average"),
        ({"options": {"updates": 3}}, r"train\.checkpoint_every is 100; .*options\.updates = 3"),
        ({"options": {"updates": 100}}, r"attempt: steps is 4; .*options\.updates = 100"),
        ({"rollout/rewards": {}}, r"attempt\.rollout\.rewards is empty"),
        ({"mixture": {"text": 1.0}}, r"mixture has 'text' of kind 'text', which has no problems"),
    ],
)
def test_what_does_not_go_together_is_refused_by_field(folder, changes, message):
    config = config_of(folder, **{f"phases/attempt/{path}": value for path, value in changes.items()})
    config.sources["text"] = {"kind": "text", "paths": (str(TEXT),)}
    if "mixture" in changes:
        config.phases.attempt.mixture = ConfigDict(changes["mixture"])
    if "rollout/rewards" in changes:
        config.phases.attempt.rollout.rewards = ConfigDict()
    with pytest.raises(ValueError, match=message):
        checked(config)


def checked(config):
    """As `python -m train` does before it begins."""
    config = completed(config)
    read_sections(config)
    check(config)


def test_a_prompt_that_is_too_long_is_refused_by_source(folder):
    config = completed(
        config_of(folder, **{"phases/attempt/rollout/prompt_slots": 4, "phases/attempt/pipeline/slots": 8})
    )
    with pytest.raises(
        ValueError, match=r"source 'sums': the prompt of problem \d+ takes 5 slots, rollout.prompt_slots"
    ):
        build_phase(config, "attempt", Checkpoint.open(folder / "imitate"))
