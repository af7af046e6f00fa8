"""Arrays of a checkpoint, read and written part by part."""

import numpy as np
import orbax.checkpoint as ocp
import pytest

from serving.interchange.array_store import ArrayStore
from serving.interchange.copying import write_array
from serving.interchange.tensor_files import Shape

FLOAT32 = np.dtype(np.float32)
DIMS = {"layers": (3, 7, 4), "table": (10, 6), "scale": (5,), "step": ()}
CHUNKS = {"layers": (1, 3, 4), "table": (4, 2), "scale": (5,), "step": ()}
PARTS = [
    ("layers", ()),
    ("layers", (1,)),
    ("layers", (2, slice(3, 7))),
    ("layers", (slice(0, 2), slice(3, 6))),
    ("layers", (0, slice(2, 5))),  # of two chunks, neither whole
    ("layers", (1, 4)),
    ("table", (slice(4, 8),)),
    ("table", (slice(8, 10), slice(2, 4))),
    ("table", (slice(None), slice(1, 6))),
    ("scale", ()),
    ("step", ()),
]


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return {path: rng.standard_normal(dims).astype(np.float32) for path, dims in DIMS.items()}


@pytest.fixture(scope="module")
def folder(arrays, tmp_path_factory):
    folder = tmp_path_factory.mktemp("item") / "params"
    store = ArrayStore.create(folder, {path: Shape(dims, FLOAT32) for path, dims in DIMS.items()}, CHUNKS)
    for i in range(3):
        store.write("layers", (i,), arrays["layers"][i])
    for path in ("table", "scale", "step"):
        store.write(path, (), np.asfortranarray(arrays[path]))  # what is transposed in memory comes out in order
    return folder


@pytest.mark.parametrize(("path", "index"), PARTS)
def test_a_part_is_what_was_written_there(folder, arrays, path, index):
    np.testing.assert_array_equal(ArrayStore.open(folder).read(path, index), arrays[path][index])


def test_row_blocks_are_whole_chunks_that_together_cover_a_dim(folder, arrays):
    store = ArrayStore.open(folder)
    assert store.row_blocks("table", 0) == [(slice(0, 4),), (slice(4, 8),), (slice(8, 10),)]
    assert store.row_blocks("layers", 1) == [(slice(0, 3),), (slice(3, 6),), (slice(6, 7),)]
    assert store.row_blocks("step", 0) == [()]
    parts = [store.read("layers", (2, *rows)) for rows in store.row_blocks("layers", 1)]
    np.testing.assert_array_equal(np.concatenate(parts), arrays["layers"][2])


def test_orbax_reads_the_same(folder, arrays):
    found = ocp.StandardCheckpointer().restore(folder)
    for path, array in arrays.items():
        np.testing.assert_array_equal(found[path], array)


def test_a_chunk_that_was_cut_short_is_named(arrays, tmp_path):
    store = ArrayStore.create(tmp_path / "params", {"table": Shape(DIMS["table"], FLOAT32)}, {"table": (5, 6)})
    store.write("table", (), arrays["table"])
    file = tmp_path / "params/table/1.0"
    file.write_bytes(file.read_bytes()[:-1])
    np.testing.assert_array_equal(store.read("table", (slice(0, 5),)), arrays["table"][:5])
    with pytest.raises(ValueError, match=r"params/table/1\.0 is cut short"):
        store.read("table")


@pytest.mark.parametrize("dims", [(700, 500), (3, 130, 900), (1, 300, 1, 1100)])
def test_transposed_numbers_are_written_in_row_major_order(dims, tmp_path):
    """More than one strip, each of more than one tile."""
    array = np.arange(np.prod(dims), dtype=np.float32).reshape(dims[::-1]).T
    with (tmp_path / "array").open("wb") as file:
        write_array(file, array)
    np.testing.assert_array_equal(np.fromfile(tmp_path / "array", np.float32).reshape(dims), array)
