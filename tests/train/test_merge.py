"""Merging of policies: the geometry of one weight, whole checkpoints, and what is refused."""

import jax
import numpy as np
import pytest

from tests.train import tiny
from train.checkpoint import Checkpoint
from train.merge import main, merge, merged_weight, slerp
from train.phases import run

QUICK = {"train/steps": 2, "phases/pretrain/optimizer/kind": "adamw", "phases/distil/optimizer/kind": "adamw"}


def rotated(degrees: float) -> np.ndarray:
    return np.array([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))])


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_slerp_turns_evenly_and_keeps_the_length(share):
    np.testing.assert_allclose(slerp(3 * rotated(10), 3 * rotated(90), share), 3 * rotated(10 + 80 * share), atol=1e-12)


def test_slerp_is_a_straight_line_where_there_is_no_angle():
    np.testing.assert_allclose(slerp(np.array([2.0, 0]), np.array([4.0, 0]), 0.5), [3, 0])
    np.testing.assert_allclose(slerp(np.zeros(2), np.array([4.0, 0]), 0.25), [1, 0])
    np.testing.assert_allclose(slerp(np.array([2.0, 0]), np.array([-2.0, 0]), 0.5), [0, 0], atol=1e-12)


def test_a_weight_moves_by_the_spherical_mean_of_the_moves_and_a_share_of_it():
    init = np.array([5.0, -1.0], np.float32)
    policies = [init + rotated(0), init + rotated(90)]
    for share in (1.0, 0.3):
        found = merged_weight(init, policies, share, stacked=False)
        np.testing.assert_allclose(found, init + share * rotated(45), rtol=1e-6)
        assert found.dtype == np.float32
    three = merged_weight(init, [*policies, init + rotated(45)], 1.0, stacked=False)
    np.testing.assert_allclose(three, init + rotated(45), rtol=1e-6)


def test_layers_that_are_stacked_turn_each_by_itself():
    init = np.zeros((2, 2))
    one, other = np.array([rotated(0), rotated(90)]), np.array([rotated(40), 2 * rotated(90)])
    found = merged_weight(init, [one, other], 1.0, stacked=True)
    np.testing.assert_allclose(found, [rotated(20), 1.5 * rotated(90)], atol=1e-12)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """init, and two policies from it."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.metrics.peak_flops", lambda: (1e9, "given"))
        run(tiny.config(**QUICK), folder / "0", build=tiny.build, only="pretrain")
        for name, rate in (("1", 0.02), ("2", 0.05)):
            (folder / name).mkdir()
            (folder / name / "pretrain").symlink_to(folder / "0" / "pretrain")
            config = tiny.config(**QUICK, **{"phases/distil/optimizer/learning_rate": rate})
            run(config, folder / name, build=tiny.build, only="distil")
    return folder / "0" / "pretrain", folder / "1" / "distil", folder / "2" / "distil"


def test_a_policy_merged_alone_and_whole_is_itself_and_a_share_lies_between(runs):
    init, policy = (Checkpoint.open(path) for path in runs[:2])
    whole, half = (merge(init, [policy], share) for share in (1.0, 0.5))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), whole, policy.weights)
    middle = jax.tree.map(lambda a, b: (a + b) / 2, init.weights, policy.weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), half, middle)


def test_the_command_writes_a_checkpoint_that_says_what_it_is_made_of(runs, tmp_path, capsys):
    init, *policies = map(str, runs)
    main([*policies, "--init", init, "--out", str(tmp_path / "merged"), "--share", "0.5"])
    assert "2 policies merged" in capsys.readouterr().out
    found = Checkpoint.open(tmp_path / "merged")
    assert found.meta["origin"]["share"] == 0.5
    expected = merge(Checkpoint.open(init), [Checkpoint.open(path) for path in policies], 0.5)
    jax.tree.map(np.testing.assert_array_equal, found.weights, expected)


def test_what_cannot_be_merged_is_refused_in_one_line(runs, tmp_path):
    init, policy, _ = map(str, runs)
    (tmp_path / "taken").mkdir()
    for arguments, message in (
        ([policy, "--init", init, "--out", str(tmp_path / "x"), "--share", "1.5"], "error: share is 1.5"),
        ([policy, "--init", str(tmp_path), "--out", str(tmp_path / "x")], "error: .* holds no finished checkpoint"),
        ([policy, "--init", init, "--out", str(tmp_path / "taken")], "error: --out .* exists"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(arguments)
