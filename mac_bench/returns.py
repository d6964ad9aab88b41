"""Returns, as pure functions. Time comes first in imagined rollouts [H, B], second in pieces of data [B, H]."""

from typing import Literal

import jax
import jax.numpy as jnp


def chunk_reward(rewards: jax.Array, alive: jax.Array, discount: float, kind: Literal["sum", "mean"]) -> jax.Array:
    """Discounted reward of each chunk [B, H] -> [B]: sum_i discount^i r_{t+i}, or that divided by H.

    MAC's paper has the sum, its code the mean. A reward counts up to and including the step at which the task ends,
    so `alive` [B, H] enters one step late.
    """
    horizon = rewards.shape[1]
    begun = jnp.concatenate([jnp.ones_like(alive[:, :1]), alive[:, :-1]], axis=1)
    total = (rewards * begun * discount ** jnp.arange(horizon)[None]).sum(axis=1)
    return total / horizon if kind == "mean" else total


def lambda_returns(
    rewards: jax.Array, alive: jax.Array, next_values: jax.Array, discount: float, lam: float
) -> jax.Array:
    """G_h = r_h + discount alive_h ((1 - lam) V_{h+1} + lam G_{h+1}),  G_H = V_H;  everything [H, B].

    The same number as V_h plus generalised advantage estimation (Schulman et al., arXiv 1506.02438, eq. 16).
    alive_h = 0 says that the task ended with reward r_h. With lam = 1 only the last row of next_values has weight.
    """

    def step(following, now):
        reward, going, value = now
        total = reward + discount * going * ((1 - lam) * value + lam * following)
        return total, total

    return jax.lax.scan(step, next_values[-1], (rewards, alive, next_values), reverse=True)[1]
