"""Inputs of the scan, its definition in float64, and what the tests of all kernels ask of it."""

import contextlib
import io

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import backend

KINDS = ("one coefficient", "a coefficient per step")


def planes(rng, *shape):
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))


def coefficients(rng, kind, B, T, N):
    """Of modulus 0.8 to 1."""
    shape = (N,) if kind == KINDS[0] else (B, T, N)
    modulus, angle = rng.uniform(0.8, 1.0, shape), rng.uniform(-3, 3, shape)
    return jnp.asarray(modulus * np.cos(angle), jnp.float32), jnp.asarray(modulus * np.sin(angle), jnp.float32)


def inputs(kind, B, T, N, keep=None):
    """a, x, keep, h0, d_h; resets at every eighth step or so unless given."""
    rng = np.random.default_rng(0)
    keep = (rng.random((B, T)) > 0.12) if keep is None else keep
    keep = jnp.asarray(keep, jnp.float32)
    return coefficients(rng, kind, B, T, N), planes(rng, B, T, N), keep, planes(rng, B, N), planes(rng, B, T, N)


def run(module, a, x, keep, h0, d_h):
    """h, (d_a, d_x, d_h0) from a backend."""
    h = module.forward(a, x, keep, h0)
    return h, module.backward(a, keep, h0, h, d_h)


def emulate_twice(module, name, given):
    """Two runs in the simulator, with what it says of races (JAX 0.12 raises instead)."""
    compute = jax.jit(lambda *args: run(module, *args))
    with backend.emulate(name, detect_races=True), contextlib.redirect_stdout(io.StringIO()) as said:
        runs = [jax.block_until_ready(compute(*given)) for _ in range(2)]
    return *runs, said.getvalue()


def definition(a, x, keep, h0, d_h):
    """The same by the definition, one step after another in complex float64."""
    a, x, h0, d_h = (np.asarray(z[0], np.float64) + 1j * np.asarray(z[1], np.float64) for z in (a, x, h0, d_h))
    keep = np.asarray(keep, np.float64)[..., None]
    a_BTN = np.broadcast_to(a, x.shape)
    h, d_a, d_x = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    state = h0
    for t in range(x.shape[1]):
        h[:, t] = state = a_BTN[:, t] * keep[:, t] * state + x[:, t]
    later = np.zeros_like(h0)
    for t in reversed(range(x.shape[1])):
        d_x[:, t] = d_h[:, t] + later
        d_a[:, t] = np.conj(keep[:, t] * (h[:, t - 1] if t else h0)) * d_x[:, t]
        later = np.conj(a_BTN[:, t]) * keep[:, t] * d_x[:, t]
    d_a = d_a.sum((0, 1)) if a.ndim == 1 else d_a
    return tuple((z.real, z.imag) for z in (h, d_a, d_x, later))


def assert_close(actual, expected, tolerance=1e-5):
    """Each array to `tolerance` times its largest element."""
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
        assert got.shape == want.shape
        assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


def assert_same(first, second):
    """Bit for bit."""
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def structs(kind, B, T, N):
    """a, x, keep, h0 as shapes, of which forward and backward are traced without computing anything."""
    a, x, keep, h0 = ((N,) if kind == KINDS[0] else (B, T, N)), (B, T, N), (B, T), (B, N)
    pair = lambda shape: (jax.ShapeDtypeStruct(shape, jnp.float32),) * 2  # noqa: E731
    return pair(a), pair(x), jax.ShapeDtypeStruct(keep, jnp.float32), pair(h0)


def lower(module, platform, device_kind, kind, B, T, N):
    """The text of forward and backward, lowered for a device that this machine need not have."""
    a, x, keep, h0 = structs(kind, B, T, N)
    device = jax.sharding.AbstractDevice(device_kind=device_kind, num_cores=1, platform=platform)
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device)):
        calls = ((module.forward, (a, x, keep, h0)), (module.backward, (a, keep, h0, x, x)))
        return [jax.export.export(jax.jit(f), platforms=[platform])(*args).mlir_module() for f, args in calls]
