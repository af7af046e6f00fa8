"""Which rows of which group each tile of a kernel holds, as arrays of scalars that a kernel can look up."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowTiles:
    """Tiles in the order of their rows: the rows [first, end) of a tile are of `group`, int32[n] each.

    Rows of no group make up one more group, of index E. n bounds the number of tiles for all group sizes: only the
    first `count[1]` exist, and of these the first `count[0]` have a group, int32[2]. A tile lies at the last multiple
    of `align` that is not past `first`.
    """

    group: jax.Array
    first: jax.Array
    end: jax.Array
    count: jax.Array


def row_tiles(group_sizes_E: jax.Array, num_rows: int, *, tile: int, align: int, min_per_group: int = 0) -> RowTiles:
    """Cut each group every `tile` rows, beginning at the last multiple of `align` that is not past its first row.

    With `align` = `tile` all cuts are at multiples of the tile, and a tile of rows that holds several groups is listed
    for each. A smaller `align`, which divides `tile`, saves about half of these. With `min_per_group` = 1 an empty
    group has a tile, of no rows.
    """
    sizes_E = group_sizes_E.astype(jnp.int32)
    sizes_G = jnp.append(sizes_E, num_rows - sizes_E.sum(dtype=jnp.int32))
    end_G = jnp.cumsum(sizes_G, dtype=jnp.int32)
    begin_G = end_G - sizes_G
    cut_G = jnp.minimum(begin_G, num_rows - 1) // align * align
    num_G = jnp.where(sizes_G > 0, (end_G - cut_G + tile - 1) // tile, min_per_group)
    last_G = jnp.cumsum(num_G, dtype=jnp.int32)
    bound = (num_rows + sizes_G.size * (tile + align - 2)) // tile + sizes_G.size * min_per_group
    index_n = jnp.arange(bound, dtype=jnp.int32)
    group_n = jnp.minimum((last_G <= index_n[:, None]).sum(1, dtype=jnp.int32), sizes_G.size - 1)
    cut_n = cut_G[group_n] + (index_n - (last_G - num_G)[group_n]) * tile
    return RowTiles(
        group_n, jnp.maximum(cut_n, begin_G[group_n]), jnp.minimum(cut_n + tile, end_G[group_n]), last_G[-2:]
    )
