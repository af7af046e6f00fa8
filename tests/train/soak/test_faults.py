from __future__ import annotations

import collections
import hashlib
import resource
import signal
import subprocess
import sys

import pytest

from train.checkpoints.checksums import SUMS, problems, sums_of, write_sums
from train.soak.faults import KINDS, Fault, draw, flip_a_byte, inflict


def test_faults_are_fixed_by_the_seed_in_order_and_of_every_kind_alike():
    faults = draw(3, 20, tuple(KINDS), processes=4, steps=400, first=21)
    assert faults == draw(3, 20, tuple(KINDS), processes=4, steps=400, first=21)
    assert faults != draw(4, 20, tuple(KINDS), processes=4, steps=400, first=21)
    steps = [fault.step for fault in faults]
    assert steps == sorted(set(steps))
    assert 21 <= steps[0] < steps[-1] <= 380
    assert collections.Counter(fault.kind for fault in faults) == dict.fromkeys(KINDS, 4)
    assert {fault.rank for fault in faults if fault.kind in ("kill", "stop", "corrupt")} <= set(range(4))
    assert {fault.rank for fault in faults if fault.kind == "disk"} == {None}


def test_more_faults_than_steps_are_refused():
    with pytest.raises(ValueError, match=r"--faults is 5, the run has 4 steps for them \(16 to 19 of 20\); lower it"):
        draw(0, 5, ("kill",), processes=1, steps=20, first=16)


def checkpoint(folder):
    """Two files, their checksums, and an empty file."""
    (folder / "params").mkdir(parents=True)
    for name, content in (("params/a", b"first"), ("b", b"second"), ("c", b"")):
        (folder / name).write_bytes(content)
    write_sums(folder / SUMS, sums_of(folder, [folder / "params/a", folder / "b", folder / "c"]))
    return folder


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_is_in_one_file_whose_checksum_tells(tmp_path, seed):
    folder = checkpoint(tmp_path / "5")
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.rglob("*") if path.is_file()}
    path, place = flip_a_byte(folder, seed)
    assert [p for p, digest in before.items() if hashlib.sha256(p.read_bytes()).digest() != digest] == [path]
    assert place < path.stat().st_size
    assert problems(folder) == [f"{path} differs from its checksum"]


class Sleeper:
    """A process that waits to be hit, then writes to a file as long as that can be done."""

    PROGRAM = """
import sys
print("up", flush=True)
sys.stdin.readline()
with open(sys.argv[1], "wb") as file:
    file.write(b"12")
"""

    def __init__(self, folder):
        command = [sys.executable, "-c", self.PROGRAM, str(folder / "file")]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        assert self.process.stdout.readline() == "up\n"
        self.pid = self.process.pid


@pytest.fixture
def two(tmp_path):
    sleepers = [Sleeper(tmp_path) for _ in range(2)]
    yield sleepers
    for sleeper in sleepers:
        sleeper.process.kill()
        sleeper.process.communicate()


@pytest.mark.parametrize(
    ("kind", "rank", "number", "words"),
    [("kill", 1, signal.SIGKILL, "kill rank 1"), ("term", None, signal.SIGTERM, "term all ranks")],
)
def test_signals_reach_the_ranks_they_are_meant_for(two, tmp_path, kind, rank, number, words):
    assert inflict(Fault(kind, rank, 5), [sleeper.pid for sleeper in two], tmp_path, 0) == words
    assert two[1].process.wait(120) == -number
    if rank is not None:
        assert two[0].process.poll() is None


def test_on_a_full_disk_a_process_cannot_write_more(two, tmp_path):
    inflict(Fault("disk", None, 5), [sleeper.pid for sleeper in two], tmp_path, 0)
    _, error = two[0].process.communicate("go\n", timeout=120)
    assert "File too large" in error
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1


def test_the_newest_checkpoint_is_broken_and_a_rank_killed(two, tmp_path):
    for step in (10, 9):
        checkpoint(tmp_path / "checkpoints" / str(step))
    words = inflict(Fault("corrupt", 0, 5), [sleeper.pid for sleeper in two], tmp_path, 0)
    assert words.startswith("flipped byte ")
    assert "checkpoints/10/" in words
    assert words.endswith("corrupt rank 0")
    assert [bool(problems(tmp_path / "checkpoints" / str(step))) for step in (9, 10)] == [False, True]
    assert two[0].process.wait(120) == -signal.SIGKILL
