"""Transforms: each undoes itself, survives JSON, and is right where it can be checked by hand."""

import json

import numpy as np
import pytest

from data.statistics import Statistics
from data.transforms import ABSOLUTE, Bins, Compose, Normalise, RelativeActions, ResizeImage, Transform

GATO = Bins(1024, mu_law=(100, 256))


def sample_of(rng, action_width=4, proprio_width=6, chunk=5):
    return {
        "images": (rng.integers(0, 256, size=(12, 16, 3)).astype(np.uint8),),
        "instruction": "push the red cube",
        "proprio": rng.normal(size=proprio_width).astype(np.float32),
        "actions": rng.normal(2, 3, size=(chunk, action_width)).astype(np.float32),
    }


def statistics_of(rng):
    return Statistics.from_values("arm", proprio=rng.normal(size=(90, 6)), actions=rng.normal(size=(90, 4)))


def test_every_action_of_a_chunk_is_an_offset_from_the_same_state_and_the_gripper_stays_absolute():
    relative = RelativeActions((1, 2, ABSOLUTE))
    sample = {"proprio": np.array([9, 10, 20, 30], np.float32), "actions": np.array([[11, 22, 1], [13, 24, 0]], "f")}
    assert relative(sample)["actions"].tolist() == [[1, 2, 1], [3, 4, 0]]
    assert relative.inverse(relative(sample))["actions"].tolist() == sample["actions"].tolist()


def test_relative_actions_work_on_a_batch_as_on_each_sample():
    rng = np.random.default_rng(0)
    relative = RelativeActions((0, ABSOLUTE, 3, 2))
    samples = [sample_of(rng) for _ in range(3)]
    batch = {key: np.stack([sample[key] for sample in samples]) for key in ("proprio", "actions")}
    expected = np.stack([relative(sample)["actions"] for sample in samples])
    assert (relative(batch)["actions"] == expected).all()
    np.testing.assert_allclose(relative.inverse(relative(batch))["actions"], batch["actions"], atol=1e-5)


