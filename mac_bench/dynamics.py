"""World models of whole chunks: what follows, whether the goal is reached, the reward; and rollouts through them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mac_bench.nn import MLP, Params, apply, scalar
from mac_bench.types import Forecast


def predict(net: MLP, params: Params, obs: jax.Array, chunk: jax.Array) -> jax.Array:
    """s_t [..., O], a_t ... a_{t+n-1} [..., n*A] -> the state after the chunk, s_t + f(s_t, chunk) [..., O]."""
    return obs + apply(net, params, obs, chunk)


def prediction_loss(net: MLP, params: Params, obs: jax.Array, chunk: jax.Array, next_obs: jax.Array) -> jax.Array:
    """Mean squared error over scaled observations -> scalar."""
    return jnp.square(predict(net, params, obs, chunk) - next_obs).mean()


def success_loss(net: MLP, params: Params, obs: jax.Array, goal, chunk: jax.Array, label: jax.Array) -> jax.Array:
    """Cross-entropy of the labels [B] in {0, 1} -> scalar; the net gives logits."""
    return optax.sigmoid_binary_cross_entropy(scalar(net, params, obs, goal, chunk), label).mean()


def reward_loss(net: MLP, params: Params, obs: jax.Array, goal, chunk: jax.Array, target: jax.Array) -> jax.Array:
    """Mean squared error of the chunk rewards [B] -> scalar."""
    return jnp.square(scalar(net, params, obs, goal, chunk) - target).mean()


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


def open_loop(
    model: Callable[[jax.Array, jax.Array], jax.Array], obs: jax.Array, actions: jax.Array, stride: int
) -> Forecast:
    """What `model` says of the actions [N, T, A] from obs [N, O], `stride` at a time; a remainder is dropped."""
    number, size = actions.shape[1] // stride, stride * actions.shape[2]
    chunks = actions[:, : number * stride].reshape(len(obs), number, size).swapaxes(0, 1)  # [T // n, N, n*A]
    states = imagine(lambda _, chunk: chunk, model, obs, chunks).states[1:]  # [T // n, N, O]
    return Forecast(states.swapaxes(0, 1), stride)
