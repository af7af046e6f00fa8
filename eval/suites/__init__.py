"""Text evaluations of a checkpoint: items with an identity, answered once, written as they come; see `command`."""
