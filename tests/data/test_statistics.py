"""Normalisation statistics: exact, and unchanged by the way through a checkpoint."""

import numpy as np
import pytest

from data.statistics import Statistics, describe


def test_statistics_agree_with_numpy_dim_by_dim():
    values_NA = np.random.default_rng(0).normal(3, [1, 10, 0.1], size=(501, 3)).astype(np.float32)
    found = describe(values_NA)
    for dim in range(3):
        column = np.sort(values_NA[:, dim].astype(np.float64))
        assert found["mean"][dim] == pytest.approx(sum(column) / 501)
        assert found["std"][dim] ** 2 == pytest.approx(sum((column - column.mean()) ** 2) / 501)
        assert (found["min"][dim], found["max"][dim]) == (column[0], column[-1])
        # 501 values: the q-quantile is exactly the value of rank 500 q
        ranks = {"q01": 5, "q10": 50, "q50": 250, "q90": 450, "q99": 495}
        assert {name: found[name][dim] for name in ranks} == pytest.approx({n: column[r] for n, r in ranks.items()})
    assert found["count"].tolist() == [501]


def test_one_value_is_its_own_quantile_and_does_not_vary():
    found = describe(np.array([[4.0]]))
    assert [found[name][0] for name in ("q01", "q50", "q99", "min", "max", "mean", "std")] == [4] * 6 + [0]


def test_statistics_survive_json_unchanged():
    rng = np.random.default_rng(1)
    statistics = Statistics.from_values("arm6", proprio=rng.normal(size=(50, 5)), actions=rng.normal(size=(80, 3)))
    assert Statistics.from_json(statistics.to_json()) == statistics
    assert statistics.features["actions"].count == 80
    assert statistics.features["proprio"].width == 5


def test_nan_is_refused_with_its_place():
    values_NA = np.zeros((5, 2))
    values_NA[3, 1] = np.nan
    with pytest.raises(ValueError, match="row 3 dim 1 is nan"):
        describe(values_NA)


def test_no_values_are_refused():
    with pytest.raises(ValueError, match=r"N >= 1, got shape \(0, 2\)"):
        describe(np.zeros((0, 2)))


def test_an_incomplete_record_is_refused():
    record = Statistics.from_values("arm6", actions=np.ones((3, 2))).to_dict()
    del record["features"]["actions"]["std"]
    with pytest.raises(ValueError, match=r"incomplete.*std"):
        Statistics.from_dict(record)


def test_a_record_whose_widths_differ_is_refused():
    record = Statistics.from_values("arm6", actions=np.ones((3, 2))).to_dict()
    record["features"]["actions"]["mean"] = [0.0]
    with pytest.raises(ValueError, match="widths differ"):
        Statistics.from_dict(record)