def test_normalised_values_have_mean_0_and_deviation_1():
    values_NA = np.random.default_rng(0).normal(5, [1, 20], size=(400, 2)).astype(np.float32)
    normal = Normalise(Statistics.from_values("arm", actions=values_NA))({"actions": values_NA})["actions"]
    np.testing.assert_allclose(normal.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(normal.std(axis=0), 1, atol=1e-5)


def test_quantile_mode_sends_q01_to_minus_1_and_q99_to_1():
    values_NA = np.arange(101, dtype=np.float32)[:, None]  # q01 is 1, q99 is 99
    normalise = Normalise(Statistics.from_values("arm", actions=values_NA), mode="quantile")
    normal = normalise({"actions": np.array([[1], [50], [99], [148]], np.float32)})["actions"]
    np.testing.assert_allclose(normal[:, 0], [-1, 0, 1, 2], atol=1e-6)


@pytest.mark.parametrize("mode", ["mean_std", "quantile"])
def test_a_dim_that_never_varies_becomes_0_and_comes_back(mode):
    values_NA = np.array([[0.1, 1], [0.1, 2], [0.1, 3]], np.float32)
    normalise = Normalise(Statistics.from_values("arm", actions=values_NA), mode)
    normal = normalise({"actions": values_NA})
    np.testing.assert_allclose(normal["actions"][:, 0], 0, atol=1e-6)
    np.testing.assert_allclose(normalise.inverse(normal)["actions"], values_NA, atol=1e-6)


@pytest.mark.parametrize("mode", ["mean_std", "quantile"])
def test_the_inverse_of_a_composition_gives_back_the_robots_units(mode):
    rng = np.random.default_rng(3)
    relative = RelativeActions((2, 3, 4, ABSOLUTE))
    transform = Compose((relative, Normalise(statistics_of(rng), mode)))
    sample = sample_of(rng)
    back = transform.inverse(transform(sample))
    for key in ("actions", "proprio"):
        np.testing.assert_allclose(back[key], sample[key], atol=1e-5)


def test_an_observation_without_actions_is_transformed_as_in_training():
    rng = np.random.default_rng(4)
    relative = RelativeActions((2, 3, 4, ABSOLUTE))
    transform = Compose((ResizeImage(6, 8), relative, Normalise(statistics_of(rng))))
    sample = sample_of(rng)
    full, seen = transform(sample), transform({k: v for k, v in sample.items() if k != "actions"})
    assert set(seen) == set(full) - {"actions"}
    assert (seen["proprio"] == full["proprio"]).all()
    assert (seen["images"][0] == full["images"][0]).all()


def test_transforms_come_back_from_json_and_do_the_same():
    rng = np.random.default_rng(5)
    relative = RelativeActions((0, 1, 2, ABSOLUTE))
    transform = Compose((ResizeImage(6, 8), relative, Normalise(statistics_of(rng), "quantile"), GATO))
    again = Transform.from_dict(json.loads(json.dumps(transform.to_dict())))
    assert again == transform
    sample = sample_of(rng)
    assert (again(sample)["action_ids"] == transform(sample)["action_ids"]).all()


def test_relative_actions_of_the_first_checkpoints_still_load():
    record = {"type": "RelativeActions", "mask": [True, False, True], "state": [2, 5]}
    assert Transform.from_dict(record) == RelativeActions((2, ABSOLUTE, 4))


@pytest.mark.parametrize(("x", "companded"), [(0, 0), (1, 0.45467), (256, 1), (-256, -1)])
def test_mu_law_golden_values_of_gato(x, companded):
    expected = min(1023, int((companded + 1) / 2 * 1024))
    assert GATO.encode(np.array([x])).tolist() == [expected]


def test_zero_is_token_512_of_1024():
    assert GATO.encode(np.zeros(3)).tolist() == [512] * 3


@pytest.mark.parametrize("bins", [Bins(256), Bins(10, -2, 7), Bins(1000, 0, 1000)])
def test_binning_is_off_by_at_most_half_a_bin(bins):
    values = np.linspace(bins.low, bins.high, 4001)
    half = (bins.high - bins.low) / bins.num_bins / 2
    assert np.abs(bins.decode(bins.encode(values)) - values).max() <= half * (1 + 1e-4)


def test_mu_law_binning_is_off_by_at_most_half_a_bin_of_the_companded_range():
    values = np.concatenate([-np.geomspace(1e-3, 256, 500), np.geomspace(1e-3, 256, 500)])
    compand = lambda x: np.sign(x) * np.log(np.abs(x) * 100 + 1) / np.log(25601)  # noqa: E731
    error = np.abs(compand(GATO.decode(GATO.encode(values)).astype(np.float64)) - compand(values))
    assert error.max() <= 1 / 1024 * (1 + 1e-4)


def test_every_bin_centre_comes_back_to_its_bin():
    for bins in (GATO, Bins(255, -3, 3)):
        ids = np.arange(bins.num_bins)
        assert (bins.encode(bins.decode(ids)) == ids).all()


def test_values_outside_the_range_fall_into_the_outer_bins():
    assert Bins(8).encode(np.array([-9.0, 9.0])).tolist() == [0, 7]


def test_resizing_keeps_a_flat_image_flat_and_its_size_as_asked():
    resized = ResizeImage(10, 14)({"images": (np.full((40, 30, 3), 77, np.uint8),)})["images"][0]
    assert resized.shape == (10, 14, 3)
    assert (resized == 77).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: RelativeActions((0, -2)),
            r"dims are \[0, -2\]; give for each action dim .* -1 for one that stays absolute",
        ),
        (lambda: RelativeActions(()), r"dims are \[\]"),
        (lambda: Normalise(statistics_of(np.random.default_rng(0)), "minmax"), "mode is 'minmax'; allowed"),
        (lambda: Bins(1), "num_bins >= 2"),
        (lambda: Bins(4).encode(np.array([np.nan])), "NaN or infinity"),
        (lambda: Bins(4).decode(np.array([4])), "allowed are 0..3"),
        (lambda: Transform.from_dict({"type": "Wobble"}), "type 'Wobble' is unknown"),
        (lambda: Transform.from_dict({"type": "ResizeImage", "depth": 3}), "depth"),
    ],
)
def test_wrong_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_actions_of_another_embodiment_are_refused():
    sample = sample_of(np.random.default_rng(0), action_width=3)
    with pytest.raises(ValueError, match="actions has 3 dims, the statistics of embodiment 'arm' have 4"):
        Normalise(statistics_of(np.random.default_rng(0)))(sample)
    with pytest.raises(ValueError, match=r"actions have 3 dims.*made for 4 actions"):
        RelativeActions((0, 1, 2, 3))(sample)
    with pytest.raises(ValueError, match=r"proprio 6; dims \[0, 1, 6\] were made for 3 actions"):
        RelativeActions((0, 1, 6))(sample)
