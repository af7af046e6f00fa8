"""Models as functions for other programs: StableHLO, weights beside it and a loader that needs JAX alone."""
