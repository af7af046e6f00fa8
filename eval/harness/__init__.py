"""Checkpoints under EleutherAI's lm-evaluation-harness, on local task files; see `python -m eval.harness --help`."""
