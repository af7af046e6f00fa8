"""The operations that decide the speed of a model, one folder each.

    interval_attention   softmax attention where query t sees the keys [lo_t, hi_t); returns (out, logsumexp)
    decode_attention     the same for a few queries over a cache whose slots lie in any order; inference only
    diagonal_scan        h_t = a keep_t h_{t-1} + x_t, complex, resettable
    grouped_matmul       every row times the matrix of its group, for dropless mixtures of experts

In a folder `__init__.py` is the op: its contract, its checks and its gradient rule. `reference.py` computes it in plain
JAX, forward and backward; it is the oracle of every other backend and what a CPU runs.
"""
