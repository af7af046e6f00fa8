"""Runs under a real SLURM: two nodes that find each other by themselves, preemption, and what is not tried again."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from tests.train.launch import slurm_cluster
from tests.train.launch.slurm_cluster import job, told, wait_for
from tests.train.launch.tiny_run import QUICK, losses, write_config

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not slurm_cluster.installed(), reason="SLURM is not installed, or this is not root"),
]
ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm") / "cluster") as environment:
        yield environment


def submitted(slurm: dict[str, str], config: pathlib.Path, workdir: pathlib.Path, *more: str) -> str:
    """The number of the job; two nodes with one process each, of one virtual device."""
    line = [sys.executable, "-m", "train.launch", "slurm", "--nodes=2", "--python", sys.executable, *more]
    line += ["--env", "JAX_PLATFORMS=cpu", "--env", "JAX_NUM_CPU_DEVICES=1", *QUICK]
    done = subprocess.run(
        [*line, "--config", str(config), "--workdir", str(workdir)],
        cwd=ROOT,
        env=slurm,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[1].rstrip(";")


def logs(workdir: pathlib.Path) -> str:
    return "\n".join(path.read_text() for path in sorted((workdir / "logs").glob("*.log")))


def ended(slurm: dict[str, str], number: str, workdir: pathlib.Path) -> str:
    states = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
    try:
        wait_for(lambda: job(slurm, number)["JobState"] in states, f"the end of job {number}")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{job(slurm, number)}\n{logs(workdir)}") from error
    return job(slurm, number)["JobState"]


def test_two_nodes_find_each_other_and_learn(slurm, tmp_path):
    workdir = tmp_path / "run"
    number = submitted(slurm, write_config(tmp_path), workdir)
    assert ended(slurm, number, workdir) == "COMPLETED", logs(workdir)
    assert "preflight: 2 processes on 1 host, each 1 x cpu" in (workdir / "logs/rank_0.log").read_text()
    assert (workdir / "logs/rank_1.log").exists()
    assert len(losses(workdir)) == 3


def test_a_preempted_job_is_queued_again_and_goes_on_from_its_checkpoint(slurm, tmp_path):
    workdir = tmp_path / "run"
    number = submitted(slurm, write_config(tmp_path, steps=100_000), workdir)
    metrics = workdir / "learn/metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text(), f"the first step; {logs(workdir)}")
    told(slurm, "scancel", "--signal=TERM", number)
    wait_for(lambda: "goes on after step" in logs(workdir), "a run that is taken up again")
    restarts = job(slurm, number)["Restarts"]
    told(slurm, "scancel", number)
    assert restarts == "1"
    assert "exit code 75: queued again after 0 of 50 restarts" in logs(workdir)
    assert ended(slurm, number, workdir) == "CANCELLED"


def test_a_mistake_is_not_tried_again(slurm, tmp_path):
    config, workdir = write_config(tmp_path), tmp_path / "run"
    content = json.loads((tmp_path / "config.json").read_text())
    content["sources"]["text"]["paths"] = [str(tmp_path / "missing.txt")]
    (tmp_path / "config.json").write_text(json.dumps(content))
    number = submitted(slurm, config, workdir)
    assert ended(slurm, number, workdir) == "FAILED"
    assert job(slurm, number)["ExitCode"] == "1:0"
    assert job(slurm, number)["Restarts"] == "0"
    assert "missing.txt' matches no file" in (workdir / "logs/rank_0.log").read_text()


def test_what_sbatch_refuses_is_told_in_a_line(slurm, tmp_path):
    line = [sys.executable, "-m", "train.launch", "slurm", "--partition=nowhere", "--workdir", str(tmp_path / "run")]
    line += ["--config", "configs/arithmetic.py"]
    done = subprocess.run(line, cwd=ROOT, env=slurm, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: sbatch refused the job: ")
    assert "invalid partition" in done.stderr
