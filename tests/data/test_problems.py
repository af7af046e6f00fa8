import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from data.layout import cost_of
from data.problems import ArithmeticConfig, ProblemSource, QuestionsConfig
from data.vocabulary import Vocabulary

GSM8K = "tests/assets/suites/gsm8k/train.jsonl"
SVAMP = [{"Body": "He had 26 sweets.", "Question": "How many are left?", "Equation": "( 26.0 - 14.0 )", "Answer": 12.0}]


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.train([Path("tests/assets/text/shakespeare.txt").read_text()[:20000]], 400)


def built(config, vocabulary, split="train", seed=0) -> ProblemSource:
    return config.build(vocabulary, seed, split)


def test_sums_are_right_and_a_function_of_the_seed(vocabulary):
    config = ArithmeticConfig(num_problems=50, terms=3, largest=30)
    source = built(config, vocabulary)
    for problem in source.problems:
        terms = problem.prompt.removesuffix("=").replace("-", "+-").split("+")
        assert len(terms) == 3
        assert sum(map(int, terms)) == problem.answer == int(problem.solution)
    assert built(config, vocabulary).problems == source.problems
    assert built(config, vocabulary, seed=1).problems != source.problems


def test_equal_problems_fall_on_one_side_of_the_split(vocabulary):
    config = ArithmeticConfig(num_problems=600, largest=9, holdout=0.2)  # 200 different ones, so most occur often
    train, held_out = ({p.prompt for p in built(config, vocabulary, part).problems} for part in ("train", "validation"))
    assert not train & held_out
    assert 0.1 < len(held_out) / len(train | held_out) < 0.3


def test_the_solution_alone_is_a_target_and_the_prompt_ends_before_it(vocabulary):
    source = built(ArithmeticConfig(num_problems=5), vocabulary)
    for i, problem in enumerate(source.problems):
        document, prompt = source[i], source.prompt(i)
        ids, weights = (np.concatenate([getattr(part, name) for part in document]) for name in ("ids", "weights"))
        assert vocabulary.decode(ids.tolist()) == problem.prompt + problem.solution
        assert ids[0] == vocabulary.bos_id
        assert ids[-1] == vocabulary.eos_id
        assert vocabulary.decode(ids[weights > 0].tolist()) == problem.solution
        np.testing.assert_array_equal(np.concatenate([part.ids for part in prompt]), ids[weights == 0])
        assert source.costs()[i].tolist() == [cost_of(document).slots, 0, 0]


def test_gsm8k_gives_questions_solutions_without_calculator_and_answers(vocabulary):
    source = built(QuestionsConfig((GSM8K,)), vocabulary)
    lines = [json.loads(line) for line in Path(GSM8K).read_text().splitlines()]
    assert len(source) == len(lines)
    for problem, line in zip(source.problems, lines, strict=True):
        assert problem.prompt == f"Question: {line['question']}\nAnswer:"
        assert "<<" not in problem.solution
        assert problem.solution.endswith(f"#### {problem.answer}")
        assert line["answer"].endswith(f"#### {problem.answer}")


def test_svamp_gives_body_and_question_equation_and_answer(vocabulary, tmp_path):
    (tmp_path / "svamp.json").write_text(json.dumps(SVAMP))
    config = QuestionsConfig((str(tmp_path / "svamp.json"),), layout="svamp", template="{question}")
    (problem,) = built(config, vocabulary).problems
    assert problem.prompt == "He had 26 sweets. How many are left?"
    assert problem.solution == " ( 26.0 - 14.0 )\n#### 12"
    assert problem.answer == Decimal(12)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"question": "q", "answer": "no mark"}', r"a\.jsonl, line 1: no problem in the layout of 'gsm8k'"),
        ("a.jsonl", '{"question": "q"}', r"line 1: no problem .*answer.*set layout"),
        ("a.jsonl", '{"question": ', r"a\.jsonl cannot be read as JSON"),
        ("a.json", json.dumps(SVAMP), r"a\.json, record 0: no problem in the layout of 'gsm8k'"),
    ],
)
def test_a_record_that_is_no_problem_is_refused_by_file_and_place(vocabulary, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        built(QuestionsConfig((str(tmp_path / name),)), vocabulary)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ArithmeticConfig(terms=1), "terms is 1"),
        (lambda: ArithmeticConfig(holdout=1.0), "holdout is 1.0"),
        (lambda: QuestionsConfig(()), "paths is empty"),
        (lambda: QuestionsConfig(("x",), template="Q"), "must hold {question} once"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_split_without_a_problem_is_refused(vocabulary):
    with pytest.raises(ValueError, match="no problem is left in this split"):
        built(ArithmeticConfig(num_problems=3), vocabulary, "validation")
