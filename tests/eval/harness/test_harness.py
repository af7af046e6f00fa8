"""The adapter under lm-evaluation-harness: an oracle, a guesser, and the harness's own HF backend item by item."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.vocabulary import Vocabulary
from eval.harness.__main__ import evaluate, main
from eval.language import CheckpointModel
from eval.wilson import wilson_interval
from serving.import_hf import import_hf
from serving.model import LoadedModel
from tests.eval.language_doubles import Guesser, Oracle
from tests.serving.interchange.folders import model_folder

ASSETS, SUITES = Path("tests/assets/harness"), Path("tests/assets/suites")
MODEL, TASKS = "qwen3_moe", ("test_choice", "test_answer", "test_rolling")
CONTEXT = 60  # as make_reference.py
REFERENCE = os.environ.get("PARITY_PYTHON")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def requests(items):
    """The answers of all items in one list."""
    return [request[0] for item in items for request in item]


pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module", autouse=True)
def harness(tmp_path_factory):
    pytest.importorskip("lm_eval")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        yield


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.train([Path("tests/assets/text/shakespeare.txt").read_text()], 512)


def test_an_oracle_is_always_right_and_a_guesser_at_chance(vocabulary):
    arc, gsm8k = (lines(SUITES / name) for name in ("arc/arc_easy.jsonl", "gsm8k/test_last659.jsonl"))
    gold = {item["query"]: item["choices"][item["gold"]] for item in arc}
    answers = {item["question"]: item["answer"] for item in gsm8k}
    oracle = Oracle(
        vocabulary,
        likes=lambda context, choice: gold[context.removesuffix("\nAnswer:")] == choice[1:],
        writes=lambda prompt: answers[prompt.split("Question: ")[-1].removesuffix("\nAnswer:")] + "\n\nQuestion: x",
    )
    found = evaluate(oracle, ["arc_easy", "gsm8k"], data=SUITES)["results"]
    assert (found["arc_easy"]["acc,none"], found["gsm8k"]["exact_match,strict-match"]) == (1, 1)
    assert oracle.asked[-1].count("Question: ") == 6  # five examples before each

    found = evaluate(Guesser(vocabulary), ["arc_easy", "gsm8k"], data=SUITES)["results"]
    low, high = wilson_interval(round(found["arc_easy"]["acc,none"] * len(arc)), len(arc))
    assert low < sum(1 / len(item["choices"]) for item in arc) / len(arc) < high
    assert found["gsm8k"]["exact_match,strict-match"] == 0


def test_every_answer_equals_that_of_the_harness_own_backend(tmp_path):
    folder = model_folder(tmp_path / "hf", MODEL, tokenizer=(ASSETS / "tokenizer.model").read_bytes())
    loaded = LoadedModel.of(import_hf(folder, tmp_path / "imported"))
    model = CheckpointModel(loaded, context=CONTEXT, batch_tokens=512)
    found = evaluate(model, TASKS, include_path=ASSETS)["samples"]
    expected = json.loads((ASSETS / "expected.json").read_text())
    ours = {task: [i["resps"] for i in sorted(found[task], key=lambda i: i["doc_id"])] for task in TASKS}

    assert ours["test_answer"] == expected["test_answer"]
    assert any(item[0][0] and len(item[0][0]) < 20 for item in ours["test_answer"])  # some end at a stop string
    close = lambda value: pytest.approx(value, abs=1e-3, rel=1e-5)  # noqa: E731
    pairs = list(zip(requests(ours["test_choice"]), requests(expected["test_choice"]), strict=True))
    assert {greedy for (_, greedy), _ in pairs} == {True, False}
    assert all(greedy == theirs and logprob == close(value) for (logprob, greedy), (value, theirs) in pairs)
    assert requests(ours["test_rolling"]) == close(requests(expected["test_rolling"]))


@pytest.mark.slow
@pytest.mark.skipif(not REFERENCE, reason="PARITY_PYTHON names no interpreter with torch and lm_eval")
def test_the_kept_answers_are_those_of_the_installed_backend(tmp_path):
    script = Path("tests/eval/harness/make_reference.py")
    model = Path("tests/assets/transformers") / MODEL
    out = tmp_path / "expected.json"
    subprocess.run([str(REFERENCE), script, model, ASSETS, out], check=True, capture_output=True)
    kept, now = (json.loads(path.read_text()) for path in (ASSETS / "expected.json", out))
    assert now["test_answer"] == kept["test_answer"]
    assert requests(now["test_rolling"]) == pytest.approx(requests(kept["test_rolling"]), rel=1e-5)
    for a, b in zip(requests(now["test_choice"]), requests(kept["test_choice"]), strict=True):
        assert a == [pytest.approx(b[0], rel=1e-5), b[1]]


def test_generation_that_is_not_greedy_is_refused():
    from eval.harness.adapter import _generation

    assert _generation({"until": "\n", "do_sample": False, "temperature": 0.0}) == (["\n"], 256)
    with pytest.raises(ValueError, match="decoding is greedy here"):
        _generation({"do_sample": True, "temperature": 0.7})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "neither --data nor --include_path"),
        ({"include_path": "nowhere"}, "--include_path nowhere is no folder"),
        ({"include_path": ASSETS}, "--tasks names arc_hard; known: test_answer"),
    ],
)
def test_what_cannot_be_run_is_named(vocabulary, settings, message):
    with pytest.raises(ValueError, match=message):
        evaluate(Oracle(vocabulary), ["arc_hard"], **settings)


def test_a_missing_file_is_named(vocabulary, tmp_path):
    with pytest.raises(ValueError, match=r"file is missing: .*arc_easy\.jsonl.*; check --data"):
        evaluate(Oracle(vocabulary), ["arc_easy"], data=tmp_path)


def test_without_the_harness_the_error_names_the_extra(vocabulary, monkeypatch):
    for module in ("lm_eval", "lm_eval.evaluator"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match="install the extra `eval`"):
        evaluate(Oracle(vocabulary), ["arc_easy"], data=SUITES)


def test_the_command_says_what_is_wrong_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"error: .* holds no finished checkpoint"):
        main(["--checkpoint", str(tmp_path), "--tasks", "x", "--out", str(tmp_path / "o.json")])
