"""Every scorer: the gold answer is right, an empty and a random one are not, and graded solutions keep their grades."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.vocabulary import Vocabulary
from eval.language import Score
from eval.suites import arc, bbh, gsm8k, ifeval
from eval.suites.files import lines
from eval.suites.items import Choice, Open
from eval.wilson import wilson_interval
from tests.eval.language_doubles import Guesser, Oracle

DATA = Path("tests/assets/suites")


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.train([Path("tests/assets/text/shakespeare.txt").read_text()], 512)


def shares(records):
    return {name: np.mean([r["metrics"][name] for r in records]) for name in records[0]["metrics"]}


def test_choices_an_oracle_knows_are_right_and_a_guesser_is_at_chance(vocabulary):
    items = arc.items(DATA)
    gold = {item.context: f" {item.choices[item.gold]}" for item in items}
    oracle = Oracle(vocabulary, likes=lambda context, choice: gold[context] == choice)
    found = shares(Choice.answer(oracle, items))
    assert found["acc"] == 1
    records = Choice.answer(Guesser(vocabulary), items * 5)
    low, high = wilson_interval(sum(r["metrics"]["acc"] for r in records), len(records))
    assert low < np.mean([r["chance"] for r in records]) < high


def test_the_norm_of_a_choice_is_its_characters(vocabulary):
    class Fixed(Oracle):
        def score(self, requests):
            return [Score(np.array([logprob], np.float32), False) for logprob in (-3, -10)]

    item = Choice("a", "g", "Question?", ("no", "a much longer choice"), 1)  # -1.5 and -0.5 a character
    (record,) = Choice.answer(Fixed(vocabulary), [item])
    assert record["metrics"] == {"acc": False, "acc_norm": True, "shortest": False}


def test_gsm8k_gold_answers_are_right_and_grades_of_other_models_solutions_are_found_again():
    items, gold = gsm8k.items(DATA), lines(DATA / "gsm8k/test_last659.jsonl")
    for item, line in zip(items, gold, strict=True):
        assert item.judge(line["answer"]) == {"strict": True, "flexible": True}
        assert item.judge("") == {"strict": False, "flexible": False}
    graded = lines(DATA / "gsm8k/model_solutions_last659.jsonl")
    grades = set()
    for line in graded:
        judge = gsm8k.judge(line["ground_truth"].replace("A: ", "#### "))
        for solution in (value for value in line.values() if isinstance(value, dict)):
            assert judge(solution["solution"])["flexible"] == solution["is_correct"]
            grades.add(solution["is_correct"])
    assert grades == {True, False}


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("so 3 + 4 = 7\n#### 1,200", True, True),
        ("#### $1200.00", True, True),
        ("#### 12 and then 1200", False, True),
        ("The answer is 1,200.", False, True),
        ("1200 apples, of which 3 are green", False, False),
        ("#### -1200", False, False),
        ("#### none", False, False),
    ],
)
def test_gsm8k_reads_numbers_as_people_write_them(text, strict, flexible):
    assert gsm8k.judge("#### 1200")(text) == {"strict": strict, "flexible": flexible}


def test_gsm8k_examples_are_left_out_from_the_front_until_the_prompt_fits(vocabulary):
    (item, *_) = gsm8k.items(DATA, shots=8, num_tokens=100)
    whole = len(item.prompt(Oracle(vocabulary))[0])
    assert item.prompt(Oracle(vocabulary))[1] == 8
    ids, shots = item.prompt(Oracle(vocabulary, context=whole + 99))
    assert shots == 7
    assert "".join(item.shots[1:]) + item.question == vocabulary.decode(ids)
    ids, shots = item.prompt(Oracle(vocabulary, context=10))
    assert (vocabulary.decode(ids), shots) == (item.question, 0)
    assert "<<" not in "".join(item.shots)  # the calculator's marks


def test_bbh_gold_answers_are_right_in_every_task(vocabulary):
    items = bbh.items(DATA)
    answers = {}
    for file in sorted((DATA / "bbh/bbh").glob("*.json")):
        answers |= {f"{file.stem}:{i}": e["target"] for i, e in enumerate(json.loads(file.read_text())["examples"])}
    for item in items:
        said = f"First we think. So the answer is {answers[item.id]}."
        assert item.judge(said) == {"exact_match": True}, item.id
        assert item.judge("") == item.judge(answers[item.id]) == {"exact_match": False}  # it has to be said
        other = next(a for name, a in answers.items() if name.split(":")[0] == item.group and a != answers[item.id])
        assert item.judge(f"So the answer is {other}.") == {"exact_match": False}
    records = Open.answer(Guesser(vocabulary), items)
    assert shares(records) == {"exact_match": 0}


def test_bbh_worked_examples_end_in_answers_of_their_task():
    found = {}
    for file in sorted((DATA / "bbh/bbh").glob("*.json")):
        header, shots = bbh.prompt_of(DATA / "bbh/cot-prompts" / f"{file.stem}.txt")
        extract = bbh.extractor([e["target"] for e in json.loads(file.read_text())["examples"]])
        assert "canary" not in header
        found[file.stem] = [extract(shot) for shot in shots]
    assert found == {
        "boolean_expressions": ["false", "false", "true"],
        "dyck_languages": ["] } ]", "] ) )", "} ] >"],
        "movie_recommendation": ["(C)", "(C)", "(D)"],
        "multistep_arithmetic_two": ["123", "3929", "-219"],
        "word_sorting": [
            "costume counterpart oven",
            "credulity hypochlorite phone ponderosa",
            "arson aspect census mugho newt parthia seismography",
        ],
    }


@pytest.mark.parametrize("said", ["(B)", "B.", ": (B) because", "(B), not (A)"])
def test_bbh_letters_are_read_with_and_without_brackets(said):
    assert bbh.extractor(["(A)", "(B)"])(f"The answer is {said}") == "(B)"


def test_bbh_the_prompt_has_its_header_and_examples_before_the_question(vocabulary):
    item = next(item for item in bbh.items(DATA) if item.group == "dyck_languages")
    oracle = Oracle(vocabulary)
    Open.answer(oracle, [item])
    (prompt,) = oracle.asked
    assert prompt.startswith("Correctly close a Dyck-n word.\n\nQ: Complete")
    assert prompt.count("\n\nQ: ") == 4
    assert prompt.endswith("\nA: Let's think step by step.")


def test_ifeval_counts_prompts_and_instructions_strictly_and_loosely(vocabulary):
    items = ifeval.items(DATA)
    assert len(items) == 12
    empty = Open.answer(Oracle(vocabulary), items)
    assert all(not r["metrics"]["prompt_loose"] and not any(r["metrics"]["instruction_loose"]) for r in empty)

    judge = ifeval._judge([("punctuation:no_comma", {}), ("startend:quotation", {})])
    found = judge('Sure, here it is:\n"*All* of it"')
    assert found == {
        "prompt_strict": False,
        "prompt_loose": True,  # without its first line
        "instruction_strict": [False, False],
        "instruction_loose": [True, True],
    }


def test_ifeval_variants_drop_lines_at_the_ends_and_marks():
    assert set(ifeval.variants("a\n*b*\nc")) == {
        *("a\n*b*\nc", "*b*\nc", "a\n*b*", "*b*"),
        *("a\nb\nc", "b\nc", "a\nb", "b"),
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", r"t\.jsonl:1 is not JSON"), ('{"question": 1}', r"t\.jsonl:1 has no answer; every line needs")],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, line, message):
    (tmp_path / "t.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        lines(tmp_path / "t.jsonl", "question", "answer")


def test_a_missing_file_is_said_with_what_was_expected(tmp_path):
    with pytest.raises(ValueError, match=r"has no arc/\*\.jsonl; give the folder that holds arc/"):
        arc.items(tmp_path)
