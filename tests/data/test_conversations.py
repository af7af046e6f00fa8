"""Conversations and pairs from files, to the rows that training reads."""

import base64
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from configs.schema import parse
from data.config import PipelineConfig
from data.conversations import ConversationsConfig, PreferencesConfig
from data.elements import Boundary, Image
from data.layout import cost_of
from data.pipeline import one_pass
from data.vocabulary import Vocabulary
from tests.serving.interchange.folders import TEXT

GSM8K = "tests/assets/suites/gsm8k/train.jsonl"
PAIR = {"prompt": "2+2=", "chosen": "4", "rejected": "5"}


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.train([TEXT], 400)


def written(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return (str(path),)


def talk(question, answer):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def halves(document):
    """The text of each segment of a document, and of what is learnt of it."""
    texts = [[]]
    for element in document:
        if isinstance(element, Boundary):
            texts.append([])
        elif not isinstance(element, Image):
            texts[-1] += zip(element.ids.tolist(), element.weights.tolist(), strict=True)
    return texts


def spelled(part, vocabulary, *, learnt=False):
    return vocabulary.decode([token for token, weight in part if weight or not learnt])


def test_patterns_read_the_questions_and_answers_of_gsm8k(vocabulary):
    source = ConversationsConfig(paths=(GSM8K,), user="{question}", answer="{answer}").build(vocabulary, 4096)
    assert len(source) == 8
    line = json.loads(Path(GSM8K).read_text().splitlines()[0])
    (part,) = halves(source[0])
    assert spelled(part, vocabulary) == line["question"] + line["answer"]
    assert spelled(part, vocabulary, learnt=True) == line["answer"]


def test_a_json_list_with_numbers_is_read_as_svamp_writes_it(vocabulary, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"Body": "Two.", "Question": "How?", "Answer": 51.0}]))
    config = ConversationsConfig(paths=(str(tmp_path / "a.json"),), user="{Body} {Question}", answer="{Answer}")
    assert spelled(halves(config.build(vocabulary, 99)[0])[0], vocabulary) == "Two. How?51"


def test_every_document_costs_what_it_said_and_survives_pickling(vocabulary, tmp_path):
    source = ConversationsConfig(paths=written(tmp_path / "a.jsonl", [talk("a", "b" * n) for n in range(1, 9)])).build(
        vocabulary, 99
    )
    again = pickle.loads(pickle.dumps(source))
    costs = [[cost_of(s[i]).slots, 0, 0] for s in (source, again) for i in range(len(s))]
    assert costs == [*source.costs().tolist()] * 2


def test_pictures_come_from_files_beside_the_records_and_from_data_urls(vocabulary, tmp_path):
    PillowImage.new("RGB", (9, 5), (10, 200, 30)).save(tmp_path / "green.png")
    url = "data:image/png;base64," + base64.b64encode((tmp_path / "green.png").read_bytes()).decode()
    parts = [{"type": "image_url", "image_url": {"url": where}} for where in ("green.png", url)]
    look = {"role": "user", "content": [{"type": "text", "text": "Compare"}, *parts]}
    paths = written(tmp_path / "a.jsonl", [{"messages": [look, {"role": "assistant", "content": "Same"}]}])
    source = ConversationsConfig(paths=paths, num_slots=4).build(vocabulary, 99, image_size=(8, 8))
    images = [element for element in source[0] if isinstance(element, Image)]
    assert source.costs()[0, 1] == 2
    for image in images:
        assert image.pixels.shape == (8, 8, 3)
        assert (image.pixels == (10, 200, 30)).all()


def test_the_held_out_share_is_the_same_whatever_the_order_and_never_trained_on(vocabulary, tmp_path):
    records = [talk(f"question {i}", "yes") for i in range(200)]
    found = {}
    for name, order in (("a", records), ("b", records[::-1])):
        config = ConversationsConfig(paths=written(tmp_path / f"{name}.jsonl", order), holdout=0.2)
        parts = {split: config.build(vocabulary, 99, split=split) for split in ("train", "validation")}
        found[name] = {s: {spelled(halves(p[i])[0], vocabulary) for i in range(len(p))} for s, p in parts.items()}
    assert found["a"] == found["b"]
    assert not found["a"]["train"] & found["a"]["validation"]
    assert 20 <= len(found["a"]["validation"]) <= 60


@pytest.mark.parametrize(
    "record",
    [
        PAIR,
        {**PAIR, "prompt": [{"role": "user", "content": "2+2="}]},
        {"chosen": talk("2+2=", "4")["messages"], "rejected": talk("2+2=", "5")["messages"]},
    ],
)
def test_a_pair_is_two_segments_of_which_only_the_answers_are_learnt(vocabulary, tmp_path, record):
    source = PreferencesConfig(paths=written(tmp_path / "a.jsonl", [record])).build(vocabulary, 99)
    better, worse = halves(source[0])
    assert [spelled(part, vocabulary) for part in (better, worse)] == ["2+2=4", "2+2=5"]
    assert [spelled(part, vocabulary, learnt=True) for part in (better, worse)] == ["4", "5"]


