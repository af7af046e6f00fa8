"""Logs of all ranks as one stream."""

from __future__ import annotations

import time

from train.launch.console import Console, Following


def append(folder, rank: int, text: str) -> None:
    with (folder / f"rank_{rank}.log").open("a") as file:
        file.write(text)


def test_lines_come_once_with_their_rank_and_only_when_they_are_whole(tmp_path):
    lines: list[str] = []
    console = Console(tmp_path, lines.append)
    append(tmp_path, 0, "one\ntw")
    append(tmp_path, 1, "first\n")
    console.poll()
    append(tmp_path, 0, "o\n")
    console.poll()
    assert lines == ["0| one", "1| first", "0| two"]


def test_ranks_that_come_later_are_shown_and_others_are_not(tmp_path):
    lines: list[str] = []
    console = Console(tmp_path, lines.append)
    console.poll()
    append(tmp_path, 10, "ten\n")
    append(tmp_path, 9, "nine\n")
    (tmp_path / "job_3.log").write_text("other\n")
    console.poll()
    assert lines == [" 9| nine", "10| ten"]


def test_what_was_written_before_may_be_left_out(tmp_path):
    lines: list[str] = []
    append(tmp_path, 0, "old\n")
    console = Console(tmp_path, lines.append, from_now=True)
    append(tmp_path, 0, "new\n")
    console.poll()
    assert lines == ["0| new"]


def test_connections_of_virtual_devices_stay_in_the_file(tmp_path):
    lines: list[str] = []
    append(tmp_path, 0, "[Gloo] Rank 0 is connected to 7 peer ranks.\nloss 1.0\n")
    Console(tmp_path, lines.append).poll()
    assert lines == ["0| loss 1.0"]


def test_everything_is_out_when_following_ends(tmp_path):
    lines: list[str] = []
    with Following(Console(tmp_path, lines.append), seconds=0.01):
        append(tmp_path, 0, "one\n")
        end = time.monotonic() + 600
        while not lines and time.monotonic() < end:
            time.sleep(0.01)
        append(tmp_path, 0, "two\n")
    assert lines == ["0| one", "0| two"]
