"""What one process finds on its host, as text that another can compare."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import shutil
import socket
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from configs.schema import config_hash, to_plain
from data.visible import files_in_words
from data.vocabulary import Vocabulary
from model.model import create, split
from train.config import PhaseConfig
from train.sections import Sections

PACKAGES = ("jax", "jaxlib", "numpy", "flax", "orbax-checkpoint", "grain")
_CODE = ("configs", "data", "eval", "model", "pallas_kernels", "serving", "sharding", "train")
_ROOT = Path(__file__).parents[2]


@dataclasses.dataclass
class Facts:
    """equal: what must be the same on all hosts. amiss: what is wrong on this one. full: its disk holds no further
    checkpoint, which may change. fields: those of the config, for telling which of them differ."""

    rank: int
    host: str = dataclasses.field(default_factory=socket.gethostname)
    equal: dict[str, str] = dataclasses.field(default_factory=dict)
    amiss: dict[str, str] = dataclasses.field(default_factory=dict)
    full: str = ""
    fields: dict[str, str] = dataclasses.field(default_factory=dict)

    def find(self, name: str, look: Callable[[], str]) -> None:
        """Notes what must be equal everywhere, or why it cannot be told here."""
        try:
            self.equal[name] = look()
        except (ValueError, OSError) as error:
            self.amiss[name] = str(error)

    def to_text(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Facts:
        return cls(**json.loads(text))


def of_software(facts: Facts) -> None:
    """Versions of what computes, and the code of this repository."""
    facts.equal["python"] = platform.python_version()
    for package in PACKAGES:
        facts.find(package, lambda package=package: importlib.metadata.version(package))
    digest = hashlib.sha256()
    for path in sorted(path for folder in _CODE for path in (_ROOT / folder).rglob("*.py")):
        digest.update(str(path.relative_to(_ROOT)).encode() + b"\0" + path.read_bytes())
    facts.equal["code"] = digest.hexdigest()[:12]


def of_config(facts: Facts, config: ConfigDict) -> None:
    facts.equal["config"] = config_hash(config)
    facts.fields = {field: repr(value) for field, value in _flatten(to_plain(config), "config")}


def of_data(facts: Facts, sections: Sections, sources: Collection[str]) -> Vocabulary | None:
    """The tokenizer, which is trained where there is none yet, and the files of the named sources."""
    found: list[Vocabulary] = []

    def tokenizer() -> str:
        found.append(sections.vocabulary.build())
        return hashlib.sha256(found[0].serialized).hexdigest()[:12]

    facts.find("config.vocabulary", tokenizer)
    for name in sources:
        facts.find(f"config.sources.{name}", lambda name=name: files_in_words(sections.sources[name]))
    return found[0] if found else None


def of_disk(facts: Facts, workdir: Path, checkpoint_bytes: int) -> None:
    """Whether one more checkpoint fits where the run writes them."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".preflight_{facts.rank}"
        probe.write_bytes(b"1")
        probe.unlink()
        free = shutil.disk_usage(workdir).free
    except OSError as error:
        facts.full = f"{workdir} cannot be written: {error}"
        return
    if free < checkpoint_bytes:
        facts.full = f"{workdir} has {free / 1e9:.2f} GB free, a checkpoint takes {checkpoint_bytes / 1e9:.2f} GB"


def of_devices(facts: Facts) -> None:
    devices = jax.local_devices()
    facts.equal["devices"] = f"{len(devices)} x {devices[0].device_kind}"


def checkpoint_bytes(sections: Sections, phases: Iterable[PhaseConfig], vocabulary: Vocabulary) -> int:
    """What the largest checkpoint of any phase takes at least: parameters, their average, one moment of each."""

    def of_phase(phase: PhaseConfig) -> int:
        model = jax.eval_shape(lambda: create(sections.models[phase.model], vocabulary.size, sections.seed))
        _, params, _ = split(model)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
        copies = 1 + (phase.ema > 0) + (phase.lora is None)
        return size * copies

    return max(of_phase(phase) for phase in phases)


def _flatten(section: Any, where: str) -> list[tuple[str, Any]]:
    if not isinstance(section, dict) or not section:
        return [(where, section)]
    return [found for name, value in section.items() for found in _flatten(value, f"{where}.{name}")]
