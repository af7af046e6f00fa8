"""Texts between real processes, before any of them uses a device."""

from __future__ import annotations

import sys

from sharding import messages
from train.launch.local import Processes

DEADLINE = 600  # seconds: for machines that are busy
TALK = """
import time
from sharding import messages, processes
processes.start(processes.from_environment())
index, count = messages.place()
heard = messages.gather("who", f"rank {index}", 300)
print(heard, messages.broadcast("answer", None if index else f"{len(heard)} of {count}", 300))
try:
    if index == 0:
        messages.broadcast("early", "now", 300)
        messages.gather("late", "here", 0.2)
    else:
        messages.broadcast("early", None, 300)
except TimeoutError as error:
    print(error)
messages.broadcast("end", None if index else "now", 300)  # so that nobody leaves while another waits
"""


def test_one_process_talks_to_itself():
    assert messages.place() == (0, 1)
    assert messages.gather("alone", "text", 1) == ["text"]
    assert messages.broadcast("alone", "text", 1) == "text"


def test_process_0_hears_all_and_tells_all_and_names_who_is_silent(tmp_path):
    with Processes([sys.executable, "-c", TALK], 2, tmp_path) as processes:
        processes.start()
        codes = processes.wait(DEADLINE)
        first, second = (processes.log(rank).read_text() for rank in range(2))
    assert codes == [0, 0], first + second
    assert first.splitlines()[-2:] == [
        "['rank 0', 'rank 1'] 2 of 2",
        "rank 1 has not answered for 0 s (asked for late/1)",
    ]
    assert second.splitlines()[-1] == "None 2 of 2"
