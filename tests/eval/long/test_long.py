"""Long prompts: their length, that they hold what is asked for, and that only who finds it is right."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.vocabulary import Vocabulary
from eval.language import encode_prompt
from eval.long import needle, reading, ruler
from eval.long.haystack import Book, TooLong, fill, spread
from eval.suites.items import Open
from tests.eval.language_doubles import Guesser, Oracle

TEXTS = (Path("tests/assets/text/shakespeare.txt"),)
LENGTHS = (600, 1500)


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.train([TEXTS[0].read_text()], 1024)


@pytest.fixture(scope="module")
def needles(vocabulary):
    return needle.suite(vocabulary, TEXTS, LENGTHS, samples=1, seed=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Seven paragraphs of the form of SQuAD, one of them without a question that it answers."""
    folder = tmp_path_factory.mktemp("data")
    paragraphs = []
    for i, city in enumerate(needle.CITIES[:7]):
        asked = {
            "question": f"Who built the bridge of {city}?",
            "answers": [{"text": f"Mason {i}", "answer_start": 0}] * 2,
        }
        context = f"The bridge of {city} is old. It was built by Mason {i} of {city}."
        paragraphs.append({"context": context, "qas": [asked if i else asked | {"answers": [], "is_impossible": True}]})
    (folder / "squad").mkdir()
    articles = [{"paragraphs": paragraphs[:3]}, {"paragraphs": paragraphs[3:]}]
    (folder / "squad/dev.json").write_text(json.dumps({"version": "1.1", "data": articles}))
    return folder


@pytest.fixture(scope="module")
def tasks(vocabulary, data):
    return ruler.suite(vocabulary, TEXTS, LENGTHS, samples=1, seed=0, data=data)


def length_of(vocabulary, item):
    return len(encode_prompt(vocabulary, item.question)) + item.num_tokens


def test_prompts_and_answers_fill_their_length_and_never_exceed_it(vocabulary, needles, tasks):
    for item in (*needles.items, *tasks.items):
        length = int(re.match(r"\d+", item.id).group())
        unit = 150 if "uuid" in item.question else 60  # what is added at once
        assert length - length_of(vocabulary, item) in range(unit), item.id


def test_the_same_seed_gives_the_same_prompts_and_another_gives_others(vocabulary, needles, tasks):
    again = needle.suite(vocabulary, TEXTS, LENGTHS, samples=1, seed=0)
    assert [item.question for item in again.items] == [item.question for item in needles.items]
    other = ruler.suite(vocabulary, TEXTS, LENGTHS[:1], samples=1, seed=1)
    for a, b in zip(other.items, tasks.items, strict=False):
        assert a.id == b.id
        assert a.question != b.question


def test_needles_stand_at_their_depth(needles):
    for item in needles.items:
        assert item.question.count(item.notes["number"]) == 1
        text = item.question.split("\n\nWhat is")[0]
        where = text.index("The special magic") / (len(text) - 45)  # of the text without the needle
        assert where == pytest.approx(item.notes["depth"], abs=0.15), item.id


def find_number(prompt):
    """What someone answers who reads the prompt."""
    city = re.search(r"The special magic ([\w ]+) number is:$", prompt).group(1)
    return " " + re.search(rf"The special magic {city} number is: (\d+)\.", prompt).group(1)


def test_a_reader_finds_every_needle_and_a_guesser_none(vocabulary, needles, tmp_path):
    found = needles.finish(Open.answer(Oracle(vocabulary, writes=find_number), needles.items), tmp_path)
    assert found["recall"] == 1
    assert np.array(found["recall_by_depth_and_length"]).shape == (11, 2)
    assert needles.finish(Open.answer(Guesser(vocabulary), needles.items), tmp_path)["recall"] == 0
    picture = np.asarray(Image.open(tmp_path / "needle.png").convert("L"))
    assert min(picture.shape) > 500
    assert picture.std() > 10


def read_ruler(prompt):
    """Answers by counting and following what the prompt says."""
    if "given documents" in prompt:
        city = re.search(r"bridge of ([\w ]+)\? Answer:$", prompt).group(1)
        return " " + re.search(rf"built by (Mason \d) of {city}\.", prompt).group(1).lower()
    if "VAR " in prompt:
        asked = prompt.split("Memorize and track")[-1]
        names = [re.search(r"assigned the value (\d+) in", asked).group(1)]
        for name, source in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)", asked):
            names += [name] if source in names else []
        return " ".join(names[1:])
    if "numbered list" in prompt:
        words = re.findall(r"\d+\. ([\w-]+)", prompt.split("Below is")[-1])
        return " ".join(sorted(set(words), key=words.count)[-10:])
    if "coded" in prompt:
        words = prompt.split("coded words. ")[1].split("\nQuestion")[0].split()
        return " ".join(sorted(set(words) - {"..."}, key=words.count)[-3:])
    keys = re.search(r"for ([^?]*?) mentioned in the provided text\?", prompt.split("\nWhat ")[-1]).group(1)
    keys = re.split(r", and |, | and ", keys)
    return ", ".join(value for key in keys for value in re.findall(rf"for {key} is: ([\w-]+)\.", prompt))


