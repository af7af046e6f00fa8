"""Five ways to act on one backbone: flow matching, parallel bins, L1 regression, Gato's mu-law tokens, FAST tokens.

    python -m benchmarks.action_heads --backbone runs/demo/distil    # after `make demo`

Every head starts from the same distilled backbone, which learns with it, and sees the same demonstrations of one arm
that reaches what it is told to, in the same order and number. What is compared is success in the same unseen episodes
and what an answer costs. Heads are trained for a small budget, far from what each could reach: `make demo` shows where
a longer one takes flow matching.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import machine
from configs import demo
from data.episodes import Embodiment
from data.fast import Fast, chunks_of
from data.lerobot import LeRobotDataset
from data.transforms import Compose
from data.vocabulary import Vocabulary
from eval.envs.tabletop import EVALUATION_SEED, TabletopBatch
from eval.wilson import wilson_interval
from serving.policy import Observation, Policy
from train.build import build_phase
from train.checkpoint import Checkpoint
from train.phases import run

ARM, TASK = "arm6", "reach"
HEADS = ("flow", "bins", "l1", "mu_law", "fast")
BINS, FAST_CODES = 1024, 256
SECTIONS = {"flow": {"width": 128, "hidden_dim": 256}, "bins": {"num_bins": 256}, "l1": {"hidden_dim": 256}}
SLOTS = 38  # of an observation, as in the demo's config
HOLDOUT = 0.05  # share of the demonstrations that no head learns from


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.action_heads", description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", required=True, help="a phase or checkpoint of configs/demo.py")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--demonstrations", type=int, default=200)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=32, help="frames in a step")
    parser.add_argument("--episodes", type=int, default=50, help="unseen, for each head")
    parser.add_argument("--execute", type=int, default=4, help="steps of a chunk before the policy looks again")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/action_heads"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/action_heads.json"))
    options = parser.parse_args(arguments)
    options.workdir.mkdir(parents=True, exist_ok=True)
    vocabulary = Vocabulary.from_bytes(Checkpoint.open(options.backbone).vocabulary_bytes)
    vocabulary.save(options.workdir / "vocabulary.model")
    record(options.workdir / "data", options.demonstrations)
    record_of = json.loads(options.out.read_text()) if options.out.exists() else {}
    for head in options.heads:
        config = config_of(head, options)
        done = run(config, options.workdir / head, build_phase)["act"]
        policy = Policy.load(options.workdir / head / "act", batch_size=options.episodes)
        record_of[head] = {
            "steps": options.steps,
            "frames_in_a_step": options.batch,
            "demonstrations": options.demonstrations,
            "parameters": done["parameters"],
            "training_seconds": done["seconds"],
            "error_rad": error(policy, options.workdir / "data" / ARM, options.execute),
            **success(policy, options.episodes, options.execute),
            **answer_time(Policy.load(options.workdir / head / "act")),
            "machine": machine.describe(("jax", "jaxlib", "flax", "mujoco", "tokenizers")),
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record_of, indent=1) + "\n")
        print(line(head, record_of[head]), flush=True)


def record(folder: pathlib.Path, episodes: int) -> None:
    """Demonstrations as those of the demo, of one arm and task."""
    if (folder / ARM / "meta/info.json").exists():
        return
    command = ["eval.record", "--out", str(folder), "--task", TASK, "--arm", ARM, "--episodes", str(episodes)]
    subprocess.run([sys.executable, "-m", *command, "--anywhere", "--hold", "4", "--noise", "0"], check=True)


def config_of(head: str, options: argparse.Namespace) -> ConfigDict:
    """The demo's backbone with one head; no plan, so that an answer is the head's own."""
    config = demo.get_config()
    tokens, folder = head not in SECTIONS, options.workdir
    codes = {"mu_law": BINS, "fast": demo.NUM_CODES + FAST_CODES}.get(head, demo.NUM_CODES)
    others = {"num_other_codes": codes - demo.NUM_CODES}
    config.vocabulary = {"path": str(folder / "vocabulary.model"), "num_codes": codes}
    config.models = {"policy": demo.backbone() | demo_ffn() | others | ({} if tokens else {head: SECTIONS[head]})}
    source = {"kind": "episodes", "root": str(folder / "data" / ARM), "embodiment": ARM, "chunk": demo.CHUNK}
    source |= {"num_slots": demo.NUM_PATCHES, "holdout": HOLDOUT}
    config.embodiments[ARM].normalise = "quantile" if head == "fast" else "mean_std"
    if head == "mu_law":
        source |= {"continuous": False, "token_steps": tuple(range(demo.CHUNK)), "num_bins": BINS, "mu_law": True}
    if head == "fast":
        source |= {"continuous": False, "fast": fast_tokens(source, config.embodiments.to_dict(), folder)}
    config.sources = {ARM: source}
    config.train = {"phases": ("act",), "log_every": 50, "checkpoint_every": 10**6}
    config.phases = {"act": phase("next_token" if tokens else head, head, options)}
    del config["evaluate"]
    return config


def demo_ffn() -> dict:
    return {name: demo.student()[name] for name in ("ffn", "dense")}


def fast_tokens(source: dict, embodiments: dict, folder: pathlib.Path) -> str:
    """Trains them on the demonstrations; returns their file."""
    path = folder / "fast.json"
    if not path.exists():
        described = folder / "fast_config.py"
        config = {"sources": {ARM: source}, "embodiments": embodiments}
        described.write_text(f"from ml_collections import ConfigDict\n\nget_config = lambda: ConfigDict({config})\n")
        chunks, steps, limit = chunks_of(str(described), [ARM])
        Fast.train(chunks, steps, FAST_CODES, limit, scale=10.0).save(path)
    return str(path)


def phase(objective: str, head: str, options: argparse.Namespace) -> dict:
    slots = SLOTS + {"mu_law": demo.CHUNK * 7, "fast": demo.CHUNK * 7 // 2}.get(head, 0)  # 7 dims
    image = {"images": 1, "image_size": (demo.IMAGE, demo.IMAGE), "vectors": 1, "width": demo.WIDTH}
    return {
        "objective": objective,
        "model": "policy",
        "mixture": {ARM: 1.0},
        "pipeline": {"batch_size": options.batch, "slots": slots, "chunk": demo.CHUNK, **image},
        "steps": options.steps,
        "init": f"path:{options.backbone}",
        "optimizer": {**demo.whole_model_optimizer(), "learning_rate": 1e-3, "b2": 0.99},
    }


def success(policy: Policy, episodes: int, execute: int) -> dict[str, Any]:
    """Episodes with test wordings and unseen placements, all stepped together."""
    envs = TabletopBatch(ARM, TASK, episodes, "test")
    seen = envs.reset([EVALUATION_SEED + i for i in range(episodes)])
    left: list[np.ndarray | None] = [None] * episodes
    width = len(seen["proprio"][0]) - 3  # joints and gripper; three more tell where the fingertip is
    while len(active := np.flatnonzero(~envs.done)):
        asked = [
            Observation((seen["image"][i],), envs.instructions[i], seen["proprio"][i], ARM, running=left[i])
            for i in active
        ]
        plan_NCa = np.zeros((episodes, demo.CHUNK, width), np.float32)
        plan_NCa[active] = np.stack(policy.act(asked))
        plan_NCa[..., -1] = np.clip(plan_NCa[..., -1], 0, 1)
        for step in range(execute):
            found, _ = envs.step(plan_NCa[:, step], render=step == execute - 1)
        assert found is not None
        seen, left = found, list(plan_NCa[:, execute:])
    low, high = wilson_interval(int(envs.success.sum()), episodes)
    return {"episodes": episodes, "successes": int(envs.success.sum()), "low": low, "high": high}


def error(policy: Policy, root: pathlib.Path, execute: int) -> float:
    """Mean distance of the joints' first actions from those of demonstrations that were held out."""
    dataset, rows = LeRobotDataset(root), policy.observer.rows
    source = rows.sources[ARM]
    held_out = source.build(
        Embodiment(ARM, 0, *(dataset.column(name).shape[1] for name in (source.proprio, source.action))),
        Compose(()),
        policy.model.vocabulary,
        "validation",
    )
    seen, meant = [], []
    for episode, step in zip(held_out.episode_of, held_out.step_of, strict=True):
        row = dataset.starts[episode] + step
        if step + execute <= dataset.episode_lengths[episode]:
            (picture,) = dataset.frame(episode, step, source.cameras).values()
            state = dataset.column(source.proprio)[row]
            seen.append(Observation((picture,), dataset.frame_task(episode, step), state, ARM))
            meant.append(dataset.column(source.action)[row : row + execute])
    found = np.stack([chunk[:execute] for chunk in policy.act(seen)])
    return float(np.abs(found - np.stack(meant))[..., :-1].mean())


def answer_time(policy: Policy, repeats: int = 20) -> dict[str, float]:
    """Milliseconds of one answer to one robot, compiled before."""
    envs = TabletopBatch(ARM, TASK, 1)
    seen = envs.reset([0])
    asked = [Observation((seen["image"][0],), envs.instructions[0], seen["proprio"][0], ARM)]
    policy.act(asked)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(policy.act(asked))
        seconds.append(time.perf_counter() - start)
    return {"answer_ms": 1e3 * float(np.median(seconds))}


def line(head: str, found: dict[str, Any]) -> str:
    share = f"{found['successes']} of {found['episodes']}"
    off = f"off by {found['error_rad']:.4f} rad"
    return f"{head:8} {off}, {share} ({found['low']:.0%} .. {found['high']:.0%}), {found['answer_ms']:.1f} ms an answer"


if __name__ == "__main__":
    main()
