"""Implementations, one file each.

A file has `RUN`, the module that runs it (`run_jax` or `run_torch`), and one function for each operation it can do. The
function takes the case and returns `function(constants, *inputs)`; where it cannot do the case it raises NotSupported.
"""


class NotSupported(Exception):
    """The implementation cannot do the case; the message says why."""
