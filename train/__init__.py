"""Training: configuration, optimiser, step, loop, checkpoints and the phases that a run goes through in order."""
