"""Each op from its definition, on whole arrays in float32, for JAX to differentiate."""

import jax
import jax.numpy as jnp


def attention(q_BTHh, k_BSKh, v_BSKh, allowed_BTS, scale, softcap=None):
    """out and lse of softmax over the allowed keys; out 0 and lse -1e30 where there are none."""
    q, k, v = (x.astype(jnp.float32) for x in (q_BTHh, k_BSKh, v_BSKh))
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    s_BTHS = jnp.einsum("BTHh,BSHh->BTHS", q, k) * scale
    s_BTHS = s_BTHS if softcap is None else softcap * jnp.tanh(s_BTHS / softcap)
    allowed_BT1S = jnp.asarray(allowed_BTS)[:, :, None]
    some_BT11 = allowed_BT1S.any(-1, keepdims=True)
    s_BTHS = jnp.where(allowed_BT1S, s_BTHS, jnp.where(some_BT11, -jnp.inf, 0.0))
    p_BTHS = jnp.where(some_BT11, jax.nn.softmax(s_BTHS, -1), 0.0)
    lse_BTH = jnp.where(some_BT11[..., 0], jax.nn.logsumexp(s_BTHS, -1), -1e30)
    return jnp.einsum("BTHS,BSHh->BTHh", p_BTHS, v), lse_BTH


def scan(a_re, a_im, x_re_BTN, x_im_BTN, keep_BT):
    """h_t = a_t keep_t h_{t-1} + x_t, one step after another in complex numbers, from h = 0."""
    x = x_re_BTN.astype(jnp.float32) + 1j * x_im_BTN.astype(jnp.float32)
    a = jnp.broadcast_to(a_re + 1j * a_im, x.shape)

    def step(h, inputs):
        a_t, x_t, keep_t = inputs
        h = a_t * (keep_t[:, None] * h) + x_t
        return h, h

    steps = jax.tree.map(lambda z: jnp.swapaxes(jnp.asarray(z), 0, 1), (a, x, keep_BT))
    h = jnp.swapaxes(jax.lax.scan(step, jnp.zeros_like(x[:, 0]), steps)[1], 0, 1)
    return h.real, h.imag


def grouped(x_MD, w_EDF, sizes_E):
    """Each row times the matrix of its group, 0 for rows of no group."""
    ends_E = jnp.cumsum(sizes_E)
    group_M = (jnp.arange(x_MD.shape[0])[:, None] >= ends_E).sum(-1)
    one_hot_ME = (group_M[:, None] == jnp.arange(ends_E.size)).astype(jnp.float32)
    return jnp.einsum("ME,MD,EDF->MF", one_hot_ME, x_MD.astype(jnp.float32), w_EDF.astype(jnp.float32))
