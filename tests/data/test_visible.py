from __future__ import annotations

import pytest

from data.config import TextConfig
from data.problems import ArithmeticConfig
from data.robots import EpisodesConfig
from data.visible import files_in_words


def test_files_of_text_are_told_by_number_size_and_a_hash(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("12345")
    source = TextConfig(paths=(str(tmp_path / "*.txt"),))
    both = files_in_words(source)
    assert both.startswith("2 files, 10 bytes (")
    (tmp_path / "b.txt").rename(tmp_path / "c.txt")
    assert files_in_words(source) != both


def test_the_same_files_elsewhere_are_the_same(tmp_path):
    found = set()
    for host in ("one", "other"):
        (tmp_path / host).mkdir()
        (tmp_path / host / "a.txt").write_text("12345")
        found.add(files_in_words(TextConfig(paths=(str(tmp_path / host / "a.txt"),))))
    assert len(found) == 1


def test_a_dataset_is_told_by_all_files_below_its_root_but_hidden_ones(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text("{}")
    (tmp_path / ".lock").write_text("")
    source = EpisodesConfig(root=str(tmp_path), embodiment="arm", num_slots=1, chunk=1)
    assert files_in_words(source).startswith("1 files, 2 bytes (")


def test_nothing_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ValueError, match="matches no file"):
        files_in_words(TextConfig(paths=(str(tmp_path / "c.txt"),)))
    with pytest.raises(ValueError, match="holds no file"):
        files_in_words(EpisodesConfig(root=str(tmp_path), embodiment="arm", num_slots=1, chunk=1))


def test_problems_that_are_made_up_have_no_files():
    assert files_in_words(ArithmeticConfig()) == "made up"
