"""S5: a diagonal complex state-space layer, reset wherever a packed segment begins (arXiv 2208.04933, 2303.03982)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from model.cache import StateCache
from model.config import Kernels, RecurrentConfig
from model.hippo import legs_eigenvalues
from model.init import Init, fan_in, normal
from model.sharded_scan import scan
from model.structure import Structure
from pallas_kernels.diagonal_scan import diagonal_scan


class Recurrent(nnx.Module):
    """h_t = A keep_t h_{t-1} + B u_t, y_t = 2 Re(C h_t) + d u_t, then a gated linear unit.

    Zero-order hold: A = exp(lambda dt), B = (A - 1) / lambda * B~, with one step size dt per state. Conjugate
    symmetry: only the N states with positive imaginary part are kept, hence 2 Re. The scan runs in float32.
    """

    def __init__(self, init: Init, config: RecurrentConfig, model_dim: int, kernels: Kernels = "auto"):
        self.kernels: Kernels = kernels
        D, N = model_dim, config.num_states
        eigenvalues, vectors_PN = legs_eigenvalues(N)
        low, high = np.log(config.dt_min), np.log(config.dt_max)

        def input_matrix(part):  # V^-1 B~ with B~ [P, D] of variance 1 / D, S5 appendix B.1.2
            return lambda key, shape: part(vectors_PN.conj().T @ jax.random.normal(key, (2 * N, D))).T * D**-0.5

        def output_matrix(part):  # C~ V with C~ [D, P] complex of variance 1 / P
            def sample(key, shape):
                re, im = jax.random.normal(key, (2, D, 2 * N)) * (0.5 / (2 * N)) ** 0.5
                return part((re + 1j * im) @ vectors_PN).T

            return sample

        state, both = ("state",), ("embed", "state")
        self.log_decay = init.param("log_decay", (N,), state, lambda k, s: jnp.log(-jnp.array(eigenvalues.real, "f4")))
        self.frequency = init.param("frequency", (N,), state, lambda k, s: jnp.array(eigenvalues.imag, "f4"))
        self.log_dt = init.param("log_dt", (N,), state, lambda k, s: jax.random.uniform(k, s, minval=low, maxval=high))
        # One initialiser draws both parts from one key, so B and C are complex matrices and not two unrelated real
        # ones.
        self.input_re, self.input_im = _complex(init, "input", (D, N), both, input_matrix)
        self.output_re, self.output_im = _complex(init, "output", (N, D), both[::-1], output_matrix)
        self.skip = init.param("skip", (D,), ("embed",), normal(1.0))
        self.gate = init.param("gate", (D, D), ("embed", "embed_out"), fan_in(D))
        self.out = init.param("out", (D, D), ("embed_out", "embed"), fan_in(D))

    def __call__(
        self, x_BTD: jax.Array, structure: Structure, cache: StateCache | None = None
    ) -> tuple[jax.Array, StateCache | None]:
        """Returns y_BTD, and the state after the row's last real slot where a cache is given."""
        dtype = x_BTD.dtype
        a_re, a_im, b_re, b_im = self.discretised()
        u_re = jnp.einsum("btd,dn->btn", x_BTD, self.input_re[...].astype(dtype)).astype(jnp.float32)
        u_im = jnp.einsum("btd,dn->btn", x_BTD, self.input_im[...].astype(dtype)).astype(jnp.float32)
        x_re, x_im = b_re * u_re - b_im * u_im, b_re * u_im + b_im * u_re
        if cache is None:
            h_re, h_im = scan((a_re, a_im), (x_re, x_im), structure.keep_BT, backend=self.kernels)
        else:
            h0 = (cache.re_BN, cache.im_BN)
            h_re, h_im, _ = diagonal_scan(a_re, a_im, x_re, x_im, structure.keep_BT, h0, backend=self.kernels)
        y_BTD = 2 * (
            jnp.einsum("btn,nd->btd", h_re.astype(dtype), self.output_re[...].astype(dtype))
            - jnp.einsum("btn,nd->btd", h_im.astype(dtype), self.output_im[...].astype(dtype))
        )
        y_BTD = jax.nn.gelu(y_BTD + self.skip[...].astype(dtype) * x_BTD)
        gate_BTD = jax.nn.sigmoid(y_BTD @ self.gate[...].astype(dtype))
        kept = None if cache is None else cache.after(h_re, h_im, structure)
        return (y_BTD * gate_BTD) @ self.out[...].astype(dtype), kept

    def discretised(self) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """A = exp(lambda dt) and the input factor (A - 1) / lambda as real and imaginary planes, each [N] (S5, eq.
        6)."""
        re, im = -jnp.exp(self.log_decay[...]), self.frequency[...]
        dt = jnp.exp(self.log_dt[...])
        radius = jnp.exp(re * dt)
        a_re, a_im = radius * jnp.cos(im * dt), radius * jnp.sin(im * dt)
        square = re * re + im * im
        b_re = ((a_re - 1) * re + a_im * im) / square
        b_im = (a_im * re - (a_re - 1) * im) / square
        return a_re, a_im, b_re, b_im


def _complex(init: Init, name, shape, axes, matrix):
    """Two parameters from the same random numbers: the real and the imaginary plane of one complex matrix."""
    planes = {plane: init.value(name, shape, matrix(part)) for plane, part in (("re", jnp.real), ("im", jnp.imag))}
    return tuple(nnx.Param(value, axes=init._axes(axes)) for value in planes.values())
