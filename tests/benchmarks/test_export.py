"""The benchmark of exports measures what the commands do, on files that it made."""

from benchmarks.export import STEPS, make
from configs import gemma3
from serving.interchange.tensor_files import open_tensors


def test_what_comes_out_after_an_import_is_what_was_made(tmp_path, monkeypatch):
    monkeypatch.setitem(gemma3.SIZES, "tiny", (6, 16, 24, 2, 1, 8, 5, 1.0, 64))
    make(tmp_path / "hf", "tiny")
    for step in STEPS.values():
        step(tmp_path)
    made, copied, exported = (open_tensors(tmp_path / name) for name in ("hf", "copy", "out"))
    assert made.keys() == copied.keys() == exported.keys()
    assert all(made[name].equals(copied[name]) and made[name].equals(exported[name]) for name in made)
    assert len({tensor.shape.dims for tensor in made.values()}) > 5
