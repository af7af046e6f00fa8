import hypothesis
import hypothesis.extra.numpy as st_np
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.diagonal_scan import diagonal_scan

B, T, N = 2, 17, 5
rng = np.random.default_rng(0)


def planes(*shape):
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))


def stable(*shape):
    """Coefficients of modulus 0.8 to 1."""
    modulus, angle = rng.uniform(0.8, 1.0, shape), rng.uniform(-3, 3, shape)
    return jnp.asarray(modulus * np.cos(angle), jnp.float32), jnp.asarray(modulus * np.sin(angle), jnp.float32)


A = {"one coefficient": stable(N), "a coefficient per step": stable(B, T, N)}
X, H0 = planes(B, T, N), planes(B, N)
KEEP = np.ones((B, T), np.float32)
KEEP[0, [0, 6, 7]] = KEEP[1, 11] = 0

scan = jax.jit(lambda a, x, keep, h0: diagonal_scan(*a, *x, keep, h0))


def sequential(a, x, keep, h0, xp=np):
    """The definition, in complex numbers, one step after another."""
    a, x, h = (z[0] + 1j * z[1] for z in (a, x, h0))
    a = xp.broadcast_to(a, x.shape)
    states = []
    for t in range(x.shape[1]):
        h = a[:, t] * (keep[:, t, None] * h) + x[:, t]
        states.append(h)
    return xp.stack(states, 1)


def assert_close(actual, expected, tolerance=1e-5):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.abs(np.asarray(a, np.float64) - np.asarray(e, np.float64)).max() <= tolerance * np.abs(e).max()


def assert_equals_sequential(a, x, keep, h0):
    h_re, h_im, last = scan(a, x, keep, h0)
    double = [tuple(np.asarray(plane, np.float64) for plane in pair) for pair in (a, x, h0)]
    want = sequential(double[0], double[1], keep, double[2])
    assert_close((h_re, h_im, last), (want.real, want.imag, (want[:, -1].real, want[:, -1].imag)))


@pytest.mark.parametrize("kind", A)
def test_values_equal_the_definition(kind):
    assert_equals_sequential(A[kind], X, KEEP, H0)


@pytest.mark.parametrize("kind", A)
@hypothesis.given(keep=st_np.arrays(np.float32, (B, T), elements=st.sampled_from([0.0, 1.0])))
@hypothesis.settings(deadline=None, max_examples=30)
def test_values_equal_the_definition_for_any_resets(kind, keep):
    assert_equals_sequential(A[kind], X, keep, H0)


@pytest.mark.parametrize("kind", A)
def test_gradients_equal_those_of_the_definition(kind):
    weights = jnp.cos(jnp.arange(2 * B * T * N, dtype=jnp.float32)).reshape(2, B, T, N)

    def loss(a, x, h0):
        h_re, h_im, last = diagonal_scan(*a, *x, jnp.asarray(KEEP), h0)
        return jnp.sum(weights[0] * h_re + weights[1] * h_im**2) + jnp.sum(last[0] * last[1])

    def loss_by_definition(a, x, h0):
        h = sequential(a, x, jnp.asarray(KEEP), h0, xp=jnp)
        last = h[:, -1]
        return jnp.sum(weights[0] * h.real + weights[1] * h.imag**2) + jnp.sum(last.real * last.imag)

    wrt = (0, 1, 2)
    assert_close(
        jax.jit(jax.grad(loss, wrt))(A[kind], X, H0), jax.jit(jax.grad(loss_by_definition, wrt))(A[kind], X, H0)
    )


def test_no_initial_state_means_zero():
    zero = (jnp.zeros((B, N)), jnp.zeros((B, N)))
    assert_close(diagonal_scan(*A["one coefficient"], *X, KEEP), scan(A["one coefficient"], X, KEEP, zero))


@pytest.mark.parametrize("kind", A)
@pytest.mark.parametrize("cut", [1, 6, 12])
def test_two_halves_with_the_carried_state_equal_the_whole(kind, cut):
    a = A[kind]
    halves = [[z if z.ndim == 1 else z[:, part] for z in a] for part in (np.s_[:cut], np.s_[cut:])]
    first = diagonal_scan(*halves[0], X[0][:, :cut], X[1][:, :cut], KEEP[:, :cut], H0)
    second = diagonal_scan(*halves[1], X[0][:, cut:], X[1][:, cut:], KEEP[:, cut:], first[2])
    whole = scan(a, X, KEEP, H0)
    assert_close([jnp.concatenate([first[i], second[i]], 1) for i in (0, 1)], whole[:2])
    assert_close(second[2], whole[2])


def test_a_packed_row_equals_its_segments_alone():
    a = A["one coefficient"]
    packed = scan(a, X, KEEP, H0)
    for begin, end in ((0, 6), (6, 7), (7, T)):
        alone = diagonal_scan(*a, X[0][:1, begin:end], X[1][:1, begin:end], jnp.ones((1, end - begin)))
        assert_close(alone[:2], [plane[:1, begin:end] for plane in packed[:2]])


def test_nothing_flows_back_across_a_reset():
    d_x, d_h0 = jax.grad(lambda x, h0: scan(A["one coefficient"], x, KEEP, h0)[0][:, 11:].sum(), (0, 1))(X, H0)
    assert not any(plane[1, :11].any() for plane in d_x)
    assert not any(plane[1].any() for plane in d_h0)
    assert all(plane[1, 11:].any() for plane in d_x)


def test_a_coefficient_of_zero_has_a_finite_gradient():
    zero = (jnp.zeros(N), jnp.zeros(N))
    h_re, _, _ = scan(zero, X, KEEP, H0)
    assert_close(h_re, X[0])
    d_a = jax.grad(lambda a: scan(a, X, KEEP, H0)[0].sum())(zero)
    h_before = np.concatenate([np.asarray(H0)[:, :, None], np.asarray(X)[:, :, :-1]], axis=2) * KEEP[..., None]
    assert_close(d_a, (h_before[0].sum((0, 1)), -h_before[1].sum((0, 1))))


def test_bfloat16_inputs_are_scanned_in_float32_and_get_bfloat16_gradients():
    half = tuple(x.astype(jnp.bfloat16) for x in X)
    h_re, _, last = scan(A["one coefficient"], half, KEEP, H0)
    assert h_re.dtype == last[0].dtype == jnp.float32
    d_x = jax.grad(lambda x: scan(A["one coefficient"], x, KEEP, H0)[1].sum())(half)
    assert d_x[0].dtype == jnp.bfloat16


def test_shapes_that_do_not_fit_are_refused_by_name():
    a = A["one coefficient"]
    with pytest.raises(ValueError, match=r"x_re, x_im, keep: got .*\(2, 16\); allowed are"):
        diagonal_scan(*a, *X, KEEP[:, 1:])
    with pytest.raises(ValueError, match=r"a_re, a_im: got \(4,\), \(4,\); allowed is \(5,\)"):
        diagonal_scan(a[0][1:], a[1][1:], *X, KEEP)
