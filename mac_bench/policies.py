"""Policies as functions of noise: a flow, a network of one step, a tanh-Gaussian; and the choice among their samples.

What they draw, [..., D], is one action, or the n actions of a chunk side by side. They hold what is fixed, compare by
value, and are given their parameters.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mac_bench.flow import euler, flow_matching_loss
from mac_bench.nn import MLP, Params, apply

EDGE = 1e-5
"""tanh cannot reach +-1: an action this close to it counts as this far away, or its density would be infinite"""
LOG_2PI = 1.8378770664093453


@dataclass(frozen=True)
class Flow:
    """A velocity (obs, goal, x, u) -> [..., D] that is followed from noise in Euler steps."""

    net: MLP
    steps: int

    def sample(self, params: Params, obs, goal, noise: jax.Array) -> jax.Array:
        """[..., D] in [-1, 1]."""
        return jnp.clip(euler(lambda x, u: apply(self.net, params, obs, goal, x, u), noise, self.steps), -1, 1)

    def loss(self, params: Params, obs, goal, actions: jax.Array, noise: jax.Array, time: jax.Array) -> jax.Array:
        """Flow matching of the data's actions [B, D], with noise [B, D] and time [B, 1] in [0, 1]."""
        return flow_matching_loss(lambda x, u: apply(self.net, params, obs, goal, x, u), noise, actions, time)


@dataclass(frozen=True)
class OneStep:
    """A network (obs, goal, noise) -> [..., D]."""

    net: MLP

    def sample(self, params: Params, obs, goal, noise: jax.Array) -> jax.Array:
        """[..., D] in [-1, 1]."""
        return jnp.clip(apply(self.net, params, obs, goal, noise), -1, 1)


@dataclass(frozen=True)
class Gaussian:
    """A network (obs, goal) -> [..., 2 D]: means and log deviations of a TanhGaussian."""

    net: MLP
    lowest: float = -5.0
    """log deviations are clipped to these"""
    highest: float = 2.0

    def __call__(self, params: Params, obs, goal) -> "TanhGaussian":
        """The distribution at these states."""
        mean, log_std = jnp.split(apply(self.net, params, obs, goal), 2, axis=-1)
        return TanhGaussian(mean, jnp.clip(log_std, self.lowest, self.highest))

    def sample(self, params: Params, obs, goal, noise: jax.Array) -> jax.Array:
        """[..., D] in [-1, 1]."""
        return self(params, obs, goal).sample(noise)

    def loss(self, params: Params, obs, goal, actions: jax.Array) -> jax.Array:
        """Negative log-likelihood of the data's actions [B, D], mean over B."""
        return -self(params, obs, goal).log_prob(actions).mean()


class TanhGaussian(NamedTuple):
    """tanh(x) with x ~ N(mean, diag(exp(log_std))^2)."""

    mean: jax.Array
    """[..., D] before tanh"""
    log_std: jax.Array
    """[..., D]"""

    def sample(self, noise: jax.Array) -> jax.Array:
        """The action [..., D] of standard normal noise [..., D]; differentiable in mean and deviation."""
        return jnp.tanh(self.mean + jnp.exp(self.log_std) * noise)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Log-density [...] of actions [..., D] in [-1, 1]: log N(x) - sum log(1 - tanh(x)^2), x = artanh(action)."""
        x = jnp.arctanh(jnp.clip(action, -1 + EDGE, 1 - EDGE))
        normal = -0.5 * jnp.square((x - self.mean) / jnp.exp(self.log_std)) - self.log_std - 0.5 * LOG_2PI
        # log(1 - tanh(x)^2), without the difference of two numbers near 1
        slope = 2 * (jnp.log(2.0) - x - jax.nn.softplus(-2 * x))
        return (normal - slope).sum(axis=-1)

    def mode(self) -> jax.Array:
        """tanh(mean) [..., D]: the action where none is to be drawn."""
        return jnp.tanh(self.mean)


def best(actions: jax.Array, q: jax.Array) -> jax.Array:
    """Rejection sampling: of the N actions [N, B, D] for each state the one with the highest q [N, B], as [B, D]."""
    return jnp.take_along_axis(actions, q.argmax(axis=0)[None, :, None], axis=0)[0]
