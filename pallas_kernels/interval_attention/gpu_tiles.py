"""What the Hopper kernels of interval attention share: tiles in shared memory, products of tiles, rows and masks.

A tile of scores lives in the registers of one warpgroup in the layout of a wgmma accumulator, 64 rows high. A vector
with one entry for each of its rows has the layout ROWS, one with an entry for each of its columns COLUMNS.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.backend import emulating

HEAD_WIDTHS = (64, 128, 256)
LOG2_E = math.log2(math.e)
LN_2 = math.log(2.0)
ROWS = plgpu.Layout.WGMMA.reduce(1)
COLUMNS = plgpu.Layout.WGMMA.reduce(0)


def unsupported(q_BTHh: Any, k_BSKh: Any, *, softcap: float | None) -> str | None:
    """Why these kernels cannot serve arrays of such shapes and dtypes, or None."""
    del softcap
    if q_BTHh.shape[3] not in HEAD_WIDTHS:
        return f"head width {q_BTHh.shape[3]} is not one of {', '.join(map(str, HEAD_WIDTHS))}"
    if q_BTHh.dtype != k_BSKh.dtype or q_BTHh.dtype not in (jnp.bfloat16, jnp.float16):
        return f"q is {q_BTHh.dtype} and k {k_BSKh.dtype}; the tensor cores want both bfloat16 or both float16"
    return None


def smem(shape: tuple[int, ...], dtype: Any) -> Any:
    """A shared-memory buffer of 16-bit matrices [..., rows, columns] in the layout that wgmma and TMA read."""
    transforms: Any = (plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))  # pyright: ignore[reportAbstractUsage]
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def product(a_MK: Any, b_KN: Any, meanwhile: Callable[[], Any] = lambda: None) -> jax.Array:
    """a @ b in float32, both in shared memory; `meanwhile` runs while the tensor cores are at it."""
    if emulating():
        return _simulated_product(a_MK, b_KN, meanwhile)

    def multiply(acc_ref):
        plgpu.wgmma(acc_ref, a_MK, b_KN)
        meanwhile()
        return acc_ref[...]

    return pl.run_scoped(multiply, plgpu.ACC((a_MK.shape[0], b_KN.shape[1]), jnp.float32))


def add_product(acc_MN: jax.Array, a_MK: Any, b_KN: Any, meanwhile: Callable[[], Any] = lambda: None) -> jax.Array:
    """acc + a @ b with a in registers or shared memory and b in shared memory, as `product`."""
    if emulating():
        return acc_MN + _simulated_product(a_MK, b_KN, meanwhile)

    def multiply(acc_ref):
        plgpu.wgmma(acc_ref, a_MK, b_KN)
        meanwhile()

    total_MN: Any = pl.run_state(multiply)(plgpu.ACC.init(acc_MN))
    return total_MN


def _simulated_product(a_MK, b_KN, meanwhile):
    """With plain reads, as late as wgmma's can be: the simulator knows neither accumulators with a start value nor
    operands in registers, and looks for races with plain reads only."""
    meanwhile()
    product_MN = jnp.dot(a_MK[...], b_KN[...], preferred_element_type=jnp.float32)
    plgpu.commit_smem()  # what was read may be overwritten
    return product_MN


def full(shape: tuple[int, ...], value: float, layout: Any) -> jax.Array:
    """A float32 constant in registers."""
    return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)


def along(vector: jax.Array, shape: tuple[int, ...], axis: int) -> jax.Array:
    """Repeat a vector over a tile: axis 0 for one entry per row, 1 for one per column."""
    return lax.broadcast_in_dim(vector, shape, [axis])


def load(ref: Any, layout: Any) -> jax.Array:
    """Read a vector from global or shared memory straight into the registers that need it."""
    return plgpu.load(ref, layout=layout, optimized=False)


def pad(x: jax.Array, axis: int, multiple: int) -> jax.Array:
    """Fill up one axis with zeros to a multiple; nothing is copied where it is one."""
    missing = -x.shape[axis] % multiple
    if not missing:
        return x
    return jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)])


def intervals(lo_BT: jax.Array, hi_BT: jax.Array, num_keys: int, q_tile: int) -> tuple[jax.Array, jax.Array]:
    """Intervals clipped to [0, num_keys] as int32, the rows that fill the last tile of queries without keys."""
    lo_BT, hi_BT = (jnp.clip(x, 0, num_keys).astype(jnp.int32) for x in (lo_BT, hi_BT))
    return pad(lo_BT, 1, q_tile), pad(hi_BT, 1, q_tile)
