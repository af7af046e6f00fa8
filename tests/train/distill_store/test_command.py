"""`python -m train.distill_store`: its errors, and real processes that are killed and started again."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from absl import flags

import train.distill_store.__main__ as program
from configs.schema import to_plain
from tests.ports import free_port
from train.distill_store.reader import Store
from train.rows import rows_of

ROOT = Path(__file__).parents[3]


@pytest.fixture
def main(taught, tmp_path, monkeypatch):
    """The program in this process, with flags as given."""
    monkeypatch.setattr(program, "prepare_kernels", lambda: None)
    monkeypatch.setattr(program.processes, "start", lambda _: None)

    def run(teacher_of_phase="teach", **changes):
        taught.config.phases.learn.teacher, before = teacher_of_phase, taught.config.phases.learn.teacher
        with monkeypatch.context() as patch:
            for name in ("phase", "teacher", "out", "kind", "entries", "rows", "batches_per_shard", "part"):
                default = flags.FLAGS[name].default
                holder = type("Holder", (), {"value": changes.get(name, default)})
                patch.setattr(program, {"batches_per_shard": "_BATCHES"}.get(name, f"_{name.upper()}"), holder)
            try:
                program.main(taught.config, tmp_path)
            finally:
                taught.config.phases.learn.teacher = before

    return run


def test_a_store_is_written_from_a_checkpoint_and_again_only_what_is_missing(main, taught, tmp_path, capsys):
    given = {"phase": "learn", "teacher": str(taught.teacher.path), "entries": 4, "batches_per_shard": 1}
    main(out=str(tmp_path / "s"), **given)
    assert Store(tmp_path / "s").num_rows == 3 * 2  # the steps of the phase, two rows each
    assert f"{tmp_path / 's'}: 6 rows in " in capsys.readouterr().out
    store = f"store:{tmp_path / 's'}"  # the folder that the phase names
    main(store, **given)
    assert capsys.readouterr().out == f"{tmp_path / 's'} has all of these rows\n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"phase": "tune"}, "--phase is 'tune'; config.phases has learn, teach"),
        ({"phase": "learn"}, "--out is not given and config.phases.learn.teacher names no store; give a folder"),
        ({"phase": "learn", "out": "s"}, "--teacher teach: "),
        (
            {"phase": "learn", "teacher_of_phase": "store:s"},
            "--teacher is not given and the phase names no model; give",
        ),
        ({"phase": "teach"}, "--phase is 'teach' with objective 'next_token', which learns from no store"),
        ({"phase": "learn", "out": "s", "teacher": "there", "part": "1"}, "--teacher there: "),
    ],
)
def test_what_is_missing_is_named(main, given, message):
    with pytest.raises(ValueError) as error:
        main(**given)
    assert str(error.value).startswith(message)


def test_a_part_that_is_none_is_refused(main, taught):
    with pytest.raises(ValueError, match="--part is 'half'; write i/n, as in 0/4"):
        main(phase="learn", out="s", teacher=str(taught.teacher.path), part="half")


@pytest.fixture
def config(taught, tmp_path):
    """The config as a file; the mesh takes all devices."""
    text = json.dumps(to_plain(taught.config) | {"mesh": {}})
    (tmp_path / "config.py").write_text(
        "import json\nfrom ml_collections import ConfigDict\n"
        f"def get_config(): return ConfigDict(json.loads({text!r}), type_safe=False)\n"
    )
    return tmp_path / "config.py"


def started(config: Path, out: Path, teacher: Path, *sizes: str, **environment: str) -> subprocess.Popen:
    arguments = ["--config", str(config), "--phase", "learn", "--teacher", str(teacher), "--out", str(out)]
    return subprocess.Popen(
        [sys.executable, "-m", "train.distill_store", *arguments, "--batches_per_shard", "5", *sizes],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_a_killed_process_leaves_a_store_that_the_same_command_completes_to_the_same_bytes(taught, config, tmp_path):
    sizes = ("--entries", "8", "--rows", "600")
    whole = started(config, tmp_path / "whole", taught.teacher.path, *sizes)
    assert whole.wait(120) == 0, whole.stdout.read()
    killed = started(config, tmp_path / "killed", taught.teacher.path, *sizes)
    while not (tmp_path / "killed/00003.json").exists():
        assert killed.poll() is None, killed.stdout.read()
        time.sleep(0.001)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert 40 <= Store(tmp_path / "killed").num_rows < 600
    again = started(config, tmp_path / "killed", taught.teacher.path, *sizes)
    assert again.wait(120) == 0, again.stdout.read()
    digests = [
        {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.suffix != ".tmp"}
        for folder in (tmp_path / "whole", tmp_path / "killed")
    ]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 2 * 60 + 1
    checked = [sys.executable, "-m", "train.distill_store.verify", str(tmp_path / "killed")]
    done = subprocess.run(checked, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("60 shards, 600 rows, all as they were written\n")


@pytest.mark.slow
def test_two_hosts_write_the_store_of_one(taught, config, tmp_path):
    """Each runs the teacher over its rows; one of them writes."""
    address = f"127.0.0.1:{free_port()}"
    common = {"JAX_COORDINATOR_BIND_ADDRESS": address, "KINEMA_COORDINATOR": address, "KINEMA_PROCESS_COUNT": "2"}
    sizes = ("--entries", "50", "--rows", "20", "--kind", "topk")
    hosts = [
        started(config, tmp_path / "two", taught.teacher.path, *sizes, **common, KINEMA_PROCESS_INDEX=str(index))
        for index in range(2)
    ]
    for host in hosts:
        assert host.wait(120) == 0, host.stdout.read()
    taught.write(tmp_path / "one", kind="topk", num=50, rows=20, batches_per_shard=5)
    rows, two, one = rows_of(taught.config, "learn")[0], Store(tmp_path / "two"), Store(tmp_path / "one")
    assert two.num_rows == one.num_rows == 20
    for r in range(20):
        there, here = (store.add(r, rows.row(r)).values for store in (two, one))
        np.testing.assert_allclose(np.exp(there["teacher_rest"]), np.exp(here["teacher_rest"]), atol=1e-3)
        np.testing.assert_allclose(there["teacher_entropy"], here["teacher_entropy"], atol=5e-3)
