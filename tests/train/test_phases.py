import json
import shutil

import jax
import numpy as np
import pytest

from tests.train import tiny
from train.checkpoint import Checkpoint
from train.phases import run

QUICK = {"train/steps": 4, "phases/pretrain/optimizer/kind": "adamw", "phases/distil/optimizer/kind": "adamw"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("train.metrics.peak_flops", lambda: (1e9, "given"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A work folder in which both phases have ended."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, run(tiny.config(**QUICK), workdir, build=tiny.build)


def never(*_):
    raise AssertionError("a finished phase was built again")


def test_each_phase_leaves_its_report_checkpoints_and_metrics(finished):
    workdir, results = finished
    for name in ("pretrain", "distil"):
        folder = workdir / name
        done = json.loads((folder / "done.json").read_text())
        assert done == results[name]
        assert done["tokens"] == sum(int(np.sum(tiny.batch(0, 4 * i, 4).segment_ids)) for i in range(4))
        expected = {"steps", "seconds", "tokens_per_second", "mfu", "hfu", "peak_memory_bytes", "parameters", "skipped"}
        assert expected <= set(done)
        assert set(done["losses"]) == {"loss", "loss/text", "loss/image"}
        assert set(done["evaluation"]) == {"norm"}
        assert Checkpoint.open(folder).step == 4
        assert (folder / "metrics.jsonl").is_file()
        assert (folder / "tensorboard").is_dir()


def test_a_phase_starts_from_the_averaged_weights_of_the_one_it_names(finished):
    workdir, _ = finished
    report = json.loads((workdir / "distil" / "init.json").read_text())
    assert report["from"] == "pretrain"
    assert len(report["copied"]) == len(tiny.AXES)
    config = tiny.config(**QUICK, **{"phases/distil/optimizer/freeze": ("embed", "out", "scale")})
    other = workdir.parent / "frozen"
    other.mkdir()
    (other / "pretrain").symlink_to(workdir / "pretrain")
    run(config, other, only="distil", build=tiny.build)
    source, result = Checkpoint.open(workdir / "pretrain"), Checkpoint.open(other / "distil")
    np.testing.assert_array_equal(result.params["embed"]["table"], source.ema["embed"]["table"])
    assert np.any(source.ema["embed"]["table"] != source.params["embed"]["table"])


def test_finished_phases_are_skipped_even_if_other_sections_and_logging_changed(finished):
    workdir, results = finished
    config = tiny.config(**QUICK, **{"train/log_every": 1, "train/keep": 5, "mesh/data": 2})
    config.evaluate = {"text": {"source": "text"}}
    assert run(config, workdir, build=never) == results
    assert run(config, workdir, only="pretrain", build=never) == {"pretrain": results["pretrain"]}


def test_a_default_may_be_spelled_later_or_left_out_again(finished):
    workdir, results = finished
    config = tiny.config(**QUICK)
    config.phases.pretrain.optimizer.update({"b1": 0.9, "clip_norm": 1, "freeze": []})
    assert run(config, workdir, build=never) == results


def test_another_config_in_the_same_folder_is_refused_naming_the_field(finished):
    workdir, _ = finished
    config = tiny.config(**QUICK, **{"phases/pretrain/optimizer/b1": 0.8, "models/tiny/width": 5})
    with pytest.raises(ValueError, match=r"b1: 0.9 in the checkpoint, 0.8 now") as error:
        run(config, workdir, build=never)
    assert "models.tiny.width: 4 in the checkpoint, 5 now" in str(error.value)


def test_more_steps_are_refused_once_a_later_phase_has_begun(finished):
    workdir, _ = finished
    config = tiny.config(**{**QUICK, "train/steps": 6})
    with pytest.raises(ValueError, match="finished with 4 steps, the config asks for 6, but phase 'distil' has begun"):
        run(config, workdir, build=never)


def test_more_steps_go_on_from_the_last_checkpoint_and_fewer_are_refused(tmp_path):
    run(tiny.config(**QUICK), tmp_path, only="pretrain", build=tiny.build)
    longer = run(tiny.config(**{**QUICK, "train/steps": 6}), tmp_path, only="pretrain", build=tiny.build)
    assert longer["pretrain"]["steps"] == 6
    assert Checkpoint.open(tmp_path / "pretrain").step == 6
    with pytest.raises(ValueError, match="finished with 6 steps, the config asks for 4, but they cannot be undone"):
        run(tiny.config(**QUICK), tmp_path, only="pretrain", build=never)


def test_a_phase_whose_source_is_not_finished_is_refused(tmp_path):
    with pytest.raises(ValueError, match="phase 'distil' needs phase 'pretrain', which is not finished"):
        run(tiny.config(**QUICK), tmp_path, only="distil", build=tiny.build)


def test_an_unknown_phase_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--phase is 'tune'; config\.train\.phases has pretrain, distil"):
        run(tiny.config(**QUICK), tmp_path, only="tune", build=never)


def test_a_work_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="cannot be written"):
        run(tiny.config(**QUICK), tmp_path / "file", build=never)


def test_a_report_lost_to_a_kill_after_the_last_checkpoint_is_written_again(finished, tmp_path):
    workdir, results = finished
    shutil.copytree(workdir / "pretrain", tmp_path / "pretrain")
    (tmp_path / "pretrain" / "done.json").unlink()
    again = run(tiny.config(**QUICK), tmp_path, only="pretrain", build=tiny.build)["pretrain"]
    for figure in ("tokens", "seconds", "tokens_per_second", "losses", "evaluation", "skipped"):
        assert again[figure] == results["pretrain"][figure], figure
    jax.tree.map(
        np.testing.assert_array_equal,
        Checkpoint.open(tmp_path / "pretrain").params,
        Checkpoint.open(workdir / "pretrain").params,
    )
