"""Our side of the decoding benchmark on a small folder of HF transformers, and what is said of a record."""

import io
import json
import pathlib

import pytest

from benchmarks.decode import ours
from benchmarks.decode.__main__ import line

FOLDER = pathlib.Path(__file__).parents[1] / "assets/transformers/gemma3_text"


@pytest.mark.usefixtures("quick_compilation")
def test_every_line_is_answered_with_the_same_tokens_and_their_seconds(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n\n"))
    ours.main(str(FOLDER), 2, 5, 4)
    ready, first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert set(ready) == {"jax"}
    assert first["ids"] == second["ids"]
    assert [len(row) for row in first["ids"]] == [4, 4]
    assert first["seconds"] > 0


@pytest.mark.parametrize(("ratio", "verdict"), [(2.0, "met"), (1.9, "missed")])
def test_the_bar_is_twice_the_faster_of_theirs(ratio, verdict):
    record = {
        "tokens_per_second": {"ours": 200.0, "theirs, 1 threads": 100.0, "theirs, 2 threads": 50.0},
        "compared_with": "theirs, 1 threads",
        "times_as_fast": ratio,
        "times_as_fast_at_best": 2.1,
        "equal_tokens": 1.0,
    }
    assert f"ours 200 tokens/s, HF 100 (1 threads): {ratio:.2f}x (bar 2x: {verdict};" in line(1, record)
