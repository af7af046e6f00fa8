"""What a program does before JAX first uses a device."""

from __future__ import annotations

import logging

from pallas_kernels import assembler


def prepare_kernels() -> None:
    """See to it that GPU kernels get their registers; a warning says where that cannot be done, and the remedy."""
    if not assembler.use_ptxas():
        logging.getLogger(__name__).warning(assembler.problem())
