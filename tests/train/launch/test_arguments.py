"""The command line of the launcher: what it takes, and what it refuses before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from train.launch.arguments import read
from train.launch.settings import KubernetesSettings, LocalSettings, SlurmSettings

CONFIG = "--config=configs/arithmetic.py"


def test_what_is_to_be_trained_goes_on_to_every_process_as_given():
    request = read(["local", "--processes", "2", "--config", "configs/demo.py:small", "--config.train.steps=5"])
    assert request.settings == LocalSettings(processes=2)
    told = ["--config=configs/demo.py:small", "--config.train.steps=5", "--workdir=runs/demo"]
    assert request.command("python3") == ["python3", "-m", "train", *told]


def test_phase_and_workdir_go_on_too():
    request = read(["slurm", CONFIG, "--workdir", "W", "--phase", "attempt", "--dry-run"])
    assert request.command("p") == ["p", "-m", "train", CONFIG, "--workdir=W", "--phase=attempt"]
    assert request.dry_run


def test_the_facts_of_a_cluster_come_from_a_file_and_the_command_line_wins(tmp_path):
    file = tmp_path / "cluster.toml"
    file.write_text('[slurm]\nnodes = 4\npartition = "long"\nenv = ["A=1"]\n[kubernetes]\nimage = "x"\n')
    given = read(["slurm", CONFIG, "--settings", str(file), "--nodes", "8"]).settings
    assert given == SlurmSettings(nodes=8, partition="long", env=("A=1",))


def test_values_that_repeat_are_collected():
    settings = read(["slurm", CONFIG, "--env", "A=1", "--env", "B=x=y"]).settings
    assert settings.variables == {"A": "1", "B": "x=y"}


def test_logs_are_followed_by_folder():
    assert read(["follow", "runs/demo"]) == Path("runs/demo")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("local", "--config is not given"),
        (f"elsewhere {CONFIG}", "invalid choice: 'elsewhere'"),
        (f"local {CONFIG} --node 2", "unrecognized arguments: --node 2"),
        (f"local {CONFIG} --processes two", "argument --processes: invalid int value: 'two'"),
        (f"local {CONFIG} --processes 0", "local.processes is 0; it must be at least 1"),
        (f"local {CONFIG} --devices 0", "local.devices is 0; it must be at least 1"),
        (f"slurm {CONFIG} --env A", "slurm.env has 'A'; write NAME=VALUE"),
        (f"slurm {CONFIG} --mounts a:/b", "slurm.mounts is .* without image"),
        (f"slurm {CONFIG} --image i --mounts a:b", "slurm.mounts has 'a:b'; write SOURCE:TARGET"),
        (f"slurm {CONFIG} --gpus-per-node 8 --tasks-per-node 2", "slurm.tasks_per_node is 2; .* must be 8 .* or 1"),
        (f"slurm {CONFIG} --sbatch gpu", "slurm.sbatch has 'gpu'; write an option of sbatch"),
        (f"slurm {CONFIG} --name My_Job", "slurm.name is 'My_Job'; it must be 1 to 40 small letters"),
        (f"kubernetes {CONFIG}", "kubernetes.image is not given"),
        (f"kubernetes {CONFIG} --image i --tpu tpu-v5p-slice", "give both, or neither"),
        (f"kubernetes {CONFIG} --image i --slices 2", "kubernetes.slices is 2, which only TPUs have"),
        (f"kubernetes {CONFIG} --image i --tpu t --topology 4by4", "kubernetes.topology is '4by4'"),
        (f"kubernetes {CONFIG} --image i --tpu t --topology 4x4x4", "kubernetes.nodes is 1; .* 64 chips, .* 16 hosts"),
        (f"kubernetes {CONFIG} --image i --node-selector a", "kubernetes.node_selector has 'a'; write LABEL=VALUE"),
        (f"tpu {CONFIG} --zone z", "tpu.pod is not given"),
        (f"tpu {CONFIG} --pod p", "tpu.zone is not given"),
    ],
)
def test_mistakes_are_refused_with_the_field(line, message):
    with pytest.raises(ValueError, match=message):
        read(line.split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[slurm]\nnodes = 'four'", "slurm.nodes is 'four'; it must be an int"),
        ("[slurm]\nnode = 4", "slurm.node = 4 .* is not a known field. Did you mean 'nodes'"),
        ("[slrum]\nnodes = 4", "has 'slrum'; allowed are the tables local, slurm, kubernetes, tpu"),
        ("nodes", "cannot be read"),
    ],
)
def test_a_settings_file_is_checked_as_a_config_is(tmp_path, text, message):
    (tmp_path / "cluster.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(["slurm", CONFIG, "--settings", str(tmp_path / "cluster.toml")])


@pytest.mark.parametrize(
    ("settings", "devices"),
    [
        (LocalSettings(processes=2, devices=4), 8),
        (LocalSettings(processes=2), None),
        (SlurmSettings(nodes=4, gpus_per_node=8), 32),
        (SlurmSettings(nodes=4), None),
        (KubernetesSettings(image="i", nodes=2, gpus_per_node=8), 16),
        (KubernetesSettings(image="i", tpu="tpu-v5p-slice", topology="2x2x2", nodes=2, slices=2), 16),
        (KubernetesSettings(image="i", tpu="tpu7x", topology="2x2x2", nodes=2), 16),
    ],
)
def test_devices_are_counted_where_they_are_known(settings, devices):
    assert settings.num_devices == devices
