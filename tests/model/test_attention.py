"""The attention layer against pairs of query and key written out one by one, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention import Attention
from model.config import AttentionConfig
from model.init import Init
from model.structure import structure_of
from tests.model.weights import random_like

D, T, H, K, h = 10, 14, 4, 2, 6
SEGMENT = np.array([1] * 5 + [2] * 7 + [0] * 2)
POSITION = np.array([*range(5), *range(7), 0, 0])
SPAN = np.array([0] * 6 + [1] * 3 + [0] * 5)  # slots 6 to 8 see each other in both directions
HEADS = {"num_heads": H, "num_kv_heads": K, "head_dim": h}
pytestmark = pytest.mark.usefixtures("quick_compilation")


def layer(config: AttentionConfig) -> Attention:
    """With random weights, learned norm scales and sinks included."""
    module = Attention(Init(jax.random.key(0)), config, D)
    for name, variable in vars(module).items():
        if name.endswith("norm"):
            variable.scale[...] = random_like(variable.scale, seed=len(name), std=0.3)
        elif name == "sink":
            variable[...] = random_like(variable, seed=1, std=1.0)
    return module


def by_hand(module: Attention, x_TD: np.ndarray) -> np.ndarray:
    """softmax over the allowed keys of each query and head, as the paper's equations read."""
    config = module.config
    weight = lambda name: np.asarray(getattr(module, name)[...], "f8")  # noqa: E731
    project = lambda name: np.einsum("td,dnk->tnk", x_TD, weight(name))  # noqa: E731
    q_THh, k_TKh, v_TKh = project("query"), project("key"), project("key" if config.tied_values else "value")
    if config.qk_norm:
        q_THh = normalised(q_THh) * (1 + np.asarray(module.query_norm.scale[...], "f8"))
        k_TKh = normalised(k_TKh) * (1 + np.asarray(module.key_norm.scale[...], "f8"))
    if config.value_norm:
        v_TKh = normalised(v_TKh)
    q_THh, k_TKh = rotated(q_THh, config), rotated(k_TKh, config)
    scale = config.query_scale if config.query_scale is not None else 1 / np.sqrt(h)
    out_TD = np.zeros((T, D))
    for t in range(T):
        for head in range(H):
            group = head * K // H
            keys = [s for s in range(T) if allowed(t, s, config.window)]
            scores = np.array([q_THh[t, head] @ k_TKh[s, group] * scale for s in keys])
            if config.softcap is not None:
                scores = config.softcap * np.tanh(scores / config.softcap)
            total = np.exp(scores).sum() + (np.exp(weight("sink")[head]) if config.sink else 0)
            for s, score in zip(keys, scores, strict=True):
                out_TD[t] += np.exp(score) / total * v_TKh[s, group] @ weight("out")[head]
    return out_TD


def allowed(t: int, s: int, window: int | None) -> bool:
    if SEGMENT[t] == 0 or SEGMENT[t] != SEGMENT[s]:
        return False
    if SPAN[t] > 0 and SPAN[t] == SPAN[s]:
        return True
    return s <= t and (window is None or t - s < window)


def normalised(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6)


def rotated(x_TNh: np.ndarray, config: AttentionConfig) -> np.ndarray:
    """Pairs (x_i, x_{i + h/2}) as complex numbers, turned by their angle."""
    pairs = x_TNh[..., : h // 2] + 1j * x_TNh[..., h // 2 :]
    frequency = config.rope_base ** (-2 * np.arange(h // 2) / h)
    frequency[int(config.rope_fraction * h / 2) :] = 0
    turned = pairs * np.exp(1j * POSITION[:, None, None] / config.rope_scale * frequency)
    return np.concatenate([turned.real, turned.imag], axis=-1)


def inputs():
    x_TD = np.random.default_rng(0).normal(size=(T, D))
    structure = structure_of(*(jnp.array(ids, jnp.int32)[None] for ids in (SEGMENT, POSITION, SPAN)))
    return x_TD, structure


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"window": 3, "qk_norm": False},
        {"softcap": 0.7, "query_scale": 0.9},
        {"sink": True, "window": 4},
        {"value_norm": True, "query_scale": 1.0},
        {"tied_values": True},
        {"tied_values": True, "value_norm": True, "rope_fraction": 0.4, "window": 5},
        {"rope_base": 50.0, "rope_scale": 2.5, "softcap": 2.0, "sink": True, "qk_norm": False},
    ],
    ids=lambda options: ", ".join(options) or "defaults",
)
def test_the_layer_equals_attention_written_out_pair_by_pair(options):
    module, (x_TD, structure) = layer(AttentionConfig(**HEADS | options)), inputs()
    out_BTD, _ = jax.jit(lambda x: module(x, structure))(jnp.array(x_TD, jnp.float32)[None])
    np.testing.assert_allclose(out_BTD[0], by_hand(module, x_TD), atol=2e-5)
    assert np.abs(out_BTD[0, :12]).max() > 0.1
    assert not np.any(out_BTD[0, 12:])  # padding sees nothing


def test_every_query_head_may_have_its_own_key_or_all_may_share_one():
    x_TD, structure = inputs()
    module = layer(AttentionConfig(num_heads=H, num_kv_heads=1, head_dim=h))
    one_key, _ = module(jnp.array(x_TD, jnp.float32)[None], structure)
    many = layer(AttentionConfig(num_heads=H, num_kv_heads=H, head_dim=h))
    for name in ("key", "value"):
        getattr(many, name)[...] = jnp.repeat(getattr(module, name)[...], H, axis=1)
    many.query[...], many.out[...] = module.query[...], module.out[...]
    np.testing.assert_allclose(many(jnp.array(x_TD, jnp.float32)[None], structure)[0], one_key, atol=1e-5)


def test_the_keys_and_values_it_returns_are_rotated_and_normalised_once():
    x_TD, structure = inputs()
    module = layer(AttentionConfig(**HEADS))
    _, (k_BTKh, v_BTKh) = module(jnp.array(x_TD, jnp.float32)[None], structure)
    keys = np.einsum("td,dnk->tnk", x_TD, np.asarray(module.key[...], "f8"))
    keys = rotated(normalised(keys) * (1 + np.asarray(module.key_norm.scale[...])), module.config)
    np.testing.assert_allclose(k_BTKh[0], keys, atol=1e-5)
    np.testing.assert_allclose(v_BTKh[0], np.einsum("td,dnk->tnk", x_TD, module.value[...]), atol=1e-5)
