"""Short texts between the processes of a run, through JAX's coordination service: no device is needed for them."""

from __future__ import annotations

from typing import Any

import jax
from jax._src import distributed  # the service has no public name


def place() -> tuple[int, int]:
    """(index, count) of this process, told without starting a device."""
    if not jax.distributed.is_initialized():
        return 0, 1
    return distributed.global_state.process_id, distributed.global_state.num_processes


def gather(name: str, text: str, seconds: float) -> list[str] | None:
    """What every process says under `name`, by process, at process 0; None at the others. Each name serves once.

    Raises TimeoutError naming the first process that has said nothing after so many seconds.
    """
    index, count = place()
    if count == 1:
        return [text]
    _service().key_value_set(f"kinema/{name}/{index}", text)
    return [_get(f"{name}/{rank}", rank, seconds) for rank in range(count)] if index == 0 else None


def broadcast(name: str, text: str | None, seconds: float) -> str:
    """What process 0 says under `name`; the others give None. Raises TimeoutError as `gather`."""
    index, count = place()
    if index == 0:
        assert text is not None
        if count > 1:
            _service().key_value_set(f"kinema/{name}", text)
        return text
    return _get(name, 0, seconds)


def _service() -> Any:
    return distributed.global_state.client


def _get(key: str, rank: int, seconds: float) -> str:
    try:
        return _service().blocking_key_value_get(f"kinema/{key}", int(1000 * seconds))
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
            raise
        raise TimeoutError(f"rank {rank} has not answered for {seconds:.0f} s (asked for {key})") from error
