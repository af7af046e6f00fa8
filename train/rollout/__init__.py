"""Learning from what the model itself writes: prompts, answers drawn from it, their rewards, rows to learn from."""
