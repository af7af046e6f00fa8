"""Worlds that policies act in."""
