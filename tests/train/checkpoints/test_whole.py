import jax
import numpy as np
import pytest

from tests.train.checkpoints.states import array_file, checkpointer, flip_a_bit, number_of, save, state_of, write
from train.checkpoint import Checkpoint, CheckpointError
from train.checkpoints.checksums import SUMS
from train.stored import stored


@pytest.fixture
def written(tmp_path):
    """Steps 1, 2 and 3."""
    write(tmp_path, 1, 2, 3).close()
    return tmp_path


def test_after_a_flipped_bit_the_checkpoint_before_is_used_loudly(written, capsys):
    broken = array_file(written / "checkpoints" / "3")
    flip_a_bit(broken)
    again = checkpointer(written)
    assert again.latest_step() == 2
    state, meta = again.restore(state_of(0))
    assert (number_of(state), meta["step"], meta["next_row"]) == (2, 2, 8)
    told = capsys.readouterr().err
    assert f"{broken} differs from its checksum" in told
    assert f"checkpoint {written / 'checkpoints' / '3'} is broken, kept as" in told


def test_a_step_that_was_broken_is_written_again_and_then_used(written):
    flip_a_bit(array_file(written / "checkpoints" / "3"))
    again = checkpointer(written)
    save(again, 3)
    again.wait()
    assert checkpointer(written).latest_step() == 3
    assert (written / "checkpoints" / "3.broken" / "params").is_dir()
    flip_a_bit(array_file(written / "checkpoints" / "3"))
    assert checkpointer(written).latest_step() == 2  # the other broken one keeps its place
    assert (written / "checkpoints" / "3.broken2").is_dir()


@pytest.mark.parametrize("file", ["files/meta.json", "training/manifest.ocdbt", SUMS])
def test_a_half_written_file_of_any_kind_is_noticed(written, file):
    path = written / "checkpoints" / "3" / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert checkpointer(written).latest_step() == 2


def test_without_any_whole_checkpoint_nothing_begins_anew(written):
    for step in "123":
        flip_a_bit(array_file(written / "checkpoints" / step))
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole; they are kept aside: .*3\.broken"):
        checkpointer(written)


def test_readers_are_told_which_file_is_broken_and_get_no_array(written):
    folder = written / "checkpoints" / "3"
    flip_a_bit(array_file(folder))
    checkpoint = Checkpoint.open(folder)
    for read in (
        lambda: checkpoint.params,
        lambda: checkpoint.read_like("params", state_of(0).params),
        lambda: stored(checkpoint, "params"),
    ):
        with pytest.raises(ValueError, match=r"params/.* differs from its checksum.*take another one of"):
            read()
    np.testing.assert_array_equal(checkpoint.ema["embed"]["table"], np.full((16, 4), 3))  # other items are whole


def test_a_checkpoint_without_checksums_is_read_as_before(written):
    (written / "checkpoints" / "3" / SUMS).unlink()
    again = checkpointer(written)
    state, _ = again.restore(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state_of(0)))
    assert number_of(state) == 3
