"""The answers that every implementation is checked against: float32 at full precision, on an independent slice.

Attention and the scan use the plain-JAX backend of `pallas_kernels`, which the tests hold against NumPy; the rest is
written out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.kernels.cases import Arrays, Attention, Case, Decode, Experts, GroupedMatmul, Scan
from pallas_kernels.diagonal_scan import diagonal_scan
from pallas_kernels.interval_attention import interval_attention


def answers(case: Case) -> Arrays:
    """Outputs by their names and gradients as `d_<input>`, of inputs rounded to the case's dtype."""
    rounded = lambda name, x: jnp.asarray(case.slice_of(name, x)).astype(case.dtype).astype(jnp.float32)  # noqa: E731
    inputs = {name: rounded(name, x) for name, x in case.inputs().items()}
    constants = {name: np.asarray(case.slice_of(name, x)) for name, x in case.constants().items()}
    function = functools.partial(_OPERATIONS[case.operation], case, constants)
    d_outputs = tuple(rounded(name, x) for name, x in case.cotangents().items())

    @jax.jit
    def compute(d_outputs, *inputs):
        outputs, pull = jax.vjp(function, *inputs) if d_outputs else (function(*inputs), None)
        return outputs, pull(d_outputs) if pull else ()

    with jax.default_matmul_precision("highest"):
        outputs, gradients = compute(d_outputs, *inputs.values())
    found = dict(zip(case.outputs, outputs, strict=True))
    found |= {f"d_{name}": x for name, x in zip(inputs, gradients, strict=False)}
    return {name: np.asarray(x) for name, x in found.items()}


def _attention(case: Attention, constants: Arrays, q_BTHh, k_BSKh, v_BSKh):
    lo_BT, hi_BT = constants["lo"], constants["hi"]
    block = 512 if case.tokens > 1024 else 128
    out_BTHh, _ = interval_attention(
        q_BTHh, k_BSKh, v_BSKh, lo_BT, hi_BT, scale=case.scale, block=block, backend="reference"
    )
    return (out_BTHh,)


def _scan(case: Scan, constants: Arrays, a_re, a_im, x_re, x_im):
    del case
    return diagonal_scan(a_re, a_im, x_re, x_im, constants["keep"], backend="reference")[:2]


def _grouped_matmul(case: GroupedMatmul, constants: Arrays, x_MD, w_EDF):
    del case
    return (jnp.concatenate([x @ w for x, w in zip(_groups(x_MD, constants["sizes"]), w_EDF, strict=True)]),)


def _experts(case: Experts, constants: Arrays, x_MD, gate_up_EDF, down_EFD):
    del case
    outs = []
    for x_mD, gate_up, down in zip(_groups(x_MD, constants["sizes"]), gate_up_EDF, down_EFD, strict=True):
        gate, up = jnp.split(x_mD @ gate_up, 2, axis=-1)
        outs.append((jax.nn.silu(gate) * up) @ down)
    return (jnp.concatenate(outs),)


def _decode(case: Decode, constants: Arrays, q_BTHh, k_BSKh, v_BSKh):
    position_B1S, lo_B11, hi_B11 = (
        constants["position"][:, None],
        constants["lo"][..., None],
        constants["hi"][..., None],
    )
    allowed_BS = ((lo_B11 <= position_B1S) & (position_B1S < hi_B11))[:, 0]
    q_BKGh = q_BTHh.reshape(q_BTHh.shape[0], case.num_kv_heads, -1, case.head_dim)
    scores_BKGS = jnp.einsum("bkgh,bskh->bkgs", q_BKGh, k_BSKh) * case.scale
    weights_BKGS = jax.nn.softmax(jnp.where(allowed_BS[:, None, None], scores_BKGS, -jnp.inf))
    return (jnp.einsum("bkgs,bskh->bkgh", weights_BKGS, v_BSKh).reshape(q_BTHh.shape),)


def _groups(x_MD, sizes_E: np.ndarray) -> list[Any]:
    return jnp.split(x_MD, np.cumsum(sizes_E)[:-1])


_OPERATIONS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "attention": _attention,
    "scan": _scan,
    "grouped_matmul": _grouped_matmul,
    "experts": _experts,
    "decode": _decode,
    "matmul": lambda case, constants, x, w: (x @ w,),
    "copy": lambda case, constants, x: (x,),
}
