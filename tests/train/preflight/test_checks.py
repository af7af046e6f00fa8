"""Preflight of real processes: two that agree, and two that do not."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from tests.train.launch.tiny_run import write_config
from tests.train.tiny_config import text_config
from train.checkpoint import CheckpointError
from train.launch.local import Processes
from train.preflight import checks
from train.sections import completed

ROOT = pathlib.Path(__file__).parents[3]
DEADLINE = 600  # seconds: for machines that are busy
RANK = """
import json, os, pathlib, sys
from ml_collections import ConfigDict
from sharding import processes
from train.preflight.checks import preflight
from train.sections import completed

processes.start(processes.from_environment())
rank = os.environ["KINEMA_PROCESS_INDEX"]
folder = pathlib.Path(sys.argv[1])
config = completed(ConfigDict(json.loads((folder / f"config_{rank}.json").read_text())))
try:
    print(preflight(config, folder / "run"))
except ValueError as error:
    print(error)
"""


@pytest.fixture
def config(tmp_path):
    return text_config(tmp_path)


def outputs(folder: pathlib.Path, configs: list, devices: int = 2) -> list[str]:
    for rank, config in enumerate(configs):
        (folder / f"config_{rank}.json").write_text(json.dumps(config.to_dict()))
    with Processes(
        [sys.executable, "-c", RANK, str(folder)], len(configs), folder / "logs", devices=devices
    ) as processes:
        processes.start()
        codes = processes.wait(DEADLINE)
        logs = [processes.log(rank).read_text() for rank in range(len(configs))]
    assert codes == [0] * len(configs), logs
    return logs


def test_two_processes_that_agree_are_summed_up(tmp_path, config):
    for told in outputs(tmp_path, [config, config]):
        assert "preflight: 2 processes on 1 host, each 2 x cpu; jax " in told
        assert "a sum over all devices takes" in told


def test_another_config_and_hidden_data_are_told_by_rank(tmp_path, config):
    other = config.copy_and_resolve_references()
    other.seed, other.sources.text.paths = 1, (str(tmp_path / "missing.txt"),)
    first, second = outputs(tmp_path, [config, other], devices=1)
    assert "config.seed: 0 there, 1 here" in first
    assert "on rank 0" in first
    assert "config.sources.text: " in first
    assert "missing.txt' matches no file; correct it in `paths` (on rank 1" in first
    assert "preflight: not all is well with software, config and data; rank 0 tells" in second


def test_a_single_process_checks_itself(tmp_path, config):
    told = checks.preflight(completed(config), tmp_path / "run")
    assert told.startswith(f"preflight: 1 process on 1 host, each {jax.local_device_count()} x cpu")


def test_only_what_the_phases_ahead_read_has_to_be_there(tmp_path, config):
    config.sources.other = config.sources.text.copy_and_resolve_references()
    config.sources.other.paths = (str(tmp_path / "missing.txt"),)
    assert checks.preflight(completed(config), tmp_path / "run")
    config.phases.learn.mixture = {"other": 1.0}
    assert checks.preflight(completed(config), tmp_path / "run", only="teach")
    with pytest.raises(ValueError, match=r"preflight: config\.sources\.other: .*matches no file"):
        checks.preflight(completed(config), tmp_path / "run")
    (tmp_path / "run/learn").mkdir()
    (tmp_path / "run/learn/done.json").write_text("{}")
    assert checks.preflight(completed(config), tmp_path / "run")


def test_a_disk_that_is_too_small_may_be_cleared_and_is_no_mistake(tmp_path, config, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match=r"has 0.00 GB free, a checkpoint takes 0.00 GB; free some space"):
        checks.preflight(completed(config), tmp_path / "run")


def test_a_working_folder_that_is_a_file_cannot_be_written(tmp_path, config):
    (tmp_path / "run").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        checks.preflight(completed(config), tmp_path / "run")


def test_a_sum_that_does_not_come_back_is_told(monkeypatch):
    stuck = threading.Event()
    monkeypatch.setattr(checks, "_SECONDS", 0.01)
    with pytest.raises(TimeoutError, match="has not come back"):
        checks._in_time(lambda: stuck.wait() and 0.0)
    stuck.set()


def test_an_error_of_the_devices_is_raised():
    with pytest.raises(ZeroDivisionError):
        checks._in_time(lambda: 1 / 0)


def test_the_sum_over_all_devices_is_the_right_one(monkeypatch):
    assert checks._round_trip() > 0
    monkeypatch.setattr(np, "arange", lambda start, stop, dtype: np.zeros(stop - start, dtype))
    with pytest.raises(ValueError, match="a device miscomputes"):
        checks._round_trip()


@pytest.mark.slow
def test_the_command_only_checks(tmp_path):
    config = write_config(tmp_path)
    line = [sys.executable, "-m", "train.preflight", "--config", str(config), "--workdir", str(tmp_path / "run")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert (done.returncode, done.stdout.startswith("preflight: 1 process on 1 host")) == (0, True), done.stderr
    assert list((tmp_path / "run").iterdir()) == []
