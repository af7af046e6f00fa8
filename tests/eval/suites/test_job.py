"""Jobs: what is written while they run, what a rerun does, the command, and evaluation beside training."""

import json
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from data.vocabulary import Vocabulary
from eval.language import CheckpointModel
from eval.suites import arc, command, job, passages
from eval.suites.job import Suite, rates, run
from eval.suites.watch import watch
from serving.model import LoadedModel
from tests.eval.language_doubles import Guesser, Oracle
from tests.model.weights import random_states
from tests.serving.interchange.folders import TEXT, gemma, trained
from train.checkpoint import Checkpoint

pytestmark = pytest.mark.usefixtures("quick_compilation")
DATA = Path("tests/assets/suites")
SHAKESPEARE = Path("tests/assets/text/shakespeare.txt")


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.train([TEXT], 384)


@pytest.fixture(scope="module")
def checkpoint(vocabulary, tmp_path_factory):
    _, params, buffers = random_states(gemma(), vocabulary.size, seed=1, std=0.3)
    return trained(tmp_path_factory.mktemp("run") / "pretrain", gemma(), params, vocabulary, buffers)


def ids_in(path):
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


class Stops(Guesser):
    """A model whose process ends in the middle of a job."""

    def __init__(self, vocabulary, calls):
        super().__init__(vocabulary)
        self.calls = calls

    def score(self, requests):
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        return super().score(requests)


def test_a_job_that_was_stopped_goes_on_and_repeats_nothing(vocabulary, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "AT_ONCE", 8)
    suite = Suite("arc", arc.items(DATA))
    path = tmp_path / "arc.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(suite, Stops(vocabulary, calls=2), tmp_path)
    done = ids_in(path)
    assert len(done) == 16
    with path.open("a") as file:
        file.write('{"id": "arc_easy:3", "met')  # as a kill leaves it
    said = []
    summary = run(suite, Guesser(vocabulary, seed=1), tmp_path, report=said.append)
    assert said == ["arc: 16 of 40 items are done"]
    assert ids_in(path)[:16] == done
    assert sorted(ids_in(path)) == sorted(item.id for item in suite.items)
    assert summary["items"] == 40
    before = path.read_bytes()
    assert run(suite, Stops(vocabulary, calls=0), tmp_path, report=said.append) == summary  # nothing is asked
    assert path.read_bytes() == before


def test_rates_have_wilson_intervals_and_groups():
    records = [
        {"id": str(i), "group": "ab"[i % 2], "metrics": {"right": i < 3, "all": [True, i == 0], "share": i / 4}}
        for i in range(4)
    ]
    found = rates(records, Path())
    assert (found["items"], found["right"], found["all"], found["share"]) == (4, 0.75, 0.625, 0.375)
    assert found["right_interval"] == pytest.approx([0.3006, 0.9544], abs=1e-4)
    assert "share_interval" not in found
    assert found["groups"]["a"]["right"] == 1
    assert found["groups"]["b"]["right"] == 0.5


@pytest.mark.parametrize("items", [[], [1, 1]])
def test_a_suite_needs_items_of_different_identity(vocabulary, tmp_path, items):
    with pytest.raises(ValueError, match=f"suite arc has {len(items)} items"):
        run(Suite("arc", [arc.items(DATA)[i] for i in items]), Guesser(vocabulary), tmp_path)


