"""The checks of a run: each process tells process 0 what it finds, and all of them learn the verdict."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from sharding import messages
from train.checkpoint import CheckpointError
from train.config import PhaseConfig
from train.phases import read_sections
from train.preflight import facts as find
from train.preflight.compare import differences, full_disks
from train.preflight.facts import Facts
from train.sections import Sections

_SECONDS = 600.0  # for a process to answer
_VOCABULARY_SECONDS = 7200.0  # for process 0 to train a vocabulary, where there is none yet
_TRIPS = 5


def preflight(config: ConfigDict, workdir: Path, only: str | None = None) -> str:
    """A summary of this run on all hosts; call it once, in all processes, before any of them uses a device.

    config: with every default spelled. only: the phase to run; all that are not finished if None. Raises ValueError
    with a line for everything that is amiss anywhere, CheckpointError where only space for a checkpoint is missing,
    TimeoutError for a process that does not answer.
    """
    start = time.monotonic()
    mine = Facts(messages.place()[0])
    find.of_software(mine)
    find.of_config(mine, config)
    if mine.rank:  # process 0 first: where hosts share a disk, one trains the vocabulary and the others read it
        messages.broadcast("vocabulary is there", None, _VOCABULARY_SECONDS)
    phases = _ahead(config, workdir, only)
    if phases:
        _check_data(mine, Sections.of(config), phases, workdir)
    if mine.rank == 0:
        messages.broadcast("vocabulary is there", "yes", _SECONDS)
    hosts = _agree("software, config and data", mine)
    find.of_devices(mine)
    _agree("devices", mine)
    seconds = _in_time(_round_trip)
    told = {name: mine.equal[name] for name in ("devices", "jax", "code", "config")}
    where = f"{_counted(jax.process_count(), 'process')} on {_counted(hosts, 'host')}, each {told.pop('devices')}"
    same = ", ".join(f"{name} {value}" for name, value in told.items())
    return (
        f"preflight: {where}; {same}; a sum over all devices takes {1e3 * seconds:.1f} ms; "
        f"{time.monotonic() - start:.1f} s in all"
    )


def _ahead(config: ConfigDict, workdir: Path, only: str | None) -> list[PhaseConfig]:
    """The phases that this run has yet to finish."""
    settings, phases = read_sections(config)
    chosen = [name for name in settings.phases if only in (None, name)]
    return [phases[name] for name in chosen if not (workdir / name / "done.json").is_file()]


def _check_data(mine: Facts, sections: Sections, phases: list[PhaseConfig], workdir: Path) -> None:
    vocabulary = find.of_data(mine, sections, sorted({name for phase in phases for name in phase.mixture}))
    if vocabulary is not None:
        find.of_disk(mine, workdir, find.checkpoint_bytes(sections, phases, vocabulary))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 'es' if what.endswith('s') else 's'}"


def _agree(what: str, mine: Facts) -> int:
    """The number of hosts, where nothing is amiss on any of them."""
    texts = messages.gather(f"facts of {what}", mine.to_text(), _SECONDS)
    verdict = None
    if texts is not None:
        all_facts = [Facts.from_text(text) for text in texts]
        hosts = len({facts.host for facts in all_facts})
        verdict = json.dumps([differences(all_facts), full_disks(all_facts), hosts])
    lines, full, hosts = json.loads(messages.broadcast(f"verdict on {what}", verdict, _SECONDS))
    told = "\n  ".join([*lines, *full]) if mine.rank == 0 else f"not all is well with {what}; rank 0 tells"
    if lines:
        raise ValueError(f"preflight: {told}")
    if full:
        raise CheckpointError(f"preflight: {told}")
    return hosts


def _in_time(measure: Callable[[], float]) -> float:
    """Its result. Raises TimeoutError where the devices of other processes cannot be reached."""
    found: queue.SimpleQueue[float | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            found.put(measure())
        except Exception as error:  # raised again in the thread that waits
            found.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        result = found.get(timeout=_SECONDS)
    except queue.Empty:
        raise TimeoutError(
            f"preflight: a sum over {jax.device_count()} devices has not come back for {_SECONDS:.0f} s; see that the "
            "hosts reach each other on all ports (NCCL_DEBUG=INFO, TPU_STDERR_LOG_LEVEL=0 tell more)"
        ) from None
    if isinstance(result, Exception):
        raise result
    return result


def _round_trip() -> float:
    """Seconds of a sum over all devices of all processes, the best of a few, once it was seen to be right."""
    mesh = Mesh(np.array(jax.devices()), ("all",))
    count = mesh.size
    apart, together = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("all",), ()))
    numbers = np.arange(1, count + 1, dtype=np.int32)
    x = jax.make_array_from_callback((count,), apart, lambda index: numbers[index])
    total = jax.jit(jnp.sum, out_shardings=together)
    found, expected = int(total(x)), count * (count + 1) // 2
    if found != expected:
        raise ValueError(f"preflight: the sum over {count} devices is {found}, not {expected}; a device miscomputes")
    seconds = []
    for _ in range(_TRIPS):
        start = time.perf_counter()
        total(x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
