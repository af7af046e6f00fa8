"""Checkpoints in use: policies that act and generation of text."""
