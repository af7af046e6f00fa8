"""Embedders, mixers (local, global, recurrent), feed-forwards (dense, MoE), stack and heads."""
