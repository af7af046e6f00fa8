from __future__ import annotations

import pytest

from tests.eight_devices import results_of
from tests.sharding.context_cases import CASES


@pytest.fixture(scope="module")
def results():
    return results_of("tests.sharding.context_cases")


@pytest.mark.parametrize("case", CASES)
def test_exchanges_give_what_one_array_would(results, case):
    assert results[case]
