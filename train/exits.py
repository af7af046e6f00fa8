"""What the exit code of a training process says: whether the same command may go on."""

from __future__ import annotations

import errno

import jax

from train.checkpoint import CheckpointError
from train.integrity import Corrupted
from train.loop import Preempted
from train.ranks import RETRY

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OURS = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")  # as XLA reports what no restart changes


def may_go_on(error: Exception) -> bool:
    """Whether the same command may succeed after `error`: a lost or silent peer, a full disk, a request to stop,
    flipped bits."""
    if isinstance(error, Preempted | CheckpointError | Corrupted | TimeoutError):
        return True
    if isinstance(error, jax.errors.JaxRuntimeError):  # what XLA says of a peer that is gone has no type of its own
        return jax.process_count() > 1 and not str(error).startswith(_OURS)
    return isinstance(error, OSError) and error.errno in _FULL


def exit_code(error: Exception) -> int | None:
    """Of one process among several; None where all of them meet the error and end in good order."""
    if isinstance(error, Preempted):
        return None
    return RETRY if may_go_on(error) else 1
