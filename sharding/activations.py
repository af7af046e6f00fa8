"""Where activations live: rows over every batch axis, slots over the context axis, as the ambient mesh has them."""

from __future__ import annotations

import jax

from sharding.mesh import ambient_mesh, token_spec


def on_slots(x_BTD: jax.Array) -> jax.Array:
    """`x` with its placement said: the compiler shall gather weights to it, not it to weights. No mesh: `x` itself.

    Raises:
        ValueError: rows or slots that the mesh does not divide.
    """
    mesh = ambient_mesh()
    if mesh is None or mesh.manual_axes:
        return x_BTD
    return jax.lax.with_sharding_constraint(x_BTD, token_spec(mesh, *x_BTD.shape[:2]))
