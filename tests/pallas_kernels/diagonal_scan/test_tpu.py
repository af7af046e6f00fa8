import pytest

from pallas_kernels.diagonal_scan import tpu
from tests.pallas_kernels.diagonal_scan import cases


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("device_kind", ["TPU v5p", "TPU v6 lite", "TPU7x"])
def test_lowers_for_tpus_without_one(kind, device_kind):
    for shape in ((1, 131072, 4096), (2, 100, 640)):
        for text in cases.lower(tpu, "tpu", device_kind, kind, *shape):
            assert "tpu_custom_call" in text
