"""Configs of the real stack, small enough to train in seconds: text through two phases, and two made-up arms."""

from __future__ import annotations

import pathlib
from typing import Any

from ml_collections import ConfigDict

from data.vocabulary import Vocabulary
from tests.data.tiny_robots import SIZE, write_arm

TEXT = pathlib.Path(__file__).parents[1] / "assets/text/shakespeare.txt"
NUM_PIECES, NUM_CODES, CHUNK, WIDTH, PATCHES = 384, 16, 3, 5, 4
ATTENTION = {"num_heads": 2, "num_kv_heads": 1, "head_dim": 8}
OPTIMIZER = {"learning_rate": 1e-2, "schedule": "constant"}


def model(**sections: Any) -> dict:
    """One recurrent and one global layer, dense feed-forwards."""
    return {
        "model_dim": 16,
        "num_layers": 2,
        "pattern": ("recurrent", "global"),
        "ffn": ("dense",),
        "global_attention": ATTENTION,
        "recurrent": {"num_states": 4},
        "dense": {"hidden_dim": 16},
        **sections,
    }


def text_config(folder: pathlib.Path) -> ConfigDict:
    """`teach` on next tokens, then `learn` from it; every tenth document is held out."""
    text = TEXT.read_text()[:8000]
    (folder / "text.txt").write_text(text)
    Vocabulary.train([text], NUM_PIECES).save(folder / "vocabulary.model")
    phase = {"mixture": {"text": 1.0}, "pipeline": {"batch_size": 2, "slots": 24}, "steps": 3, "optimizer": OPTIMIZER}
    source = {"kind": "text", "paths": (str(folder / "text.txt"),), "separator": "\n\n", "holdout": 0.1}
    return _config(
        vocabulary={"path": str(folder / "vocabulary.model")},
        sources={"text": source},
        models={"teacher": model(ffn=("moe",), dense=None, moe=EXPERTS), "student": model()},
        phases={
            "teach": {"objective": "next_token", "model": "teacher", "ema": 0.5, **phase},
            "learn": {"objective": "distill", "model": "student", "teacher": "teach", **phase},
        },
    )


EXPERTS = {"num_experts": 3, "top_k": 1, "hidden_dim": 8, "bias_rate": 0.01}


def robot_config(folder: pathlib.Path) -> ConfigDict:
    """`act` by flow matching on two arms of 2 and 3 actions; writes their datasets below `folder`."""
    Vocabulary.train([TEXT.read_text()[:8000]], NUM_PIECES).save(folder / "vocabulary.model")
    arms = {"arm2": (4, 2), "arm3": (5, 3)}
    roots = {arm: write_arm(folder / arm, *widths, lengths=(5, 4)) for arm, widths in arms.items()}
    image = {"images": 1, "image_size": (SIZE, SIZE), "vectors": 1, "width": WIDTH, "chunk": CHUNK}
    phase = {
        "objective": "flow",
        "model": "policy",
        "mixture": dict.fromkeys(arms, 0.5),
        "pipeline": {"batch_size": 4, "slots": 24, **image},
        "steps": 2,
        "optimizer": OPTIMIZER,
    }
    policy = model(
        image={"height": SIZE, "width": SIZE, "patch_size": SIZE // 2, "stem_dim": 4},
        robot={"num_embodiments": 2, "width": WIDTH, "chunk": CHUNK},
        flow={"width": 8, "hidden_dim": 8, "num_steps": 2},
    )
    episodes = {"kind": "episodes", "num_slots": PATCHES, "chunk": CHUNK}
    return _config(
        vocabulary={"path": str(folder / "vocabulary.model"), "num_codes": NUM_CODES},
        embodiments={
            arm: {"index": i, "proprio_width": proprio, "action_width": action, "relative": 2}
            for i, (arm, (proprio, action)) in enumerate(arms.items())
        },
        sources={arm: {"root": roots[arm], "embodiment": arm, **episodes} for arm in arms},
        models={"policy": policy},
        phases={"act": phase},
    )


def _config(**sections: Any) -> ConfigDict:
    train = {"phases": tuple(sections["phases"]), "checkpoint_every": 100}
    return ConfigDict({"seed": 0, "mesh": {"data": 1}, "train": train, **sections}, type_safe=False)
