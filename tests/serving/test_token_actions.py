"""Policies that write action tokens: with caches what the whole model would write, in each robot's units, and a plan
that goes on where the tokens stand for none."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from data.action_codes import UndecodableActions
from data.fast import Fast
from serving.policy import Observation, Policy
from serving.token_actions import continued
from tests.data.tiny_robots import SIZE, TASKS
from tests.train.tiny_config import CHUNK, NUM_CODES, NUM_PIECES, robot_config
from train.build import build_phase
from train.checkpoint import Checkpoint

pytestmark = pytest.mark.usefixtures("quick_compilation")
WIDTHS = {"arm2": (4, 2), "arm3": (5, 3)}  # proprioception, action
ONE_EACH = np.ones(NUM_CODES, int)
STEPS = {"continuous": False, "token_steps": (0, 1, 2), "num_bins": NUM_CODES}


def tokens_config(folder, **source):
    config = robot_config(folder)
    config.phases["act"].objective = "next_token"
    config.phases["act"].pipeline.update({"slots": 40, "chunk": 0})  # rows without chunks, as in pre-training
    del config.models["policy"]["flow"]
    for arm in WIDTHS:
        config.sources[arm].update(source)
    return config


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    """Few codes, so that an untrained model now and then draws some that make no chunk."""
    rng = np.random.default_rng(0)
    trained = Fast.train([np.cumsum(rng.normal(0, 1, (CHUNK, 2)), 0) for _ in range(50)], CHUNK, NUM_CODES, 3.0, 2.0)
    path = tmp_path_factory.mktemp("fast") / "fast.json"
    trained.save(path)
    return path


@pytest.fixture(scope="module")
def by_fast(fast, tmp_path_factory):
    """What a phase on FAST tokens keeps beside its weights, which stay as initialised."""
    config = tokens_config(tmp_path_factory.mktemp("robots"), continuous=False, fast=str(fast))
    kept = build_phase(config, "act", None).assets
    meta = {"phase": "act", "step": 0}
    return Checkpoint(pathlib.Path("act"), meta, kept.config, kept.statistics, kept.transforms, kept.vocabulary)


@pytest.fixture(scope="module")
def by_steps(by_fast):
    """The same weights, read as bins of each step."""
    sources = {arm: {**by_fast.config["sources"][arm], "fast": None, **STEPS} for arm in WIDTHS}
    return dataclasses.replace(by_fast, config={**by_fast.config, "sources": sources})


def observation(arm: str, seed: int = 0, **changes) -> Observation:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    state = rng.normal(5, 2, WIDTHS[arm][0]).astype("f4")
    return dataclasses.replace(Observation((pixels,), TASKS[seed % 2], state, arm), **changes)


class WithoutCache:
    """The most likely codes that still fit one after the other, the whole model run for each."""

    def __init__(self, policy: Policy, sizes: np.ndarray = ONE_EACH):
        self.policy, self.sizes = policy, sizes
        model = policy.model.module(policy.model.params, policy.model.buffers)
        self.forward = jax.jit(lambda rows, slot: model.token_logits(model(rows).hidden_BTD[0, slot]))

    def written(self, seen: Observation, length: int) -> list[int]:
        rows, codes = self.policy.planned([seen]), []
        (slot,) = np.flatnonzero(np.asarray(rows.segment_ids[0]))[-1:] + 1
        while left := length - int(self.sizes[codes].sum()):
            logits_V = np.asarray(self.forward(rows, slot - 1))[NUM_PIECES:]
            codes.append(int(np.where(self.sizes <= left, logits_V, -np.inf).argmax()))
            fields = {"tokens": NUM_PIECES + codes[-1], "segment_ids": 1, "positions": slot}
            rows = dataclasses.replace(rows, **{n: getattr(rows, n).at[0, slot].set(v) for n, v in fields.items()})
            slot += 1
        return codes


def test_tokens_with_caches_are_those_of_the_whole_model_and_become_actions_of_each_robot(by_steps):
    """Whatever else is in the batch, and how large it is."""
    policy = Policy(by_steps, batch_size=2, untrained=True)
    assert policy.head == "tokens"
    seen = [observation("arm3"), observation("arm2", 1), observation("arm2", 2)]
    reference = WithoutCache(policy)
    for o, chunk in zip(seen, policy.act(seen), strict=True):
        width = WIDTHS[o.embodiment][1]
        codes = reference.written(o, CHUNK * width)
        centres = ((np.array(codes) + 0.5) / NUM_CODES * 6 - 3).reshape(CHUNK, width)
        actions = by_steps.statistics[o.embodiment]["features"]["actions"]
        expected = centres * np.array(actions["std"]) + np.array(actions["mean"]) + [*o.proprio[:2], 0][:width]
        np.testing.assert_allclose(chunk, expected, atol=1e-4)


def test_a_checkpoint_carries_what_its_codes_mean(by_fast, fast):
    fast.rename(fast.with_suffix(".away"))
    try:
        chunks = Policy(by_fast, batch_size=2, untrained=True).act([observation("arm2"), observation("arm3", 1)])
    finally:
        fast.with_suffix(".away").rename(fast)
    assert [chunk.shape for chunk in chunks] == [(CHUNK, 2), (CHUNK, 3)]
    assert all(np.isfinite(chunk).all() for chunk in chunks)


def test_without_a_running_plan_only_codes_that_make_a_chunk_are_drawn(by_fast, fast, monkeypatch):
    policy, sizes, drawn, decode = Policy(by_fast, untrained=True), Fast.load(fast).sizes, [], Fast.decode
    monkeypatch.setattr(Fast, "decode", lambda self, ids, width: (drawn.append(ids), decode(self, ids, width))[1])
    seen = observation("arm3", 4)
    policy.act([seen])
    assert drawn == [WithoutCache(policy, sizes).written(seen, CHUNK * 3)]
    assert len(drawn[0]) < CHUNK * 3  # so some codes are of several coefficients


def test_a_chunk_that_cannot_be_decoded_leaves_the_robot_to_its_running_plan(by_fast, monkeypatch):
    policy = Policy(by_fast, batch_size=2, untrained=True)

    def fails(codes, ids, width):
        raise UndecodableActions("no chunk")

    monkeypatch.setattr(Fast, "decode", fails)
    running = np.array([[1, 2], [3, 4]], "f4")
    (chunk,) = policy.act([observation("arm2", running=running)])
    assert chunk.tolist() == [[1, 2], [3, 4], [3, 4]]
    for nothing in (None, np.zeros((0, 2), "f4")):
        with pytest.raises(UndecodableActions):
            policy.act([observation("arm2", running=nothing)])


def test_one_robot_with_two_kinds_of_codes_is_refused(fast, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(fast.read_text())
    config = tokens_config(tmp_path / "robots", continuous=False, fast=str(fast))
    config.sources.again = config.sources.arm2.copy_and_resolve_references()
    config.sources.again.fast = str(other)
    config.phases["act"].mixture.again = 0.1
    with pytest.raises(ValueError, match=r"fast differs among the sources of embodiment 'arm2': .*; name one file"):
        build_phase(config, "act", None)


def test_a_plan_longer_than_a_chunk_is_cut_and_a_shorter_one_holds_its_last_action():
    assert continued(np.arange(4.0)[:, None], 3).tolist() == [[0], [1], [2]]
    assert continued(np.arange(2.0)[:, None], 4).tolist() == [[0], [1], [1], [1]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"arm2": {"token_steps": (2,)}, "arm3": {"token_steps": (2,)}},
            r"token_steps of arm2 are \[2\], which is not",
        ),
        ({"arm2": {"num_bins": 8}}, "the action tokens of arm2, arm3 differ: give their sources the same"),
    ],
)
def test_tokens_that_do_not_tell_what_comes_next_are_refused(by_steps, changes, message):
    sources = {arm: source | changes.get(arm, {}) for arm, source in by_steps.config["sources"].items()}
    other = dataclasses.replace(by_steps, config={**by_steps.config, "sources": sources})
    with pytest.raises(ValueError, match=message):
        Policy(other, untrained=True)


@pytest.mark.parametrize("running", [np.zeros(2, "f4"), np.zeros((3, 3), "f4"), np.full((1, 2), np.nan, "f4")])
def test_a_running_plan_of_another_robot_is_refused(by_steps, running):
    with pytest.raises(ValueError, match=r"running has shape .*; arm2 takes finite actions \[n, 2\]"):
        Policy(by_steps, untrained=True).act([observation("arm2", running=running)])
