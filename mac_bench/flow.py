"""Flow matching (Lipman et al., arXiv 2210.02747) on the linear path from N(0, I) to the data.

x_u = (1 - u) x_0 + u x_1,  velocity x_1 - x_0,  u ~ U[0, 1]
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Velocity = Callable[[jax.Array, jax.Array], jax.Array]
"""(x [..., D], u [..., 1]) -> velocity [..., D], with everything it is conditioned on bound"""


def flow_matching_loss(velocity: Velocity, x0: jax.Array, x1: jax.Array, u: jax.Array) -> jax.Array:
    """Mean squared error of the velocity at the points x_u. x0 noise [B, D], x1 data [B, D], u [B, 1] -> scalar."""
    return jnp.square(velocity((1 - u) * x0 + u * x1, u) - (x1 - x0)).mean()


def euler(velocity: Velocity, x0: jax.Array, steps: int) -> jax.Array:
    """Follow the velocity from noise x0 [..., D] at u = 0 to u = 1 in equal steps; u is taken at each step's start."""

    def step(x, i):
        u = jnp.full((*x.shape[:-1], 1), i / steps, x.dtype)
        return x + velocity(x, u) / steps, None

    # unrolled, XLA fuses and schedules the few small networks better than as a loop
    return jax.lax.scan(step, x0, jnp.arange(steps), unroll=True)[0]
