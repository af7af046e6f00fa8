import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.grouped_matmul.tiles import row_tiles


@pytest.mark.parametrize(("tile", "align", "min_per_group"), [(16, 16, 0), (16, 16, 1), (16, 4, 0), (16, 1, 0)])
@hypothesis.given(cuts=st.lists(st.integers(0, 100), min_size=4, max_size=4))
@hypothesis.settings(deadline=None, max_examples=50)
def test_tiles_hold_every_row_once_in_order_and_with_its_group(tile, align, min_per_group, cuts):
    num_rows, sizes = 100, np.diff(sorted(cuts), prepend=0)
    tiles = row_tiles(jnp.asarray(sizes, jnp.int32), num_rows, tile=tile, align=align, min_per_group=min_per_group)
    with_group, count = (int(c) for c in tiles.count)
    assert with_group <= count <= tiles.group.size
    group, first, end = (np.asarray(z)[:count] for z in (tiles.group, tiles.first, tiles.end))
    rows = np.concatenate([np.arange(f, e) for f, e in zip(first, end, strict=True)])
    np.testing.assert_array_equal(rows, np.arange(num_rows))
    np.testing.assert_array_equal(
        np.repeat(group, end - first), np.repeat(np.arange(5), [*sizes, num_rows - sizes.sum()])
    )
    assert (end - first // align * align <= tile).all()
    assert (np.bincount(group[:with_group], minlength=4) >= min_per_group).all()
    assert (group[:with_group] < 4).all()
    assert (group[with_group:] == 4).all()


def test_small_alignment_visits_fewer_tiles():
    sizes = jnp.asarray([100] * 8, jnp.int32)
    counts = [int(row_tiles(sizes, 800, tile=64, align=align).count[1]) for align in (64, 8)]
    assert counts == [20, 16]
