"""World models of whole chunks, and rollouts through them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mac_bench.nn import MLP, Params, apply


def predict(net: MLP, params: Params, obs: jax.Array, chunk: jax.Array) -> jax.Array:
    """s_t [..., O], a_t ... a_{t+n-1} [..., n*A] -> the state after the chunk, s_t + f(s_t, chunk) [..., O]."""
    return obs + apply(net, params, obs, chunk)


def prediction_loss(net: MLP, params: Params, obs: jax.Array, chunk: jax.Array, next_obs: jax.Array) -> jax.Array:
    """Mean squared error over scaled observations -> scalar."""
    return jnp.square(predict(net, params, obs, chunk) - next_obs).mean()


class Rollout(NamedTuple):
    """H imagined chunks from B states."""

    states: jax.Array
    """[H+1, B, O] the first one is real; the successor of each is the next, so that nothing is stored twice"""
    chunks: jax.Array
    """[H, B, n*A]"""


def imagine(
    policy: Callable[[jax.Array, jax.Array], jax.Array],
    model: Callable[[jax.Array, jax.Array], jax.Array],
    start: jax.Array,
    draws: jax.Array,
) -> Rollout:
    """Alternate policy(obs, draw) -> chunk and model(obs, chunk) -> next obs, for each of the `draws` [H, ...]."""

    def step(obs, draw):
        chunk = policy(obs, draw)
        following = model(obs, chunk)
        return following, (following, chunk)

    _, (states, chunks) = jax.lax.scan(step, start, draws)
    return Rollout(jnp.concatenate([start[None], states]), chunks)
