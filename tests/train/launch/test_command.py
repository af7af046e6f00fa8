"""`python -m train.launch`: what it prints, what it refuses, and real runs of several processes."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.train.launch.tiny_run import QUICK, losses, write_config
from train.launch.__main__ import main

ROOT = pathlib.Path(__file__).parents[3]
CONFIG = "configs/arithmetic.py"


def printed(capsys, *line: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*line, "--config", CONFIG, "--dry-run"])
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_a_dry_run_prints_what_each_process_would_be_told(capsys):
    first, second = printed(capsys, "local", "--processes", "2", "--devices", "4", "--platform", "cpu").splitlines()
    assert "KINEMA_PROCESS_INDEX=0" in first
    assert "KINEMA_PROCESS_INDEX=1" in second
    assert "KINEMA_COORDINATOR=127.0.0.1:<free port> " in second
    assert second.endswith(f">> {ROOT}/runs/arithmetic/logs/rank_1.log")


def test_a_batch_script_has_options_environment_and_the_command(capsys):
    script = printed(
        *(capsys, "slurm", "--nodes", "2", "--gpus-per-node", "8", "--time", "1:00:00", "--partition", "long"),
        *("--env", "WORDS=a b", "--sbatch=--constraint=h200", "--workdir", "/shared/run"),
    )
    for line in ("nodes=2", "ntasks-per-node=8", "gpus-per-node=8", "partition=long", "constraint=h200", "requeue"):
        assert f"#SBATCH --{line}\n" in script
    assert "#SBATCH --signal=TERM@120\n" in script
    assert "#SBATCH --output=/shared/run/logs/job_%j.log\n" in script
    assert "export WORDS='a b'\n" in script
    assert "export KINEMA_COORDINATOR=auto\n" in script
    assert "JAX_LOCAL_DEVICE_IDS" not in script
    assert "python -m train --config=configs/arithmetic.py --workdir=/shared/run\n" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_one_process_for_all_gpus_of_a_node_is_told_to_use_them_all(capsys):
    script = printed(capsys, "slurm", "--nodes", "2", "--gpus-per-node", "4", "--tasks-per-node", "1")
    assert "export JAX_LOCAL_DEVICE_IDS=0,1,2,3\n" in script


def test_a_container_gets_its_mounts(capsys):
    script = printed(capsys, "slurm", "--image", "registry#kinema", "--mounts", "/data:/data", "--mounts", "/x:/y")
    assert "--container-image=registry#kinema" in script
    assert "--container-mounts=/data:/data,/x:/y" in script
    assert "KINEMA_COORDINATOR" not in script  # one process has no peers


def test_all_workers_of_a_tpu_pod_get_the_same_line(capsys):
    line = printed(capsys, "tpu", "--pod", "v5p", "--zone", "us-east5-a", "--directory", "kinema", "--env", "A=it's")
    assert line.startswith("gcloud compute tpus tpu-vm ssh v5p --zone=us-east5-a --worker=all ")
    shown = subprocess.run(
        ["bash", "-c", f"gcloud() {{ printf '%s\\n' \"$@\"; }}; {line}"], capture_output=True, text=True
    )
    worker = shown.stdout.partition("--command=")[2]
    inner = subprocess.run(
        ["bash", "-c", f"bash() {{ printf '%s' \"$2\"; }}; {worker}"], capture_output=True, text=True
    )
    assert "cd kinema && " in inner.stdout
    assert """export A='it'"'"'s'\n""" in inner.stdout
    assert subprocess.run(["bash", "-n"], input=inner.stdout, text=True).returncode == 0


@pytest.mark.parametrize(("code", "runs"), [(0, 1), (1, 1), (75, 3), (137, 3)])
def test_a_worker_runs_again_what_asks_for_it(tmp_path, capsys, code, runs):
    """The very script that gcloud takes, with a `python` that only counts."""
    count = tmp_path / "count"
    (tmp_path / "python").write_text(f"#!/bin/bash\necho ran >> {count}\nexit {code}\n")
    (tmp_path / "sleep").write_text("#!/bin/bash\n")
    for name in ("python", "sleep"):
        (tmp_path / name).chmod(0o755)
    line = printed(
        *(capsys, "tpu", "--pod", "p", "--zone", "z", "--restarts", "2"),
        *("--directory", str(tmp_path), "--workdir", "run", "--python", str(tmp_path / "python")),
    )
    worker = f'gcloud() {{ for last; do :; done; eval "${{last#--command=}}"; }}; {line}'
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(["bash", "-c", worker], env=environment, capture_output=True).returncode == code
    assert count.read_text().count("ran") == runs


def test_a_manifest_says_whether_it_was_checked(capsys):
    manifest = printed(capsys, "kubernetes", "--image", "i", "--nodes", "2", "--gpus-per-node", "8")
    assert manifest.startswith(("# fits the schemas of JobSet v1alpha2 and Kubernetes ", "# not validated"))
    assert "kind: JobSet\n" in manifest


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["local", "--config", CONFIG, "--config.seeed=1"], "error: config.seeed is not a known field. Did you mean"),
        (["local", "--config", CONFIG, "--config.phases.imitate.model=other"], "models: policy"),
        (
            ["slurm", "--config", CONFIG, "--nodes", "3", "--gpus-per-node", "1", "--config.mesh.fsdp=2"],
            "but there are 3",
        ),
        (["local", "--config", "configs/missing.py"], "error: --config is 'configs/missing.py'"),
        (["follow", "runs/no_such_run"], "error: runs/no_such_run has no logs"),
    ],
)
def test_mistakes_are_told_before_anything_starts(line, message):
    with pytest.raises(SystemExit, match=message):
        main(line)


@pytest.mark.parametrize(("target", "program"), [("slurm", "sbatch"), ("tpu --pod p --zone z", "gcloud")])
def test_a_program_that_is_not_here_is_named(monkeypatch, tmp_path, target, program):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=f"error: {program} is not on this machine's PATH; .* --dry-run"):
        main([*target.split(), "--config", CONFIG, "--workdir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts a program on the PATH that keeps what it is given and answers."""

    def make(program: str, answer: str, code: int = 0) -> pathlib.Path:
        given, folder = tmp_path / f"{program}.given", tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / program).write_text(f'#!/bin/bash\necho "$@" > {given}\ncat >> {given}\necho {answer}\nexit {code}\n')
        (folder / program).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        return given

    return make


