from __future__ import annotations

import errno

import jax
import pytest

from train.checkpoint import CheckpointError
from train.exits import exit_code, may_go_on
from train.loop import Diverged, Preempted


def xla(text):
    return jax.errors.JaxRuntimeError(text)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Preempted("asked to stop"), None),  # all processes are, and end together
        (CheckpointError("no space"), 75),
        (OSError(errno.ENOSPC, "no space"), 75),
        (OSError(errno.ENOENT, "no such file"), 1),
        (xla("UNKNOWN: Gloo all-reduce failed: Connection closed by peer"), 75),
        (xla("RESOURCE_EXHAUSTED: out of memory"), 1),
        (Diverged("10 steps were skipped"), 1),
        (ValueError("a wrong field"), 1),
    ],
)
def test_one_process_of_several_ends_with_a_code_that_says_whether_to_start_again(monkeypatch, error, code):
    monkeypatch.setattr("train.exits.jax.process_count", lambda: 2)
    assert exit_code(error) == code


def test_alone_there_is_no_peer_to_lose():
    assert not may_go_on(xla("UNKNOWN: something of its own"))
