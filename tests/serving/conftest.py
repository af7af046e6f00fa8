"""Fixtures that tests of this folder share."""

import pytest


@pytest.fixture(scope="session")
def split_checkpoint(tmp_path_factory):
    """See `tests.serving.split_robots`."""
    from tests.serving.split_robots import split_config, train

    folder = tmp_path_factory.mktemp("split")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.metrics.peak_flops", lambda: (1e9, "given"))
        return train(split_config(folder), folder / "run")