def test_bits_per_byte_predicts_every_token_of_a_file_once(vocabulary, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(SHAKESPEARE.read_text()[:1500])
    model = Oracle(vocabulary, context=50)  # -9 nats a token
    suite = passages.suite(model, [path])
    ids = vocabulary.encode(path.read_text())
    assert [i for item in suite.items for i in item.ids] == ids
    summary = run(suite, model, tmp_path)["groups"][str(path)]
    assert summary["bytes"] == len(path.read_bytes())
    assert summary["tokens"] == len(ids)
    assert summary["bits_per_byte"] == pytest.approx(9 * len(ids) / np.log(2) / summary["bytes"])

    first = run(passages.suite(model, [path], limit=2), model, tmp_path / "limited")["groups"][str(path)]
    assert first["tokens"] == 100
    assert first["bytes"] == len(vocabulary.decode(ids[:100]).encode())


def test_bits_per_byte_of_a_checkpoint_are_those_of_the_harness(checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval")
    from eval.harness.__main__ import evaluate

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "wikitext2/valid.txt"
    path.parent.mkdir()
    path.write_text(SHAKESPEARE.read_text()[:600])
    model = CheckpointModel(LoadedModel.of(Checkpoint.open(checkpoint)), batch_tokens=512)
    ours = run(passages.suite(model, [path]), model, tmp_path)["groups"][str(path)]["bits_per_byte"]
    theirs = evaluate(model, ["wikitext2"], data=tmp_path)["results"]["wikitext2"]["bits_per_byte,none"]
    # The harness gives each window all the context that fits, also the last; ours begin where the one before ends.
    assert ours == pytest.approx(theirs, rel=0.02)


def test_the_command_answers_writes_and_goes_on(checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    given = ["--checkpoint", str(checkpoint), "--data", str(DATA), "--text", str(SHAKESPEARE), "--out", str(out)]
    given += ["--limit", "2", "--shots", "1", "--answer_tokens", "4", "--batch_tokens", "512"]
    command.main(["--suite", "bits_per_byte,arc,gsm8k", *given])
    summary = json.loads((out / "summary.json").read_text())
    assert summary["step"] == 3
    assert {name: found["items"] for name, found in summary["suites"].items()} == {
        "bits_per_byte": 2,
        "arc": 2,
        "gsm8k": 2,
    }
    low, high = summary["suites"]["arc"]["acc_interval"]
    assert low <= summary["suites"]["arc"]["chance"] <= high
    capsys.readouterr()
    command.main(["--suite", "bits_per_byte,arc,gsm8k", *given])
    assert "gsm8k: 2 of 2 items are done" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="holds answers for other settings: limit; give another folder"):
        command.main(["--suite", "bits_per_byte,arc,gsm8k", *given, "--limit", "3"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--suite", "arc,mmlu"], "--suite names mmlu; choose of bits_per_byte, arc"),
        (["--suite", "arc"], "give either --checkpoint or --watch"),
        (["--suite", "arc", "--checkpoint", "CHECKPOINT"], "--data is not given"),
        (["--suite", "needle", "--checkpoint", "CHECKPOINT"], "--text is not given"),
        (["--suite", "needle", "--checkpoint", "CHECKPOINT", "--lengths", "8,4"], "--lengths is '8,4'"),
        (["--suite", "arc", "--watch", "nowhere"], "--watch nowhere is no folder"),
    ],
)
def test_what_the_command_cannot_do_it_says_in_one_line(checkpoint, tmp_path, given, message):
    given = [str(checkpoint) if word == "CHECKPOINT" else word for word in given]
    with pytest.raises(SystemExit, match=f"^error: {message}"):
        command.main([*given, "--out", str(tmp_path / "out")])
    assert not list(tmp_path.glob("out/*.jsonl"))


def save(workdir, phase, step, checkpoint):
    """A checkpoint as training leaves it: under another name until it is whole."""
    aside = workdir / phase / "checkpoints" / f"{step}.tmp"
    shutil.copytree(checkpoint, aside)
    for name, changes in (("meta", {"step": step, "phase": phase}), ("config", {"train": {"phases": ["pretrain"]}})):
        file = aside / "files" / f"{name}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    aside.rename(aside.with_name(str(step)))


def test_every_checkpoint_of_a_run_is_judged_once_and_the_watch_ends_with_it(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("eval.suites.watch.SECONDS", 0.02)
    workdir, out, judged, models = tmp_path / "run", tmp_path / "out", [], []
    save(workdir, "pretrain", 10, checkpoint)

    def judge(checkpoint, model, folder):
        judged.append(checkpoint.step)
        models.append(model)
        if checkpoint.step == 10:
            save(workdir, "pretrain", 20, checkpoint.path)  # training goes on meanwhile
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text("{}")

    def train():
        while judged != [10, 20]:
            time.sleep(0.01)
        save(workdir, "pretrain", 30, checkpoint)
        (workdir / "pretrain/done.json").write_text("{}")

    trainer = threading.Thread(target=train)
    trainer.start()
    watch(workdir, out, judge, {"context": None, "batch_tokens": 512})
    trainer.join()
    assert judged == [10, 20, 30]
    assert len(set(map(id, models))) == 1  # what was compiled is kept
    watch(workdir, out, judge, {"context": None, "batch_tokens": 512})
    assert judged == [10, 20, 30]


def test_the_watch_command_leaves_a_summary_of_each_checkpoint(checkpoint, tmp_path):
    for step in (10, 20):
        save(tmp_path / "run", "pretrain", step, checkpoint)
    (tmp_path / "run/pretrain/done.json").write_text("{}")
    out = tmp_path / "out"
    command.main(
        ["--suite", "arc", "--watch", str(tmp_path / "run"), "--data", str(DATA), "--limit", "1", "--out", str(out)]
    )
    summaries = [json.loads((out / f"pretrain/{step}/summary.json").read_text()) for step in (10, 20)]
    assert [summary["step"] for summary in summaries] == [10, 20]
    assert summaries[0]["suites"]["arc"]["acc"] == summaries[1]["suites"]["arc"]["acc"]  # the same weights
