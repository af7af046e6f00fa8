"""Ranks on this machine: what each is told, where it writes, and how all of them end."""

from __future__ import annotations

import signal
import sys
import time

import pytest

from train.launch.local import Processes, visible_gpus

DEADLINE = 600  # seconds: for machines that are busy


def ranks(tmp_path, code: str, count: int = 2, **settings) -> Processes:
    return Processes([sys.executable, "-c", code], count, tmp_path / "logs", **settings)


def written(found: Processes, rank: int, text: str) -> str:
    """The log of a rank, once `text` is in it."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        content = found.log(rank).read_text() if found.log(rank).exists() else ""
        if text in content:
            return content
        time.sleep(0.05)
    raise AssertionError(f"rank {rank} wrote {content!r}, not {text!r}")


def test_every_rank_is_told_its_place_and_writes_its_own_log(tmp_path):
    code = "import os; print(*(os.environ[f'KINEMA_{n}'] for n in ('PROCESS_INDEX', 'PROCESS_COUNT', 'COORDINATOR')))"
    with ranks(tmp_path, code, 3) as found:
        found.start()
        assert found.wait(DEADLINE) == [0, 0, 0]
    places = [found.log(rank).read_text().split() for rank in range(3)]
    assert [place[:2] for place in places] == [["0", "3"], ["1", "3"], ["2", "3"]]
    assert len({place[2] for place in places}) == 1


def test_a_single_rank_is_no_part_of_a_cluster(tmp_path):
    with ranks(tmp_path, "import os; print('KINEMA_COORDINATOR' in os.environ)", 1) as found:
        found.start()
        assert found.wait(DEADLINE) == [0]
    assert found.log(0).read_text().strip() == "False"


def test_exit_codes_and_signals_are_told_by_rank(tmp_path):
    code = "import os, signal, sys, time\nif os.environ['KINEMA_PROCESS_INDEX'] == '0': sys.exit(75)\ntime.sleep(600)"
    with ranks(tmp_path, code) as found:
        found.start()
        while found.poll()[0] is None:
            time.sleep(0.05)
        assert found.running() == [1]
        found.send(signal.SIGKILL, ranks=[1])
        assert found.wait(DEADLINE) == [75, -signal.SIGKILL]


def test_terminate_lets_a_rank_finish_what_it_does(tmp_path):
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(75)))\n"
        "print('ready')\ntime.sleep(600)"
    )
    with ranks(tmp_path, code) as found:
        found.start()
        for rank in range(2):
            written(found, rank, "ready")
        found.terminate()
        assert found.wait(DEADLINE) == [75, 75]
    assert "saved" in found.log(1).read_text()


def test_closing_ends_what_ranks_have_started_too(tmp_path):
    code = "import subprocess, time; print(subprocess.Popen(['sleep', '600']).pid, 'made'); time.sleep(600)"
    with ranks(tmp_path, code) as found:
        found.start()
        children = [int(written(found, rank, "made").split()[0]) for rank in range(2)]
    assert found.running() == []
    assert all(gone(child) for child in children)


def gone(pid: int) -> bool:
    """Whether a process has ended; its entry stays until whoever adopted it looks."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_ranks_can_be_started_again_and_logs_go_on(tmp_path):
    with ranks(tmp_path, "print('here')") as found:
        for _ in range(2):
            found.start()
            assert found.wait(DEADLINE) == [0, 0]
    assert found.log(1).read_text() == "here\nhere\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_ranks_are_asked_to_stop_where_their_launcher_is_killed(tmp_path):
    launcher = (
        "import sys, time\nfrom train.launch.local import Processes\n"
        f"found = Processes([sys.executable, '-c', 'import os, time; print(os.getpid(), 1); time.sleep(600)'], 1, "
        f"{str(tmp_path / 'inner')!r})\n"
        "found.start()\ntime.sleep(600)"
    )
    with ranks(tmp_path, launcher, 1) as outer:
        outer.start()
        inner = Processes([], 1, tmp_path / "inner")
        child = int(written(inner, 0, " 1").split()[0])
        outer.send(signal.SIGKILL)
        assert gone(child)


def test_virtual_devices_replace_what_the_switches_of_xla_ask_for(tmp_path):
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_cpu_enable_fast_math=false"}
    given = ranks(tmp_path, "", devices=4, environment=environment).environment(1, 5000)
    assert given["JAX_NUM_CPU_DEVICES"] == "4"
    assert given["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=false"
    assert given["KINEMA_COORDINATOR"] == "127.0.0.1:5000"


def test_gpus_are_shared_out_in_order(tmp_path):
    visible = {"CUDA_VISIBLE_DEVICES": "0,1,2,5"}
    halves = ranks(tmp_path, "", platform="cuda", environment=visible)
    assert [halves.environment(rank, 1)["CUDA_VISIBLE_DEVICES"] for rank in range(2)] == ["0,1", "2,5"]
    singles = ranks(tmp_path, "", devices=1, platform="cuda", environment=visible)
    assert [singles.environment(rank, 1)["CUDA_VISIBLE_DEVICES"] for rank in range(2)] == ["0", "1"]


@pytest.mark.parametrize(("count", "devices", "wanted"), [(2, 3, "2 x 3"), (3, None, "a multiple of 3")])
def test_too_few_gpus_are_refused_with_the_field(tmp_path, count, devices, wanted):
    visible = {"CUDA_VISIBLE_DEVICES": "0,1,2,5"}
    with pytest.raises(ValueError, match=f"processes is {count}: they need {wanted} GPUs but this machine shows 4"):
        ranks(tmp_path, "", count, devices=devices, platform="cuda", environment=visible)


def test_no_visible_device_means_no_gpu():
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
