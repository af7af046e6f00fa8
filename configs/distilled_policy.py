"""A small policy from a large one: words, plans and velocities of the teacher at a fraction of its cost.

    make demo                                                        # for its recordings
    python -m train --config configs/distilled_policy.py
    python -m train --config configs/distilled_policy.py:hard --workdir runs/distilled_policy_hard
    python -m benchmarks.distilled_policy

The teacher is twice as wide as the demo's policy and integrates its velocity in 10 steps, the student in 5. `distil`
teaches it the teacher's words and plans, `follow` its velocities (`teacher` of objective flow). The variant `hard` is
the same student for as many steps without a teacher. Expect half an hour on two CPU cores, and in unseen episodes
88 % of the teacher, 87 % of the student at 0.2 of its FLOPs, and as much without a teacher; with
`--config.phases.distil.steps=450`, 69 % with a teacher and 63 % without.
"""

from ml_collections import ConfigDict

from configs import demo

RUN = "runs/distilled_policy"


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: "" = teacher and student, "hard" = the student alone, from the demonstrations."""
    if variant not in ("", "hard"):
        raise ValueError(f"configs/distilled_policy.py has no variant {variant!r}; choose hard, or leave it out")
    config = demo.get_config()
    student = demo.student()
    config.models = {"student": student, "small": student | {"flow": demo.policy()["flow"] | {"num_steps": 5}}}
    if variant == "hard":
        hard = distil() | {"objective": "next_token", "teacher": None}
        config.phases = {"distil": hard, "follow": follow() | {"teacher": None}}
    else:
        config.models.update({"teacher": teacher(), "large": teacher() | {"flow": {"width": 256, "hidden_dim": 512}}})
        config.phases = {
            "pretrain": demo.pretrain(),
            "act": demo.specialise() | {"model": "large", "init": "phase:pretrain"},
            "distil": distil(),
            "follow": follow(),
        }
    config.train.phases = ("distil", "follow") if variant else ("pretrain", "act", "distil", "follow")
    del config.evaluate.text
    config.evaluate.tabletop.policy = "follow"
    return config


def teacher() -> dict:
    attention = {"num_heads": 8, "num_kv_heads": 4, "head_dim": 32}
    return demo.student() | {
        "model_dim": 256,
        "dense": {"hidden_dim": 768},
        "local_attention": attention | {"window": 64},
        "global_attention": attention | {"rope_base": 100_000.0},
        "recurrent": {"num_states": 128},
    }


def distil() -> dict:
    """As many steps as the demo's policy has behind it: a student that begins from nothing needs them to see."""
    return demo.distil() | {"init": "scratch", "steps": 1500}


def follow() -> dict:
    return demo.specialise() | {"model": "small", "init": "phase:distil", "teacher": "act"}
