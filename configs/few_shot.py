"""A few demonstrations of a new arm, or of a new task: from a policy that knows others, and from nothing.

    python -m eval.record --out runs/few_shot/data --arm arm5 arm6 --task reach push --episodes 200 650 \\
        --anywhere --hold 4 --noise 0 --scenes 20000
    python -m train --config configs/few_shot.py --workdir runs/few_shot/base
    python -m eval.few_shot --config configs/few_shot.py --checkpoint runs/few_shot/base/specialise

The base is the demo without arm7, whose place among the embodiments stays free. The last command records 10, 50 and 100
demonstrations for each of the variants `new_arm` (arm7, reach and push) and `new_task` (lift, arm5 and arm6), learns
from them after the base and from scratch for equally many steps, and draws success over demonstrations in
runs/few_shot/few_shot.png. Expect half an hour on two CPU cores after the base's ten minutes; with 10, 50 and 100
demonstrations 10, 35 and 61 % of unseen episodes of the new arm and 2, 44 and 84 % of the new task, where learning from
nothing stays below 5 %.
"""

from ml_collections import ConfigDict

from configs import demo

RUN = "runs/few_shot"
BASE_ARMS = ("arm5", "arm6")
CASES = {  # tasks, arms
    "new_arm": (("reach", "push"), ("arm7",)),
    "new_task": (("lift",), BASE_ARMS),
}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: "" = the base; CASE = from the base; CASE_scratch = from nothing."""
    case = variant.removesuffix("_scratch")
    if variant and case not in CASES:
        known = ", ".join(f"{name}, {name}_scratch" for name in CASES)
        raise ValueError(f"configs/few_shot.py has no variant {variant!r}; choose of {known}, or leave it out")
    config = demo.get_config()
    config.vocabulary.update(path=f"{RUN}/vocabulary.model", paths=(demo.SHAKESPEARE, f"{RUN}/data/instructions.txt"))
    if not variant:
        _use(config, BASE_ARMS, f"{RUN}/data")
        for phase in ("pretrain", "distil"):
            tokens = {f"{arm}_tokens": 0.2 / len(BASE_ARMS) for arm in BASE_ARMS}
            config.phases[phase].mixture = ConfigDict({"text": 0.2, "pointing": 0.6} | tokens)
        config.phases.specialise.mixture = ConfigDict({f"{arm}_chunks": 1.0 for arm in BASE_ARMS})
        config.evaluate.tabletop.arms = BASE_ARMS
        return config
    tasks, arms = CASES[case]
    _use(config, arms, f"{RUN}/{case}/data")
    del config.sources["text"], config.sources["pointing"], config.models["teacher"], config.models["student"]
    scratch = variant.endswith("_scratch")
    config.phases = {"learn": learn(arms, scratch), "adapt": adapt(arms)}
    config.train.phases = ("learn", "adapt")
    config.evaluate = {
        "tabletop": {"policy": "adapt", "tasks": tasks, "arms": arms, "conditions": ("normal",), "execute": demo.CHUNK}
    }
    return config


def _use(config: ConfigDict, arms: tuple, data: str) -> None:
    """Keeps the sources of these arms alone, below `data`."""
    for name, source in list(config.sources.items()):
        if "embodiment" in source and source.embodiment not in arms:
            del config.sources[name]
        elif "root" in source:
            source.root = source.root.replace(f"{demo.RUN}/data", data)
            if "embodiment" in source:
                source.holdout = 0.0 if data != f"{RUN}/data" else source.holdout


def learn(arms: tuple, scratch: bool) -> dict:
    """What the new sentences and pictures mean: plans and actions as tokens. The action expert waits."""
    rate = 3e-3 if scratch else 5e-4
    return {
        "objective": "next_token",
        "model": "policy",
        "mixture": {f"{arm}_tokens": 1.0 for arm in arms},
        "pipeline": demo.packed_rows(8),
        "steps": 200,
        "init": "scratch" if scratch else f"path:{RUN}/base/specialise",
        "optimizer": demo.whole_model_optimizer() | {"learning_rate": rate, "freeze": ("^flow/",)},
    }


def adapt(arms: tuple) -> dict:
    """The action expert on the new chunks."""
    phase = demo.specialise()
    phase.update(mixture={f"{arm}_chunks": 1.0 for arm in arms}, steps=500, init="phase:learn")
    return phase
