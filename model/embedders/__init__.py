"""What turns each modality into vectors of width D at its slots."""
