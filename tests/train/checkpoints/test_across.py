"""Checkpoints of several processes, read by other numbers of them on other meshes."""

import math
import sys
from pathlib import Path

import pytest

from tests.train.checkpoints.across import SHAPE
from tests.train.checkpoints.states import flip_a_bit
from train.launch.local import Processes

ROOT = Path(__file__).parents[3]


def ran(folder, action, count, devices, *axes):
    """The logs of so many processes with so many virtual devices each."""
    command = [sys.executable, "-m", "tests.train.checkpoints.across", action, str(folder / "run"), *axes]
    logs = folder / f"{action}{count}"
    with Processes(command, count, logs, devices=devices, environment={"PYTHONPATH": str(ROOT)}) as processes:
        processes.start()
        codes = processes.wait(600)
        texts = [processes.log(rank).read_text() for rank in range(count)]
    assert codes == [0] * count, "\n".join(texts)
    return texts


@pytest.mark.slow
def test_two_processes_save_their_own_shards_and_one_and_four_restore_them(tmp_path):
    ran(tmp_path, "save", 2, 2, "fsdp=4")
    step = tmp_path / "run" / "checkpoints" / "2"
    half = 4 * math.prod(SHAPE) / 2
    for rank in range(2):  # none holds, or writes, a whole array
        folder = step / "params" / f"ocdbt.process_{rank}"
        written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert 0.8 * half < written < 1.2 * half
    (text,) = ran(tmp_path, "restore", 1, 4, "data=2", "fsdp=2")
    assert "step 2 is equal" in text
    files = [path for path in (step / "params" / "ocdbt.process_1").rglob("*") if path.is_file()]
    flip_a_bit(max(files, key=lambda path: path.stat().st_size))
    texts = ran(tmp_path, "restore", 4, 1, "fsdp=2", "tensor=2")
    for rank, text in enumerate(texts):  # one of them read the broken file, all go back
        assert f"rank {rank} of 4: step 1 is equal" in text
    assert sum("differs from its checksum" in text for text in texts) == 1
    assert (step.parent / "2.broken").is_dir()
