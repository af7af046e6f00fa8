"""The phases of docs/support.md: each whole, on a mesh and on one device; what it begins from is of one device."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sharding.mesh import make_mesh
from tests.serving.split_robots import split_config
from tests.sharding.on_devices import devices_of, outcome, sizes_of
from tests.train.rollout.test_rollout_phases import config_of
from tests.train.test_image_encoder import siglip
from tests.train.test_post_training import post_training
from tests.train.tiny_config import robot_config, text_config
from train.build import build_phase
from train.checkpoint import Checkpoint
from train.distill_store.writer import write
from train.phases import run

# So large an epsilon makes the update as smooth as the gradient.
OPTIMIZER = {"learning_rate": 1e-2, "schedule": "constant", "eps": 1.0, "clip_norm": None}
STORE = "store:"  # the teacher of a phase that shall learn from a store of it
Config = Any
Make = Callable[[pathlib.Path], Config]  # a config whose data lie below a folder


@contextlib.contextmanager
def prepared(name: str) -> Iterator[Callable[[str], dict[str, str]]]:
    """What tells whether the phase on some axes leaves what it leaves on one device."""
    with tempfile.TemporaryDirectory() as base, pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.rows.CACHE", pathlib.Path(base) / "cache")
        patch.setattr("train.metrics.peak_flops", lambda: (1e9, "given"))
        phase = Prepared(*ROWS[name], pathlib.Path(base), patch)
        alone = phase.on_mesh("")
        yield lambda axes: {axes: outcome(phase.on_mesh(axes), alone)}


class Prepared:
    """A phase, and what it begins from."""

    def __init__(
        self, phase: str, make: Make, changes: dict[str, Any], folder: pathlib.Path, patch: pytest.MonkeyPatch
    ):
        self.phase, self.folder, self.config, self._patch = phase, folder, small(make(folder)), patch
        stored = changes.get("teacher") == STORE
        for field, value in changes.items():
            self.config.phases[phase][field] = value if value != STORE else self.config.phases[phase].teacher
        first = self.config.train.phases[0]
        if first != phase:  # then it is what the phase begins from or is taught by
            self._use(sizes_of(""))
            run(self.config, folder / "before", build_phase, only=first)
        if stored:
            store, teacher = folder / "store", Checkpoint.open(folder / "before" / first)
            write(self.config, phase, teacher, store, kind="topk", num=8, rows=8, batches_per_shard=1)
            self.config.phases[phase].teacher = f"store:{store}"

    def on_mesh(self, axes: str) -> dict[str, Any]:
        """What the phase leaves: figures of its last step, of its evaluation, and its checkpoint."""
        config, workdir = self.config.copy_and_resolve_references(), self.folder / f"on {axes}"
        config.mesh = sizes_of(axes)
        if (self.folder / "before").exists():
            shutil.copytree(self.folder / "before", workdir)
        self._use(config.mesh)
        done = run(config, workdir, build_phase, only=self.phase)[self.phase]
        checkpoint = Checkpoint.open(workdir / self.phase)
        stored = {"params": checkpoint.params, "buffers": checkpoint.buffers}
        return {"losses": done["losses"], "evaluation": done["evaluation"], **stored}

    def _use(self, sizes: Any) -> None:
        on_these = functools.partial(make_mesh, devices=devices_of(sizes))
        for module in ("train.build", "train.distill_store.writer"):
            self._patch.setattr(f"{module}.make_mesh", on_these)


def small(config: Config) -> Config:
    """With one attention layer in every model, ids that are numbers, and sizes that five axes of two divide."""
    for model in config.models.values():
        model.update(num_layers=1, pattern=("global",), num_codes=config.vocabulary.get("num_codes", 0))
        model.global_attention = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
        if "recurrent" in model:
            del model["recurrent"]
        if model.get("moe"):
            model.moe.num_experts = 4
    for phase in config.phases.values():
        phase.pipeline.batch_size, phase.steps = 8, 1
        phase.optimizer = OPTIMIZER
    config.train.update(log_every=1, checkpoint_every=100, spike_factor=None)
    return config


def acting(objective: str, **sections: Any) -> Make:
    """The phase `act` of two robots; sections of its model."""

    def make(folder: pathlib.Path) -> Config:
        config = robot_config(folder)
        for name, section in sections.items():
            config.models.policy[name] = section  # in place of what was there
        config.phases.act.objective = objective
        return config

    return make


def attempting(objective: str) -> Make:
    """The phase `attempt`, which learns from answers of its own."""

    def make(folder: pathlib.Path) -> Config:
        config = config_of(folder)
        config.phases.attempt.update(objective=objective, eval_every=0)
        return config

    return make


# The phase that is compared, its config, and what is changed in its section.
ROWS: dict[str, tuple[str, Make, dict[str, Any]]] = {
    "next_token": ("teach", text_config, {}),
    "distill": ("learn", text_config, {}),
    "distill, stored": ("learn", text_config, {"teacher": STORE}),
    "reward": ("judge", post_training, {}),
    "dpo": ("prefer", post_training, {"lora": None}),
    "bins": ("act", acting("bins", bins={"num_bins": 8}), {}),
    "l1": ("act", acting("l1", l1={"hidden_dim": 8}), {}),
    "flow": ("act", robot_config, {}),
    "local_decoder": ("act", split_config, {}),
    "grpo": ("attempt", attempting("grpo"), {}),
    "bond": ("attempt", attempting("bond"), {"ema": 0.9, "pipeline": {"batch_size": 16, "slots": 12}}),
    "on_policy_distill": ("attempt", attempting("on_policy_distill"), {}),
    "lora": ("prefer", post_training, {}),
    "quantize": ("teach", text_config, {"quantize": {"kind": "int4", "block": 4}}),
    "accumulate": ("teach", text_config, {"accumulate": 2, "pipeline": {"batch_size": 16, "slots": 24}}),
    "ema": ("teach", text_config, {"ema": 0.5}),
    "muon": ("teach", text_config, {"optimizer": {**OPTIMIZER, "kind": "muon"}}),
    "siglip": ("act", acting("flow", image=siglip()), {}),
}
