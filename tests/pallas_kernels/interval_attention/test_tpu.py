import functools

import hypothesis
import hypothesis.extra.numpy as st_np
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from pallas_kernels import backend
from pallas_kernels.interval_attention import reference, tpu, tpu_tiles
from pallas_kernels.interval_attention.tiles import TileRanges
from pallas_kernels.interval_attention.tpu_visits import list_visits
from tests.pallas_kernels import intervals

TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
EMPTY = -1e30
# Most tests share a shape, and so what is compiled.
SHAPE = {"B": 2, "T": 256, "S": 256, "H": 2, "K": 1, "h": 64, "dtype": "float32"}


@pytest.fixture(scope="class")
def small_tiles():
    """Tiles of at most 128 queries and 128 keys, so that short sequences have several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tpu_tiles, "MAX_QUERIES", 128)
        patch.setattr(tpu_tiles, "MAX_KEYS", 128)
        _forget_compiled()
        yield
    _forget_compiled()


def _forget_compiled():
    for f in (tpu.forward, tpu.backward):
        f.clear_cache()


def emulated(q, k, v, lo, hi, d_out, d_lse, **options):
    """out, lse and the gradients, by the kernels alone."""
    with backend.emulate("tpu", detect_races=True):
        out, lse = tpu.forward(q, k, v, lo, hi, **options)
        gradients = tpu.backward(q, k, v, lo, hi, out, lse, d_out, d_lse, **options)
    return out, lse, *gradients


@functools.partial(jax.jit, static_argnames=("scale", "softcap"))
def expected(q, k, v, lo, hi, d_out, d_lse, **options):
    out, lse = reference.forward(q, k, v, lo, hi, **options, block=128)
    return out, lse, *reference.backward(q, k, v, lo, hi, out, lse, d_out, d_lse, **options, block=128)


def check(lo, hi, B, T, S, H, K, h, dtype, softcap=None, seed=0):
    q, k, v, d_out, d_lse = intervals.arrays(B, T, S, H, K, h, dtype, seed)
    args = (q, k, v, lo, hi, d_out, d_lse)
    options = {"scale": h**-0.5, "softcap": softcap}
    actual, wanted = emulated(*args, **options), expected(*args, **options)
    has_keys = np.asarray(jnp.clip(lo, 0, S) < jnp.clip(hi, 0, S))
    assert (np.asarray(actual[1])[~has_keys] == EMPTY).all()
    assert (np.asarray(actual[0])[~has_keys] == 0).all()
    assert (np.asarray(actual[2])[~has_keys] == 0).all()
    for name, a, w in zip(("out", "lse", "d_q", "d_k", "d_v"), actual, wanted, strict=True):
        assert a.shape == w.shape
        assert a.dtype == w.dtype
        if name == "lse":
            a, w = a[has_keys], w[has_keys]
        assert intervals.relative_error(a, w) <= TOLERANCE[dtype], name


@pytest.mark.usefixtures("small_tiles")
class TestSeveralTiles:
    def run(self, lo, hi, q, k, v, d_out, d_lse):
        return emulated(q, k, v, lo, hi, d_out, d_lse, scale=0.125, softcap=None)

    @pytest.mark.parametrize("kind", [kind for kind in intervals.KINDS if kind != "offset"])
    def test_kernels_agree_with_the_reference_on_every_kind_of_mask(self, kind):
        check(*intervals.batch(kind, 2, 256), **SHAPE)

    @pytest.mark.parametrize(
        ("T", "S", "H", "K", "h", "dtype", "softcap"),
        [
            (200, 300, 2, 2, 64, "float32", 5.0),
            (256, 256, 4, 2, 128, "bfloat16", 5.0),
            (5, 300, 4, 1, 256, "bfloat16", None),
        ],
        ids=str,
    )
    def test_groups_of_heads_unequal_and_ragged_lengths_and_softcap(self, T, S, H, K, h, dtype, softcap):
        check(*intervals.batch("offset", 1, T, S), 1, T, S, H, K, h, dtype, softcap)

    def test_rows_without_keys_give_zero_and_take_no_part_in_gradients(self):
        lo, hi = intervals.batch("full", 2, 256)
        # One such row among others in an inner tile, a whole tile of them, and ends outside the keys.
        lo = lo.at[0, 7].set(9).at[0, 128:].set(256).at[1, 20].set(-50)
        hi = hi.at[0, 7].set(9).at[0, 128:].set(512).at[1, 20].set(-3)
        check(lo, hi, **SHAPE)
        q, *others = intervals.arrays(**SHAPE)
        empty_BT11 = (lo.clip(0, 256) >= hi.clip(0, 256))[..., None, None]
        for a, b in zip(self.run(lo, hi, q, *others), self.run(lo, hi, q + 100 * empty_BT11, *others), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_two_runs_give_the_same_bits(self):
        lo, hi = intervals.batch("mixed", 2, 256)
        arrays = intervals.arrays(**SHAPE)
        for a, b in zip(self.run(lo, hi, *arrays), self.run(lo, hi, *arrays), strict=True):
            np.testing.assert_array_equal(a, b)

    @hypothesis.settings(max_examples=8, deadline=None)
    @hypothesis.given(
        bounds=st_np.arrays(np.int32, (2, 2, 256), elements=st.integers(-10, 280)),
        piece=st.sampled_from([1, 16, 128]),
        seed=st.integers(0, 9),
    )
    def test_any_intervals_agree_with_the_reference(self, bounds, piece, seed):
        """Random ends, alike in pieces of neighbouring rows, so that some tiles are inner ones; not monotone."""
        lo, hi = np.repeat(bounds[:, :, ::piece], piece, axis=-1)
        check(jnp.asarray(lo), jnp.asarray(hi), **SHAPE, seed=seed)


def test_a_tile_of_many_rows_is_computed_in_parts():
    check(*intervals.batch("mixed", 1, 384), 1, 384, 384, H=2, K=1, h=64, dtype="float32")


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=6))
def test_the_list_has_each_visit_once_and_a_step_for_a_tile_without_any(ranges):
    first = np.array([f if n else 0 for f, n in ranges], np.int32)
    end = first + np.array([n for _, n in ranges], np.int32)
    visits = list_visits(TileRanges(first[None], end[None], first[None], first[None]), max_visits=10 * len(ranges))
    wanted = [(i, j) for i, (f, e) in enumerate(zip(first, end, strict=True)) for j in range(f, max(e, f + 1))]
    steps = np.asarray(visits.steps)[: int(visits.num)]
    assert [(w >> 16, w & 0xFFFF) for w in steps.tolist()] == wanted


@pytest.mark.parametrize(
    ("dtype", "h", "T", "reason"),
    [
        ("float16", 128, 128, "bfloat16"),
        ("bfloat16", 96, 128, "head width"),
        ("bfloat16", 128, 1 << 20, "scalar memory"),
    ],
)
def test_a_call_that_the_kernels_cannot_serve_has_a_reason(dtype, h, T, reason):
    q = jax.ShapeDtypeStruct((1, T, 4, h), dtype)
    assert reason in tpu.unsupported(q, q, softcap=None)


@pytest.mark.parametrize("softcap", [None, 50.0])
@pytest.mark.parametrize("h", [64, 128, 256])
def test_production_shapes_are_served(h, softcap):
    q = jax.ShapeDtypeStruct((1, 131072, 16, h), jnp.bfloat16)
    assert tpu.unsupported(q, q, softcap=softcap) is None


def test_a_scale_that_is_not_positive_is_refused():
    q, k, v, *_ = intervals.arrays(1, 8, 8, 1, 1, 64, "float32")
    with pytest.raises(ValueError, match="Negate q"):
        tpu.forward(q, k, v, *intervals.batch("causal", 1, 8), scale=-1.0, softcap=None)


@pytest.mark.parametrize("device", ["TPU v5p", "TPU v6 lite", "TPU7x"])
@pytest.mark.parametrize(
    ("T", "H", "K", "h", "dtype", "softcap"),
    [(131072, 16, 8, 128, "bfloat16", None), (32768, 8, 1, 256, "bfloat16", 50.0), (2000, 4, 4, 64, "float32", None)],
    ids=str,
)
def test_production_shapes_lower_for_every_generation(device, T, H, K, h, dtype, softcap):
    struct = jax.ShapeDtypeStruct
    q, k = struct((2, T, H, h), dtype), struct((2, T, K, h), dtype)
    bound, lse = struct((2, T), jnp.int32), struct((2, T, H), jnp.float32)
    options = {"scale": h**-0.5, "softcap": softcap}
    kernels = [
        (functools.partial(tpu.forward, **options), (q, k, k, bound, bound), 1),
        (functools.partial(tpu.backward, **options), (q, k, k, bound, bound, q, lse, q, lse), 2),
    ]
    chip = AbstractDevice(device_kind=device, num_cores=1, platform="tpu")
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=chip)):
        for f, args, num_kernels in kernels:
            lowered = jax.export.export(jax.jit(f), platforms=["tpu"])(*args)
            assert lowered.mlir_module().count("@tpu_custom_call") == num_kernels