def test_a_reader_solves_every_task_and_a_guesser_none(vocabulary, tasks, tmp_path):
    records = Open.answer(Oracle(vocabulary, writes=read_ruler), tasks.items)
    assert {r["id"]: r["metrics"]["score"] for r in records} == {item.id: 1 for item in tasks.items}
    found = tasks.finish(records, tmp_path)
    assert found["effective_length"] == 1500
    assert found["mean_by_length"] == {"600": 1, "1500": 1}
    assert [text.split(":")[0] for text in found["left_out"]] == ["vt at 600", "cwe at 600"]
    assert (tmp_path / "ruler.png").exists()
    guessed = tasks.finish(Open.answer(Guesser(vocabulary), tasks.items), tmp_path)
    assert (guessed["score"], guessed["effective_length"]) == (0, 0)


def test_the_settings_are_the_published_ones(vocabulary):
    book, rng = Book(TEXTS), lambda: np.random.default_rng(0)
    text, gold = ruler.common_words(book, rng(), 50, length=4096)
    words = re.findall(r"\d+\. ([\w-]+)", text.split("Below is")[-1])
    assert {words.count(word) for word in gold} == {30}
    assert {words.count(word) for word in set(words) - set(gold)} == {3}
    assert (len(gold), len(set(words))) == (10, 60)

    text, gold = ruler.frequent_words(rng(), 1000, length=4096)
    words = text.split("coded words. ")[1].split("\nQuestion")[0].split()
    counts = sorted((words.count(word) for word in set(words)), reverse=True)
    zeta = np.pi**2 / 6
    assert counts[:4] == [int(1000 / zeta / rank**2) for rank in (1, 2, 3, 4)]  # alpha = 2.0
    assert [words.count(word) for word in gold] == counts[1:4]

    text, gold = ruler.variable_tracking(rng(), 3)
    assert len(gold) == 5  # one chain of four hops
    assert len(ruler.niah(ruler.NEEDLES["niah_multivalue"], book, rng(), 5)[1]) == 4
    assert len(ruler.niah(ruler.NEEDLES["niah_multiquery"], book, rng(), 5)[1]) == 4
    text, _ = ruler.niah(ruler.NEEDLES["niah_multikey_1"], book, rng(), 5)
    assert text.count("One of the special magic numbers for") == 4
    text, (value,) = ruler.niah(ruler.NEEDLES["niah_multikey_3"], book, rng(), 5)
    assert text.count("One of the special magic uuids for") == 6
    assert len(value) == 36


def test_a_question_stands_after_its_paragraph_among_others_at_any_depth(data):
    paragraphs = reading.Paragraphs.find(data)
    assert (len(paragraphs.texts), len(paragraphs.questions)) == (7, 6)
    depths = []
    for seed in range(40):
        text, answers = paragraphs.prompt(np.random.default_rng(seed), 9)
        documents = re.findall(r"Document \d+:\n(.*)", text)
        assert len(documents) == 10
        assert len(set(documents)) == 7  # there are no more, so some come again
        right = [i for i, document in enumerate(documents) if answers[0] in document]
        assert (len(right), len(answers)) == (1, 1)
        depths += right
    assert set(depths) == set(range(10))


@pytest.mark.parametrize("content", ["[]", '{"data": [{"paragraphs": [{"qas": []}]}]}', "{"])
def test_a_file_of_another_form_is_named(tmp_path, content):
    (tmp_path / "squad").mkdir()
    (tmp_path / "squad/dev.json").write_text(content)
    with pytest.raises(ValueError, match=r"squad/dev\.json is not of SQuAD's form"):
        reading.Paragraphs.find(tmp_path)


def test_without_paragraphs_the_task_is_left_out_by_name(vocabulary, tasks, tmp_path):
    found = ruler.suite(vocabulary, TEXTS, LENGTHS[1:], samples=1, seed=0, data=tmp_path)
    assert {item.group for item in tasks.items} - {item.group for item in found.items} >= {"1500/qa_1"}
    records = Open.answer(Guesser(vocabulary), found.items)
    assert found.finish(records, tmp_path)["left_out"] == [
        "qa_1: --data has neither squad/*.json nor xquad/xquad.en.json"
    ]


def test_scores_are_shares_of_what_was_asked():
    assert ruler.string_match_all("a Bc", ["BC", "d"]) == 0.5
    assert ruler.string_match_part("a Bc", ["BC", "d"])
    assert not ruler.string_match_part("", ["BC", "d"])


def test_fill_takes_the_most_that_fits(vocabulary):
    build = lambda n: ("word " * n, n)  # noqa: E731
    text, n = fill(vocabulary, build, 40)
    assert len(encode_prompt(vocabulary, text)) <= 40 < len(encode_prompt(vocabulary, build(n + 1)[0]))
    with pytest.raises(TooLong, match="the shortest prompt has 1 tokens and may have 0"):
        fill(vocabulary, build, 0)


def test_spread_puts_pieces_where_their_depth_says():
    assert spread("abcd", ["X", "Y", "Z"], [0, 1, 0.5]) == ["X", "a", "b", "Z", "c", "d", "Y"]
    assert spread("", ["X", "Y"], [1, 0.2]) == ["X", "Y"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [((), "--text is not given"), ((Path("no.txt"),), "--text names no files: no.txt"), (None, "needed: 20 and 200")],
)
def test_a_book_has_to_be_one(tmp_path, texts, message):
    (tmp_path / "short.txt").write_text("Not much.")
    with pytest.raises(ValueError, match=message):
        Book((tmp_path / "short.txt",) if texts is None else texts)


def test_the_licence_around_a_book_is_not_part_of_it(tmp_path):
    path = tmp_path / "book.txt"
    body = TEXTS[0].read_text()
    path.write_text(f"Licence here.\n*** START OF THE BOOK ***\n{body}\n*** END OF THE BOOK ***\nMore licence.")
    assert Book((path,)).sentences == Book(TEXTS).sentences
