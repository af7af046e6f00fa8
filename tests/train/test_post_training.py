"""From conversations and pairs to a policy and an averaged reward model: every phase for real, on sums."""

import json

import jax
import numpy as np
import pytest

from data.chat import ChatTemplate, Message
from data.vocabulary import Vocabulary
from serving.model import LoadedModel
from tests.train.tiny_config import OPTIMIZER, TEXT, _config, model
from train.average import average, main
from train.build import build_phase, check
from train.checkpoint import Checkpoint
from train.phases import run

pytestmark = pytest.mark.usefixtures("quick_compilation", "own_cache")

SUMS = [{"question": f"{i}+{j}=", "answer": str(i + j)} for i in range(8) for j in range(8)]


def post_training(folder, **changes):
    """`imitate` answers, `judge` scores pairs of them, `prefer` is taught by the pairs."""
    Vocabulary.train([TEXT.read_text()[:8000]], 384).save(folder / "vocabulary.model")
    pairs = [{"prompt": x["question"], "chosen": x["answer"], "rejected": f"{x['answer']}0"} for x in SUMS]
    for name, records in (("answers", SUMS), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    small = {**model(), "num_layers": 1, "pattern": ("global",), "recurrent": None}
    pipeline = {"batch_size": 2, "slots": 64, "window": 64}
    base = {"pipeline": pipeline, "steps": 2, "optimizer": OPTIMIZER}
    on_pairs = base | {"mixture": {"pairs": 1.0}, "init": "phase:imitate"}
    answers = {"kind": "conversations", "paths": (str(folder / "answers.jsonl"),)}
    phases = {
        "imitate": base | {"objective": "next_token", "model": "policy", "mixture": {"answers": 1.0}},
        "judge": on_pairs | {"objective": "reward", "model": "judge"},
        "prefer": on_pairs
        | {"objective": "dpo", "model": "policy", "teacher": "imitate", "lora": {"rank": 2}, "steps": 8},
    }
    config = _config(
        vocabulary={"path": str(folder / "vocabulary.model")},
        sources={
            "answers": answers | {"user": "{question}", "answer": "{answer}", "holdout": 0.2},
            "pairs": {"kind": "preferences", "paths": (str(folder / "pairs.jsonl"),), "holdout": 0.2},
        },
        models={"policy": small, "judge": {**small, "reward": True}},
        phases=phases,
    )
    config.train.update({"checkpoint_every": 1, "log_every": 1})
    config.update_from_flattened_dict({path.replace("/", "."): value for path, value in changes.items()})
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("post")
    config = post_training(folder)
    return folder / "run", run(config, folder / "run", build_phase)


def test_each_phase_is_measured_on_what_it_holds_out(finished):
    _, results = finished
    assert set(results["imitate"]["evaluation"]) == {"loss/text"}
    for name in ("judge", "prefer"):
        assert set(results[name]["evaluation"]) == {"loss/preference", "accuracy/preference"}
        assert 0 <= results[name]["evaluation"]["accuracy/preference"] <= 1


def test_direct_preference_optimisation_starts_at_the_reference_and_leaves_it_for_the_better_answers(finished):
    workdir, results = finished
    lines = [json.loads(line) for line in (workdir / "prefer" / "metrics.jsonl").read_text().splitlines()]
    assert results["prefer"]["losses"]["loss"] < np.log(2)
    assert results["prefer"]["evaluation"]["loss/preference"] < np.log(2)
    assert all(np.isfinite(value) for line in lines for value in line.values() if isinstance(value, float))


def test_a_new_head_starts_fresh_beside_what_is_taken_over(finished):
    workdir, _ = finished
    report = json.loads((workdir / "judge" / "init.json").read_text())
    assert [name for name, _ in report["fresh"]] == ["reward/kernel"]


def test_what_was_trained_on_conversations_is_served_with_their_turns(finished):
    workdir, _ = finished
    loaded = LoadedModel.of(Checkpoint.open(workdir / "imitate"))
    prompt = ChatTemplate(loaded.vocabulary, turn=loaded.turn).prompt([Message("user", ("1+1=",))])
    assert prompt.ends == {loaded.vocabulary.piece_id("<turn_end>")}


def test_the_average_of_reward_models_is_a_checkpoint_measured_like_its_members(finished, tmp_path):
    workdir, results = finished
    members = [Checkpoint.open(workdir / "judge" / "checkpoints" / step) for step in "12"]
    found = average(members, str(tmp_path / "out"), evaluate=True)
    assert found[str(members[1].path)] == pytest.approx(results["judge"]["evaluation"], rel=1e-4)
    assert set(found["average"]) == {"loss/preference", "accuracy/preference"}
    made = Checkpoint.open(tmp_path / "out")
    assert made.meta["origin"]["average of"] == [str(member.path) for member in members]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *(member.weights for member in members))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), made.weights, mean)
    assert LoadedModel.of(made).config.reward


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["judge"], "there is 1 checkpoint to average; give two or more"),
        (["judge", "imitate"], "reward/kernel is absent in"),
        (["judge", "nowhere"], "holds no finished checkpoint"),
        (["prefer", "prefer"], "phase 'prefer' is measured with its teacher; leave out --evaluate"),
    ],
)
def test_what_cannot_be_averaged_is_refused_in_one_line(finished, tmp_path, names, message):
    workdir, _ = finished
    with pytest.raises(SystemExit) as stop:
        main([*(str(workdir / name) for name in names), "--out", str(tmp_path / "out"), "--evaluate"])
    assert str(stop.value).startswith("error: ")
    assert message in str(stop.value)
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_not_written_over(finished, tmp_path):
    workdir, _ = finished
    with pytest.raises(SystemExit, match="exists; remove it or choose another folder"):
        main([str(workdir / "judge"), str(workdir / "judge"), "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"phases/judge/mixture": {"answers": 1.0}},
            "config.phases.judge.objective is 'reward', config.sources.answers is of kind 'conversations'; it takes "
            "preferences alone",
        ),
        (
            {"phases/imitate/mixture": {"pairs": 1.0}},
            "config.phases.imitate.objective is 'next_token', config.sources.pairs is of kind 'preferences'; it takes "
            "no preferences; use dpo or reward for them",
        ),
        (
            {"models/judge/reward": False},
            "config.phases.judge.objective is 'reward'; set config.models.judge.reward to True",
        ),
        (
            {"sources/answers/num_slots": 4},
            "config.phases.imitate.pipeline.images is 0, config.sources.answers has images (num_slots 4); set images",
        ),
        (
            {"sources/answers/turn": "{content}\n"},
            "config.sources have the turns {'answers': '{content}\\n', 'pairs': ''}",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_the_field(tmp_path, changes, message):
    with pytest.raises(ValueError) as error:
        check(post_training(tmp_path, **changes))
    assert str(error.value).startswith(message)
