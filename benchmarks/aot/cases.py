"""What is compiled: every op at the shapes of production. Masks, resets and group sizes are data, not programs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.decode_attention import decode_attention
from pallas_kernels.diagonal_scan import diagonal_scan
from pallas_kernels.grouped_matmul import grouped_matmul
from pallas_kernels.interval_attention import interval_attention

__all__ = ["CASES", "Case"]

H, K = 16, 8  # query and key/value heads


@dataclasses.dataclass(frozen=True)
class Case:
    """A program: `function(*arguments, backend=...)`, or its gradient in the first `num_wrt` arguments.

    `fallback` names the backend that is known to leave this case to the reference.
    """

    function: Callable[..., Any]
    arguments: tuple[jax.ShapeDtypeStruct, ...]
    num_wrt: int = 0
    fallback: str = ""

    def program(self, backend: str) -> Callable[..., Any]:
        function = functools.partial(self.function, backend=backend)
        if not self.num_wrt:
            return function

        def gradient(*arguments):
            wrt, rest = arguments[: self.num_wrt], arguments[self.num_wrt :]
            out, pull_back = jax.vjp(lambda *wrt: function(*wrt, *rest), *wrt)
            return pull_back(jax.tree.map(jnp.ones_like, out))

        return gradient


def _attention(T: int, h: int, softcap: float | None = None, *, num_wrt: int = 0) -> Case:
    q_BTHh, k_BSKh, bound_BT = _bf16(1, T, H, h), _bf16(1, T, K, h), _int32(1, T)
    attend = functools.partial(interval_attention, scale=h**-0.5, softcap=softcap)
    return Case(attend, (q_BTHh, k_BSKh, k_BSKh, bound_BT, bound_BT), num_wrt)


def _decode(B: int, S: int, h: int, softcap: float | None = None) -> Case:
    q_BTHh, k_BSKh, bound_BT = _bf16(B, 1, H, h), _bf16(B, S, K, h), _int32(B, 1)
    attend = functools.partial(decode_attention, scale=h**-0.5, softcap=softcap)
    return Case(attend, (q_BTHh, k_BSKh, k_BSKh, _int32(B, S), bound_BT, bound_BT))


def _scan(T: int, N: int, per_step: bool, *, num_wrt: int = 0) -> Case:
    x_BTN = _float32(1, T, N)
    a = x_BTN if per_step else _float32(N)
    return Case(diagonal_scan, (a, a, x_BTN, x_BTN, _float32(1, T)), num_wrt)


def _grouped(M: int, D: int, F: int, E: int, *, num_wrt: int = 0) -> Case:
    return Case(grouped_matmul, (_bf16(M, D), _bf16(E, D, F), _int32(E)), num_wrt)


_bf16, _float32, _int32 = (
    (lambda *shape, dtype=dtype: jax.ShapeDtypeStruct(shape, dtype)) for dtype in (jnp.bfloat16, jnp.float32, jnp.int32)
)


def _cases() -> dict[str, Case]:
    forward = {
        **{f"interval_attention T=16384 h={h}": _attention(16384, h) for h in (64, 128, 256)},
        **{f"interval_attention T=16384 h={h} softcap": _attention(16384, h, 50.0) for h in (64, 128, 256)},
        "interval_attention T=65536 h=128": _attention(65536, 128),
        "interval_attention T=131072 h=128": _attention(131072, 128),
        "diagonal_scan T=131072 N=4096": _scan(131072, 4096, per_step=False),
        "diagonal_scan T=131072 N=2048 per step": _scan(131072, 2048, per_step=True),
        # 65536 tokens with 8 of 64 experts each: into the hidden units and back
        "grouped_matmul M=524288 D=2048 F=1024": _grouped(524288, 2048, 1024, 64),
        "grouped_matmul M=524288 D=1024 F=2048": _grouped(524288, 1024, 2048, 64),
    }
    num_wrt = {"interval_attention": 3, "diagonal_scan": 4, "grouped_matmul": 2}
    gradient = {
        f"{name}, gradient": dataclasses.replace(case, num_wrt=num_wrt[name.split()[0]])
        for name, case in forward.items()
    }
    decode = {
        # A TPU's memory holds heads of width 64 with gaps, and the copy without them would cost what decoding costs.
        "decode_attention B=64 S=32768 h=64": dataclasses.replace(_decode(64, 32768, 64), fallback="tpu"),
        **{f"decode_attention B=64 S=32768 h={h}": _decode(64, 32768, h) for h in (128, 256)},
        "decode_attention B=64 S=32768 h=128 softcap": _decode(64, 32768, 128, 50.0),
    }
    return forward | gradient | decode


CASES = _cases()