def test_a_job_is_handed_to_slurm_with_a_folder_for_its_logs(stand_in, tmp_path, capsys):
    given = stand_in("sbatch", "17")
    with pytest.raises(SystemExit) as stop:
        main(["slurm", "--config", CONFIG, "--workdir", str(tmp_path / "run")])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("job 17; its logs: python -m train.launch follow ")
    assert given.read_text().startswith("--parsable\n#!/bin/bash\n#SBATCH --job-name=kinema\n")
    assert (tmp_path / "run/logs").is_dir()


def test_a_manifest_is_handed_to_kubectl_and_its_exit_code_passed_on(stand_in, capfd):
    given = stand_in("kubectl", "refused", 3)
    with pytest.raises(SystemExit) as stop:
        main(["kubernetes", "--image", "i", "--config", CONFIG])
    assert stop.value.code == 3
    assert given.read_text().startswith("apply -f -\napiVersion: jobset.x-k8s.io/v1alpha2\n")


def launched(tmp_path: pathlib.Path, config: pathlib.Path, processes: int, devices: int):
    workdir = tmp_path / f"{processes}x{devices}"
    line = [sys.executable, "-m", "train.launch", "local", "--platform=cpu", f"--processes={processes}"]
    line += [f"--devices={devices}", "--config", str(config), "--workdir", str(workdir), *QUICK]
    return workdir, subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=1800)


@pytest.mark.slow
def test_one_two_and_four_processes_learn_the_same(tmp_path):
    config = write_config(tmp_path)
    found = {}
    for processes, devices in ((1, 8), (2, 4), (4, 2)):
        workdir, done = launched(tmp_path, config, processes, devices)
        assert done.returncode == 0, done.stdout + done.stderr
        found[processes] = losses(workdir)
        if processes > 1:
            assert f"0| preflight: {processes} processes on 1 host, each {devices} x cpu" in done.stdout
            assert done.stdout.count("learn 3/3") == 1  # metrics are told once
            assert len(list((workdir / "logs").glob("rank_*.log"))) == processes
    assert len(found[1]) == 3
    # float32 sums in another order: an ulp of these losses is 5e-7
    assert found[2] == pytest.approx(found[1], rel=1e-6)
    assert found[4] == pytest.approx(found[1], rel=1e-6)


@pytest.mark.slow
def test_a_mistake_that_only_the_processes_meet_ends_all_of_them_and_is_not_tried_again(tmp_path):
    config = write_config(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content["sources"]["text"]["paths"] = [str(tmp_path / "missing.txt")]
    (tmp_path / "config.json").write_text(json.dumps(content))
    workdir, done = launched(tmp_path, config, 2, 1)
    assert done.returncode == 1
    assert "missing.txt' matches no file" in done.stdout
    assert not (workdir / "restarts.jsonl").exists()
