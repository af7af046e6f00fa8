from __future__ import annotations

import dataclasses
import os
import signal

import pytest

from train.ranks import Board, End, Note, exit_in_words, suspects


def note(rank, **changes):
    fields = {"host": "node", "pid": 100 + rank, "attempt": 7, "doing": "the data", "step": 17, "stage": 40}
    return Note(**{"rank": rank, **fields, "seconds": 3.0, "limit": 45.0, "tick": 1, **changes})


def test_notes_are_found_by_rank_and_by_attempt(tmp_path):
    board = Board(tmp_path)
    assert board.notes() == {}
    for rank, attempt in ((10, 7), (2, 7), (3, 6)):
        board.write(note(rank, attempt=attempt))
    assert list(board.notes()) == [2, 3, 10]
    assert board.notes(7) == {2: note(2), 10: note(10)}
    board.clear()
    assert board.notes() == {}


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"rank": 0}'])
def test_a_note_that_cannot_be_read_counts_as_none(tmp_path, content):
    board = Board(tmp_path)
    board.write(note(0))
    (board.folder / "1.json").write_text(content)
    (board.folder / "end.json").write_text(content)
    assert list(board.notes()) == [0]
    assert board.ended(7) is None


def test_the_first_reason_to_end_is_heard_and_only_by_its_own_attempt(tmp_path):
    board, first = Board(tmp_path), End(7, "a disk is full", 75)
    board.end(first)
    board.end(End(7, "a peer is gone", 1))
    assert board.ended(7) == first
    assert board.ended(8) is None
    board.end(End(8, "another", 1))
    assert board.ended(8) == End(8, "another", 1)


def test_who_writes_no_note_is_waited_for():
    before = {rank: note(rank) for rank in range(2)}
    now = {0: note(0, tick=5), 1: note(1)}
    assert suspects(before, now, 2) == "rank 1 (node, process 101) at the data of step 17 for 3 s and does not answer"
    assert suspects(before, now, 3).endswith("; rank 2, not heard of")


def test_where_all_answer_those_that_have_come_least_far_are_waited_for():
    before = {rank: note(rank) for rank in range(3)}
    now = {rank: note(rank, tick=5, stage=40 + (rank != 1)) for rank in range(3)}
    assert suspects(before, now, 3) == str(now[1])


def test_a_note_before_the_first_step_names_none():
    assert "at the start for 3 s" in str(dataclasses.replace(note(0), doing="the start", step=0))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "done"),
        (1, "failed (1)"),
        (os.EX_TEMPFAIL, "gave up, to be started again (75)"),
        (-signal.SIGKILL, "ended by SIGKILL"),
        (128 + signal.SIGABRT, "ended by SIGABRT"),  # as a shell tells it
    ],
)
def test_exit_codes_in_words(code, words):
    assert exit_in_words(code) == words