def test_answers_given_before_are_not_compared(vocabulary, tmp_path):
    before = [*talk("1+1=", "2")["messages"], {"role": "user", "content": "2+2="}]
    source = PreferencesConfig(paths=written(tmp_path / "a.jsonl", [{**PAIR, "prompt": before}])).build(vocabulary, 99)
    assert [spelled(part, vocabulary, learnt=True) for part in halves(source[0])] == ["4", "5"]


def test_both_halves_stay_in_one_row_as_neighbouring_segments(vocabulary, tmp_path):
    records = [{**PAIR, "chosen": "4" * n, "rejected": "5" * (1 + n % 3)} for n in range(1, 20)]
    source = PreferencesConfig(paths=written(tmp_path / "a.jsonl", records)).build(vocabulary, 64)
    shape = PipelineConfig(batch_size=2, slots=64).row_shape(vocabulary)
    pairs = set()
    for batch in one_pass(source, shape, 2):
        for tokens, segments, positions in zip(batch.tokens, batch.segment_ids, batch.positions, strict=True):
            assert segments.max() % 2 == 0
            assert (positions[segments > 0] == 0).sum() == segments.max()
            for better in range(1, segments.max(), 2):
                texts = [vocabulary.decode(tokens[segments == better + i].tolist()) for i in (0, 1)]
                pairs.add(tuple(text.removeprefix("2+2=") for text in texts))
    assert pairs == {(record["chosen"], record["rejected"]) for record in records}


def test_flipped_labels_turn_their_share_of_the_training_pairs_around_and_no_others(vocabulary, tmp_path):
    records = [{**PAIR, "prompt": f"{i}+0="} for i in range(400)]
    paths = written(tmp_path / "a.jsonl", records)
    first = lambda source: [spelled(halves(source[i])[0], vocabulary, learnt=True) for i in range(len(source))]  # noqa: E731
    noisy = PreferencesConfig(paths=paths, flip=0.25, holdout=0.2)
    training, held_out = (first(noisy.build(vocabulary, 99, split=split)) for split in ("train", "validation"))
    assert 0.18 < training.count("5") / len(training) < 0.32
    assert set(held_out) == {"4"}
    assert first(noisy.build(vocabulary, 99)) == training


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "no messages"}, "messages must be a list of messages that is not empty"),
        (talk("a" * 500, "b"), "takes 50.* slots, a row holds 99"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, r"messages\[0\].role is 'robot'; allowed: system"),
        ({"messages": [{"role": "user", "content": 3}]}, r"messages\[0\].content must be a string or a list of parts"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, r"content\[0\] must be a text with `text`"),
        (
            talk([{"type": "image_url", "image_url": {"url": "none.png"}}], "b"),
            "no picture can be read from 'none.png'",
        ),
        ([1], "record 1: not an object"),
    ],
)
def test_a_record_that_cannot_be_used_is_named_and_may_be_left_out(vocabulary, tmp_path, record, message):
    paths = written(tmp_path / "a.jsonl", [talk("a", "b"), record])
    with pytest.raises(ValueError, match="1 records cannot be used, max_left_out is 0") as error:
        ConversationsConfig(paths=paths).build(vocabulary, 99)
    assert "a.jsonl, record 1" in str(error.value)
    with pytest.raises(ValueError, match=message):
        ConversationsConfig(paths=paths).build(vocabulary, 99)
    source = ConversationsConfig(paths=paths, max_left_out=1).build(vocabulary, 99)
    assert len(source) == len(source.left_out) == 1


def test_a_pattern_names_the_field_that_a_record_lacks(vocabulary):
    with pytest.raises(ValueError, match=r"no field 'query' for the pattern '\{query\}'; it has question, answer"):
        ConversationsConfig(paths=(GSM8K,), user="{query}", answer="{answer}").build(vocabulary, 4096)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        (ConversationsConfig, {"user": "{q}"}, "user is '{q}', answer ''; a pattern of both, or of none"),
        (ConversationsConfig, {"weight": 0.0}, "weight is 0.0; it must be positive"),
        (ConversationsConfig, {"holdout": 1.0}, "holdout is 1.0; it must be a share"),
        (ConversationsConfig, {"paths": ()}, "paths is empty; name at least one file"),
        (PreferencesConfig, {"flip": 0.5}, r"flip is 0.5; it must be in \[0, 0.5\)"),
    ],
)
def test_settings_out_of_range_are_refused(section, changes, message):
    with pytest.raises(ValueError, match=message):
        parse(section, {"paths": ("a.jsonl",), **changes}, "config.sources.talk")


def test_costs_are_those_of_all_slots(vocabulary, tmp_path):
    source = PreferencesConfig(paths=written(tmp_path / "a.jsonl", [PAIR])).build(vocabulary, 99)
    np.testing.assert_array_equal(source.costs(), [[sum(len(part) for part in halves(source[0])), 0, 0]])
