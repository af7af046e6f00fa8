"""Instructions: varied, unambiguous, and held out by sentence, not by word."""

import string

import numpy as np
import pytest

from eval.envs.tabletop import TASKS, WORDINGS, Tabletop


def _words(wording):
    sentences = [s for task in WORDINGS[wording].values() for s in task]
    pieces = [piece for s in sentences for piece in s.split()]
    return {piece for piece in pieces if not piece.startswith("{")}


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_many_training_sentences_and_other_held_out_ones(task):
    train, test = WORDINGS["train"][task], WORDINGS["test"][task]
    assert len(train) == len(set(train)) >= 7
    assert len(test) == len(set(test)) >= 3
    assert not set(train) & set(test)


def test_held_out_sentences_use_words_of_the_training_sentences_only():
    assert _words("test") <= _words("train")


@pytest.mark.parametrize("task", [t for t in TASKS if t != "sort"])
def test_every_sentence_tells_the_target_by_its_colour(task):
    for sentence in WORDINGS["train"][task] + WORDINGS["test"][task]:
        fields = {field for _, field, _, _ in string.Formatter().parse(sentence) if field}
        assert fields & {"object", "colour"}
        if task == "push":
            assert fields & {"zone", "zone_colour"}
        if task == "stack":
            assert fields & {"support", "support_colour"}


@pytest.mark.parametrize("wording", ["train", "test"])
def test_instructions_name_the_goal_and_vary(wording):
    env = Tabletop("arm5", "push", wording)
    sentences = set()
    for seed in range(40):
        env.reset(seed)
        assert env.layout.objects[env.goal.target].colour in env.instruction
        assert env.layout.zones[env.goal.zone].colour in env.instruction
        assert "{" not in env.instruction
        sentences.add(env.instruction)
    assert len(sentences) > 20


def test_sentences_are_drawn_evenly():
    env, template_of = Tabletop("arm5", "sort"), {s: i for i, s in enumerate(WORDINGS["train"]["sort"])}
    counts = np.zeros(len(template_of))
    for seed in range(210):
        env.scene(seed)
        env.reset(seed)
        counts[template_of[env.instruction]] += 1
    assert counts.min() > 10
