"""Post-training with rewards that can be verified: sums of two numbers, learnt by imitation and then by trying.

    python -m train --config configs/arithmetic.py          # GRPO; configs/arithmetic.py:bond for best-of-N

Expect, on 494 held-out sums and in a few minutes on two CPU cores: a drawn answer is right in 45 % after
`imitate` and in 70 % after `attempt`, at a KL of 0.31 nats an answer from where it began (`reward` and `kl` of the
evaluation); the most likely answer in 76 % and 82 %. Best-of-N: 67 % at a KL of 0.26, and 82 %.

    python -m train --config configs/arithmetic.py:warp     # a second run from the same start, then the two merged
    python -m train.merge runs/arithmetic/attempt runs/arithmetic/retry --init runs/arithmetic/imitate \\
        --out runs/arithmetic/merged --share 0.8 --evaluate

Expect 67 % at a KL of 0.23, where the first run alone came to 54 % at 0.26 on its way. Most of it is the share that is
taken: of the first run alone, 67 % at 0.22.

What it hangs on: norms learn faster than the rest, as most of what imitation lacks is decision, a matter of scale.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

RUN = "runs/arithmetic"
SHAKESPEARE = "tests/assets/text/shakespeare.txt"  # a vocabulary needs some text; digits are spelled in bytes
SAMPLES, PROMPT, ANSWER = 8, 8, 4


def get_config(variant: str = "") -> ConfigDict:
    """Variants: "" (GRPO), "bond", or "warp": GRPO twice, to be merged."""
    if variant not in ("", "bond", "warp"):
        raise ValueError(f"configs/arithmetic.py has no variant {variant!r}; allowed: bond, warp, or none")
    config = ConfigDict({"seed": 0, "mesh": {}})
    config.vocabulary = {"path": f"{RUN}/vocabulary.model", "paths": (SHAKESPEARE,), "size": 352}
    config.sources = {"sums": {"kind": "arithmetic", "num_problems": 10_000, "operations": "+", "holdout": 0.05}}
    config.models = {"policy": policy()}
    names = ("imitate", "attempt", "retry") if variant == "warp" else ("imitate", "attempt")
    config.phases = {"imitate": imitate()} | {name: attempt(variant) for name in names[1:]}
    config.train = {
        "phases": names,
        "log_every": 10,
        "steps": placeholder(int),
        "spike_factor": None,  # a gradient is small where all answers to a prompt are worth the same
    }
    return config


def policy() -> dict:
    return {
        "model_dim": 64,
        "num_layers": 2,
        "pattern": ("global",),
        "global_attention": {"num_heads": 4, "num_kv_heads": 4, "head_dim": 16},
        "ffn": ("dense",),
        "dense": {"hidden_dim": 128},
    }


def optimizer(learning_rate: float) -> dict:
    return {"kind": "muon", "learning_rate": learning_rate, "warmup": 0.05, "final": 0.1, "b2": 0.98}


def imitate() -> dict:
    return {
        "objective": "next_token",
        "model": "policy",
        "mixture": {"sums": 1.0},
        "pipeline": {"batch_size": 8, "slots": 256},
        "steps": 350,
        "optimizer": optimizer(5e-3),
    }


def attempt(variant: str) -> dict:
    objective = {"objective": "grpo", "options": {"kl": 0.02}}
    if variant == "bond":
        objective = {"objective": "bond", "options": {"best_of": 4, "beta": 0.5}, "ema": 0.98}
    return {
        "model": "policy",
        "mixture": {"sums": 1.0},
        "pipeline": {"batch_size": 32 * SAMPLES, "slots": PROMPT + ANSWER},
        "rollout": {"samples": SAMPLES, "prompt_slots": PROMPT, "num_tokens": ANSWER},
        "steps": 400,
        "init": "phase:imitate",
        "teacher": "imitate",
        "optimizer": optimizer(4e-4) | {"multipliers": (("norm", 30.0),)},
        "eval_every": 100,
        **objective,
    }
