"""One file per objective; each has `loss(model, batch, key, ...) -> Loss`, and `Options` where it has settings."""

from train.objectives import (
    bins,
    bond,
    distill,
    dpo,
    flow,
    grpo,
    l1,
    local_decoder,
    next_token,
    on_policy_distill,
    reward,
)

OBJECTIVES = {
    "next_token": next_token,
    "distill": distill,
    "dpo": dpo,
    "reward": reward,
    "bins": bins,
    "l1": l1,
    "flow": flow,
    "local_decoder": local_decoder,
    "grpo": grpo,
    "bond": bond,
    "on_policy_distill": on_policy_distill,
}
