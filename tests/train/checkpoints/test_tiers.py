import shutil

import pytest

from tests.train.checkpoints.states import array_file, checkpointer, flip_a_bit, number_of, save, state_of, write
from train.checkpoint import CheckpointError
from train.checkpoints.whole import steps_in


@pytest.fixture
def disks(tmp_path):
    """(the folder of a run, a fast disk)"""
    return tmp_path / "run", tmp_path / "fast"


def fast_folder(run, fast):
    return fast / (run / "checkpoints" / "local.txt").read_text()


def written(run, fast):
    """Steps 1 to 4 of which 2 lasts, as does the end."""
    writer = checkpointer(run, local=str(fast))
    for step in (1, 2, 3, 4):
        save(writer, step, lasting=step == 2)
    writer.wait()
    writer.close()


def test_all_are_written_to_the_fast_disk_and_what_lasts_is_copied(disks):
    run, fast = disks
    written(run, fast)
    assert steps_in(fast_folder(run, fast)) == [2, 3, 4]
    assert steps_in(run / "checkpoints") == [2]
    assert not list(fast_folder(run, fast).glob("*copying"))
    alone = checkpointer(run)  # what is there for good needs no fast disk
    assert number_of(alone.restore(state_of(0))[0]) == 2


def test_the_newest_of_both_disks_is_restored(disks):
    run, fast = disks
    written(run, fast)
    again = checkpointer(run, local=str(fast))
    assert number_of(again.restore(state_of(0))[0]) == 4
    shutil.rmtree(fast)  # another machine
    again = checkpointer(run, local=str(fast))
    assert number_of(again.restore(state_of(0))[0]) == 2
    save(again, 3)
    again.wait()
    assert (steps_in(run / "checkpoints"), again.latest_step()) == ([2, 3], 3)


def test_a_broken_one_on_the_fast_disk_is_read_from_the_other(disks, capsys):
    run, fast = disks
    written(run, fast)
    for step in (2, 3, 4):
        flip_a_bit(array_file(fast_folder(run, fast) / str(step)))
    again = checkpointer(run, local=str(fast))
    assert number_of(again.restore(state_of(0))[0]) == 2
    assert capsys.readouterr().err.count("is broken, kept as") == 3


def test_a_run_that_begins_anew_takes_nothing_of_one_that_had_its_name(disks):
    run, fast = disks
    written(run, fast)
    shutil.rmtree(run)
    assert checkpointer(run, local=str(fast)).latest_step() is None


def test_copies_are_kept_as_long_as_asked(disks):
    run, fast = disks
    write(run, 1, 2, 3, 4, keep=2, local=str(fast)).close()
    assert steps_in(run / "checkpoints") == steps_in(fast_folder(run, fast)) == [3, 4]


def test_a_copy_that_fails_is_tried_again_with_the_next_and_raised_at_the_end(disks, capsys):
    run, fast = disks
    writer = write(run, 1, local=str(fast))
    in_the_way = run / "checkpoints" / "2.copying"
    in_the_way.write_text("no folder")
    save(writer, 2)
    with pytest.raises(CheckpointError, match=r"(?s)cannot finish writing .*2\.copying.*step 2 is intact"):
        writer.wait()
    assert "checkpoint 2 could not be copied to" in capsys.readouterr().err
    in_the_way.unlink()
    save(writer, 3)
    writer.wait()
    assert steps_in(run / "checkpoints") == [1, 3]


def test_a_copy_is_compared_with_its_checksums_before_it_counts(disks, monkeypatch):
    run, fast = disks
    writer = write(run, 1, local=str(fast))
    copy = shutil.copytree

    def careless(source, target, *given, **options):
        done = copy(source, target, *given, **options)
        if source == fast_folder(run, fast) / "2.copying":
            flip_a_bit(array_file(done))
        return done

    monkeypatch.setattr(shutil, "copytree", careless)
    save(writer, 2)
    with pytest.raises(CheckpointError, match=r"the copy is not what was written: .* differs from its checksum"):
        writer.wait()
    assert steps_in(run / "checkpoints") == [1]
