"""FAST tokens: the cosine transform by its formula, lossless codes, compression, and codes that stand for nothing."""

import json
import pickle

import numpy as np
import pytest

from data import fast
from data.action_codes import UndecodableActions
from data.fast import Fast
from data.transforms import Transform

C = 8


def smooth(rng, width: int) -> np.ndarray:
    """A chunk of slow sines within -1 and 1."""
    phase, rate = rng.uniform(0, 6, width), rng.uniform(0.05, 0.3, width)
    return np.sin(phase + rate * np.arange(C)[:, None]).astype("f4") * 0.9


@pytest.fixture(scope="module")
def chunks():
    rng = np.random.default_rng(0)
    return [smooth(rng, width) for width in (3, 5) for _ in range(400)]


@pytest.fixture(scope="module")
def trained(chunks):
    return Fast.train(chunks, C, size=128, limit=1.0, scale=10.0)


def coefficients(chunk_CA: np.ndarray) -> np.ndarray:
    """Orthonormal DCT-II: sqrt(2 / C) cos(pi k (2 t + 1) / (2 C)), and sqrt(1 / C) for k = 0."""
    k, t = np.arange(C)[:, None], np.arange(C)
    matrix = np.sqrt(2 / C) * np.cos(np.pi * k * (2 * t + 1) / (2 * C))
    matrix[0] /= np.sqrt(2)
    return matrix @ chunk_CA


def test_a_chunk_is_spelled_as_its_rounded_coefficients_low_frequencies_first(chunks):
    form = Fast(C, 2.0, 10.0, "")
    spelled = np.array([ord(c) for c in form.spell(chunks[0])])
    expected = np.rint(coefficients(chunks[0] / 2) * 10).ravel()  # all dims of frequency 0, then of frequency 1
    np.testing.assert_array_equal(spelled - spelled[0], expected - expected[0])


def test_codes_give_back_the_chunk_but_for_the_rounding_of_coefficients(chunks, trained):
    """An orthonormal transform keeps lengths: C coefficients, each off by at most half a step."""
    for chunk_CA in chunks[::50]:
        ids, _ = trained.encode(chunk_CA, np.ones(C, bool))
        error_A = np.linalg.norm(trained.decode(ids.tolist(), chunk_CA.shape[1]) - chunk_CA, axis=0)
        assert error_A.max() <= 0.5 / 10 * np.sqrt(C) + 1e-6


def test_slow_movements_take_far_fewer_codes_than_numbers(chunks, trained):
    counts = trained.counts([np.stack(chunks[:100]), np.stack(chunks[100:400])], 3)
    assert counts.tolist() == [len(trained.encode(chunk, np.ones(C, bool))[0]) for chunk in chunks[:400]]
    assert counts.mean() < 3 * C / 2.5
    assert trained.sizes[trained.encode(chunks[0], np.ones(C, bool))[0]].sum() == trained.length(3) == 3 * C


def test_what_goes_beyond_the_limit_is_clipped(trained):
    chunk_CA = np.full((C, 2), 7.0, "f4")
    ids, _ = trained.encode(chunk_CA, np.ones(C, bool))
    np.testing.assert_allclose(trained.decode(ids.tolist(), 2), 1, atol=0.02)


def test_a_chunk_that_ends_early_weighs_as_much_as_there_is_of_it(chunks, trained):
    ids, shares = trained.encode(chunks[0], np.arange(C) < 2)
    assert shares.tolist() == [0.25] * len(ids)


def test_the_same_chunks_give_the_same_codes_and_a_file_gives_them_back(chunks, trained, tmp_path):
    assert Fast.train(chunks, C, size=128, limit=1.0, scale=10.0) == trained
    trained.save(tmp_path / "deep/fast.json")
    assert Fast.load(tmp_path / "deep/fast.json") == trained
    copied = pickle.loads(pickle.dumps(trained))
    assert (copied, copied.num_codes) == (trained, 128)
    assert Transform.from_dict(json.loads(json.dumps(trained.to_dict()))) == trained


def test_codes_are_the_last_ones_of_a_vocabulary(trained):
    assert trained.first(200) == 72


@pytest.mark.parametrize("change", [lambda ids: ids[:-1], lambda ids: ids * 2, lambda ids: [], lambda ids: [128]])
def test_codes_that_make_no_whole_chunk_raise_and_never_become_actions(chunks, trained, change):
    ids = trained.encode(chunks[0], np.ones(C, bool))[0].tolist()
    with pytest.raises(UndecodableActions):
        trained.decode(change(ids), 3)


@pytest.mark.parametrize(
    ("size", "scale", "message"),
    [
        (20, 10.0, "size is 20; coefficients of 8 steps at scale 10.0 take 59 codes"),
        (4096, 10.0, "only make"),
        (64, 0, "scale 0"),
    ],
)
def test_sizes_that_cannot_work_are_refused(chunks, size, scale, message):
    with pytest.raises(ValueError, match=message):
        Fast.train(chunks[:20], C, size=size, limit=1.0, scale=scale)


def test_a_file_that_is_none_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"no action tokens at .*x.json; make them with `python -m data.fast"):
        Fast.load(tmp_path / "x.json")
    for content in ("nothing", "[]", json.dumps({"type": "Compose", "transforms": []})):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(ValueError, match=r"x\.json (is not what|describes Compose)"):
            Fast.load(tmp_path / "x.json")


def test_other_chunks_than_it_was_trained_on_are_refused(trained):
    with pytest.raises(ValueError, match="its chunks have 8 steps, those of the source 4"):
        trained.refuse_other_chunk(4)


def test_the_command_trains_on_the_episodes_of_a_config(tmp_path, capsys, monkeypatch):
    from tests.data.tiny_robots import write_arm

    root = write_arm(tmp_path / "arm", 4, 2, lengths=(6, 5))
    (tmp_path / "config.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        f"    source = {{'root': {root!r}, 'embodiment': 'arm', 'num_slots': 4, 'chunk': 3, 'fast': 'not there yet'}}\n"
        "    robot = {'index': 0, 'proprio_width': 4, 'action_width': 2}\n"
        "    return ConfigDict({'sources': {'arm': source}, 'embodiments': {'arm': robot}})\n"
    )
    out = tmp_path / "fast.json"
    command = ["--config", str(tmp_path / "config.py"), "--size", "40", "--out", str(out)]
    fast.main([*command, "--source", "arm"])
    assert "40 codes from 11 chunks" in capsys.readouterr().out
    assert (Fast.load(out).chunk, Fast.load(out).limit) == (3, 3.0)
    with pytest.raises(ValueError, match=r"--source names 'leg'; episodes in .* are arm"):
        fast.main([*command, "--source", "leg"])
