"""S5: HiPPO-LegS eigenvalues, zero-order hold and the reset, against closed forms and a sequential oracle."""

import jax
import jax.numpy as jnp
import numpy as np

from model.config import RecurrentConfig
from model.hippo import legs_eigenvalues
from model.init import Init
from model.recurrent import Recurrent
from model.structure import structure_of

N, D, T = 8, 6, 20


def layer() -> Recurrent:
    return Recurrent(Init(jax.random.key(0)), RecurrentConfig(num_states=N), D)


def test_eigenvalues_are_those_of_the_normal_part_of_hippo_legs():
    """The normal part is -1/2 I + K with K skew, K[n,k] = -sqrt(n+1/2) sqrt(k+1/2) * sign(n-k)."""
    root = np.sqrt(np.arange(2 * N) + 0.5)
    difference = np.arange(2 * N)[:, None] - np.arange(2 * N)
    matrix = -0.5 * np.eye(2 * N) - np.outer(root, root) * np.sign(difference)
    expected = np.linalg.eigvals(matrix)
    expected = expected[expected.imag > 0]
    eigenvalues, vectors = legs_eigenvalues(N)
    np.testing.assert_allclose(eigenvalues.real, -0.5, atol=1e-12)
    np.testing.assert_allclose(np.sort(eigenvalues.imag), np.sort(expected.imag), rtol=1e-9)
    np.testing.assert_allclose(matrix @ vectors, vectors * eigenvalues, atol=1e-9)


def test_discretisation_is_zero_order_hold():
    """exp(lambda dt) and integral_0^dt exp(lambda s) ds, the second by quadrature."""
    module = layer()
    a_re, a_im, b_re, b_im = module.discretised()
    eigenvalue = -np.exp(np.asarray(module.log_decay[...], "f8")) + 1j * np.asarray(module.frequency[...], "f8")
    dt = np.exp(np.asarray(module.log_dt[...], "f8"))
    s = (np.arange(4000) + 0.5) / 4000
    np.testing.assert_allclose(a_re + 1j * a_im, np.exp(eigenvalue * dt), atol=1e-6)
    integral = np.mean(np.exp(eigenvalue[:, None] * dt[:, None] * s), axis=1) * dt
    np.testing.assert_allclose(b_re + 1j * b_im, integral, atol=1e-6)
    assert np.all((dt >= 1e-3) & (dt <= 1e-1))
    assert len(np.unique(dt)) == N


def test_layer_equals_a_sequential_complex_recurrence_with_resets():
    module = layer()
    rng = np.random.default_rng(0)
    x_BTD = rng.normal(size=(2, T, D)).astype("f4")
    segment_ids = np.sort(rng.integers(1, 5, (2, T)), axis=1).astype("i4")
    structure = structure_of(jnp.array(segment_ids), jnp.zeros((2, T), "i4"), jnp.zeros((2, T), "i4"))

    plane = lambda re, im: np.asarray(re[...], "f8") + 1j * np.asarray(im[...], "f8")  # noqa: E731
    a, b = (np.asarray(x, "f8") for x in (module.discretised()[0], module.discretised()[2]))
    a, b = a + 1j * np.asarray(module.discretised()[1]), b + 1j * np.asarray(module.discretised()[3])
    B, C = plane(module.input_re, module.input_im), plane(module.output_re, module.output_im)
    y = np.zeros_like(x_BTD, "f8")
    for row in range(2):
        state = np.zeros(N, complex)
        for t in range(T):
            if t == 0 or segment_ids[row, t] != segment_ids[row, t - 1]:
                state = np.zeros(N, complex)
            state = a * state + b * (x_BTD[row, t] @ B)
            y[row, t] = 2 * (state @ C).real + np.asarray(module.skip[...]) * x_BTD[row, t]
    y = np.asarray(jax.nn.gelu(y))
    expected = (y / (1 + np.exp(-(y @ np.asarray(module.gate[...]))))) @ np.asarray(module.out[...])
    actual, kept = module(jnp.array(x_BTD), structure)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert kept is None


def test_complex_matrices_have_both_planes_from_one_draw():
    """B = V^-1 B~ with B~ real: V B must be real again when the conjugate half is added."""
    module = layer()
    _, vectors = legs_eigenvalues(N)
    full = 2 * (vectors @ (np.asarray(module.input_re[...]) + 1j * np.asarray(module.input_im[...])).T).real
    half = vectors @ (np.asarray(module.input_re[...]) + 1j * np.asarray(module.input_im[...])).T
    np.testing.assert_allclose(full, half + half.conj(), atol=1e-6)
    np.testing.assert_allclose(np.std(full), D**-0.5, rtol=0.25)
