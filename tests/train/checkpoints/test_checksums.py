import hashlib
import shutil
import subprocess

import pytest

from tests.train.checkpoints.states import flip_a_bit, write
from train.checkpoints.checksums import SUMS, problems, read_sums, sums_of, write_sums


@pytest.fixture
def folder(tmp_path):
    """Two items with files of different sizes, and their checksums."""
    for name in ("params/a", "params/b", "files/meta.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode() * 1000)
    paths = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    write_sums(tmp_path / SUMS, sums_of(tmp_path, paths))
    return tmp_path


def test_the_list_holds_the_sha256_of_every_file_by_its_path(folder):
    expected = {name: hashlib.sha256(name.encode() * 1000).hexdigest() for name in ("params/a", "params/b")}
    assert expected.items() <= read_sums(folder / SUMS).items()
    assert problems(folder) == []


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_sha256sum_checks_a_real_checkpoint_and_misses_no_file_that_is_read(tmp_path):
    write(tmp_path, 3).close()
    step = tmp_path / "checkpoints" / "3"
    done = subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=step, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    files = {path.relative_to(step).as_posix() for path in step.rglob("*") if path.is_file()}
    unlisted = {name.rpartition("/")[2] for name in files - read_sums(step / SUMS).keys()}
    assert unlisted == {SUMS, "_CHECKPOINT_METADATA", "commit_success.txt"}  # the last two hold moments alone


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda folder: flip_a_bit(folder / "params/b"), "params/b differs from its checksum"),
        (lambda folder: (folder / "params/b").unlink(), "params/b is missing"),
        (lambda folder: (folder / "params/b").write_bytes(b"params/b"), "params/b differs from its checksum"),
        (lambda folder: (folder / SUMS).write_text(""), f"{SUMS} is empty"),
        (lambda folder: (folder / SUMS).write_text("params/a"), f"{SUMS} is no list of checksums"),
    ],
)
def test_what_is_wrong_is_named(folder, spoil, problem):
    spoil(folder)
    (found,) = problems(folder)
    assert found.endswith(problem)


def test_a_folder_without_a_list_is_taken_as_it_is(folder):
    (folder / SUMS).unlink()
    assert problems(folder) == []


def test_one_item_is_looked_at_alone(folder):
    flip_a_bit(folder / "params/b")
    assert problems(folder, "files") == []
    assert len(problems(folder, "params")) == 1


def test_every_broken_file_is_in_exactly_one_share(folder):
    for name in ("params/a", "params/b", "files/meta.json"):
        flip_a_bit(folder / name)
    assert sorted(p for i in range(2) for p in problems(folder, share=(i, 2))) == sorted(problems(folder))
