"""What the layers remember of a sequence: a ring of keys and values, all of them, or one recurrent state."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from model.structure import Past, Structure
from pallas_kernels.decode_attention import decode_attention
from pallas_kernels.interval_attention import interval_attention


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeyValueCache:
    """Rotated keys and values k_BSKh, v_BSKh; slot p of a row lies at p mod S.

    A global layer keeps every slot; a local layer keeps its last `window`, so S does not grow with the sequence.
    """

    k_BSKh: jax.Array
    v_BSKh: jax.Array

    @property
    def size(self) -> int:
        return self.k_BSKh.shape[1]

    def attend(self, q_BTHh, k_BTKh, v_BTKh, structure: Structure, window: int | None, **options):
        """Attention of new slots to what is kept and to themselves; returns out_BTHh, lse_BTH and the cache with them.

        One slot is decoded at each row's own end; more are a piece that begins at the same slot in all rows.
        """
        lo_BT, hi_BT = structure.interval(window)
        if q_BTHh.shape[1] == 1:
            cache = self._put(k_BTKh, v_BTKh, structure)
            held_BS = held_slots(structure.slot_BT[:, 0] + structure.real_BT[:, 0], self.size)
            out, lse = decode_attention(q_BTHh, cache.k_BSKh, cache.v_BSKh, held_BS, lo_BT, hi_BT, **options)
            return out, lse, cache
        first = structure.slot_BT[0, 0]
        if window is None:
            cache = KeyValueCache(*(_write(old, new, first) for old, new in self._beside(k_BTKh, v_BTKh)))
            return *interval_attention(q_BTHh, cache.k_BSKh, cache.v_BSKh, lo_BT, hi_BT, **options), cache
        # The ring unrolled, oldest first, then the piece: consecutive slots again, from `first - size` on.
        order_S = (first + jnp.arange(self.size)) % self.size
        keys, values = (jnp.concatenate([old[:, order_S], new], 1) for old, new in self._beside(k_BTKh, v_BTKh))
        shift = first - self.size
        out, lse = interval_attention(q_BTHh, keys, values, lo_BT - shift, hi_BT - shift, **options)
        return out, lse, self._keep_last(k_BTKh, v_BTKh, structure)

    def _beside(self, k_BTKh, v_BTKh):
        """Each kept array with the new one, in the dtype that is kept."""
        return [(old, new.astype(old.dtype)) for old, new in ((self.k_BSKh, k_BTKh), (self.v_BSKh, v_BTKh))]

    def _put(self, k_B1Kh, v_B1Kh, structure: Structure) -> KeyValueCache:
        """One new slot for each row; padding is dropped."""
        at_B = jnp.where(structure.real_BT[:, 0], structure.slot_BT[:, 0] % self.size, self.size)
        rows_B = jnp.arange(at_B.shape[0])
        return KeyValueCache(
            *(x.at[rows_B, at_B].set(new[:, 0], mode="drop") for x, new in self._beside(k_B1Kh, v_B1Kh))
        )

    def _keep_last(self, k_BTKh, v_BTKh, structure: Structure) -> KeyValueCache:
        """The last `size` real slots of each row."""
        first = structure.slot_BT[:, :1]
        held_BS = held_slots(structure.slot_BT[:, 0] + structure.real_BT.sum(1, dtype=jnp.int32), self.size)
        some_B1 = structure.real_BT[:, :1]
        from_piece_BS = some_B1 & (held_BS >= first)
        at_BS = jnp.where(from_piece_BS, held_BS - first, 0)

        def pick(old, new):
            taken = jnp.take_along_axis(new, at_BS[..., None, None], axis=1)
            return jnp.where(from_piece_BS[..., None, None], taken, old)

        return KeyValueCache(*(pick(old, new) for old, new in self._beside(k_BTKh, v_BTKh)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StateCache:
    """The state of a recurrent layer after a row's last real slot, float32[B,N] as two planes."""

    re_BN: jax.Array
    im_BN: jax.Array

    def after(self, h_re_BTN: jax.Array, h_im_BTN: jax.Array, structure: Structure) -> StateCache:
        """The state after the real slots of a piece, which come first in every row."""
        real_B1 = structure.real_BT.sum(1, keepdims=True)
        last_B11 = jnp.maximum(real_B1 - 1, 0)[..., None]

        def pick(old, new):
            return jnp.where(real_B1 > 0, jnp.take_along_axis(new, last_B11, axis=1)[:, 0], old)

        return StateCache(pick(self.re_BN, h_re_BTN), pick(self.im_BN, h_im_BTN))


LayerCache = KeyValueCache | StateCache


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """The past of every row and what each layer keeps of it."""

    past: Past
    layers: tuple[LayerCache, ...]


def empty_cache(config: ModelConfig, batch_size: int, max_slots: int) -> Cache:
    """A cache that has seen nothing, with room for `max_slots` in every row; keys in the dtype of activations."""

    def layer(mixer: str) -> LayerCache:
        if mixer == "recurrent":
            assert config.recurrent is not None
            return StateCache(*twice((batch_size, config.recurrent.num_states), "float32"))
        attention = config.attention(mixer)
        size = min(attention.window or max_slots, max_slots)
        return KeyValueCache(*twice((batch_size, size, attention.num_kv_heads, attention.head_dim), config.dtype))

    def twice(shape, dtype):  # two arrays, not one under two names, so that both can be donated
        return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)

    past = Past(*(jnp.zeros(batch_size, jnp.int32) for _ in dataclasses.fields(Past)))
    return Cache(past, tuple(layer(mixer) for mixer in config.mixers))


def cache_bytes(config: ModelConfig, batch_size: int, max_slots: int) -> int:
    """Bytes that the layers keep: 2 S K h for an attention layer, S the window or all slots, and 2 N for a state."""
    layers = jax.eval_shape(lambda: empty_cache(config, batch_size, max_slots)).layers
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(layers))


def held_slots(num_B: jax.Array, size: int) -> jax.Array:
    """int32[B,size]: which slot each place of a ring holds after `num` slots, -1 where none."""
    last_B1 = num_B[:, None] - 1
    held_BS = last_B1 - (last_B1 - jnp.arange(size, dtype=jnp.int32)) % size
    return jnp.where(held_BS >= 0, held_BS, -1)


def _write(old_BSKh: jax.Array, new_BTKh: jax.Array, first: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(old_BSKh, new_BTKh, first, axis=1)
