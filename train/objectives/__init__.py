"""One file per objective; each has `loss(model, batch, key, ...) -> Loss`, and `Options` where it has settings."""

from train.objectives import bins, distill, flow, next_token

OBJECTIVES = {"next_token": next_token, "distill": distill, "bins": bins, "flow": flow}
