"""Runs with checks and a fast disk for checkpoints."""

import jax
import numpy as np
import pytest

from tests.train import tiny
from train.checkpoint import Checkpoint
from train.checkpoints.whole import steps_in
from train.events import Events
from train.goodput.account import account
from train.phases import run


def config_of(**settings):
    changes = {f"train/{name}": value for name, value in settings.items()}
    config = tiny.config(**{"train/steps": 8, "train/checkpoint_every": 6, **changes})
    config.train.phases = ("pretrain",)
    del config.phases["distil"]
    return config


def test_checks_and_a_fast_disk_change_no_result(tmp_path):
    fast, plain, guarded = (tmp_path / name for name in ("fast", "plain", "guarded"))
    run(config_of(), plain, tiny.build)
    run(config_of(local_checkpoints=str(fast), local_every=2, integrity_every=3), guarded, tiny.build)
    expected, found = (Checkpoint.open(folder / "pretrain") for folder in (plain, guarded))
    for item in ("params", "ema", "buffers"):
        jax.tree.map(np.testing.assert_array_equal, getattr(found, item), getattr(expected, item))
    assert steps_in(guarded / "pretrain" / "checkpoints") == [6, 8]
    (local,) = fast.iterdir()
    assert steps_in(local) == [6, 8]
    assert account(guarded / "pretrain").seconds["check"] > 0


def test_a_run_goes_on_from_the_fast_disk_where_that_is_newer(tmp_path, monkeypatch):
    config = config_of(local_checkpoints=str(tmp_path / "fast"), local_every=2, checkpoint_every=100)

    def stop(told, step):
        if step == 5:
            raise RuntimeError("stop")

    with monkeypatch.context() as patch:
        patch.setattr(Events, "stepped", stop)
        with pytest.raises(RuntimeError, match="stop"):
            run(config, tmp_path / "run", tiny.build)
    assert steps_in(tmp_path / "run" / "pretrain" / "checkpoints") == []
    run(config, tmp_path / "run", tiny.build)
    starts = account(tmp_path / "run" / "pretrain").starts
    assert [(start["step"], start["why it ended"]) for start in starts] == [(0, "RuntimeError: stop"), (4, "finished")]
