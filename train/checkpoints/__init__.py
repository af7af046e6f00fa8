"""The parts of `train.checkpoint`: small files, checksums, and copies on a second disk."""
