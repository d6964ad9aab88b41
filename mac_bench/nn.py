"""The one network that everything uses."""

from collections.abc import Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

Params = Any
"""The parameters of one network: nested dictionaries of arrays, as flax lays them out."""


class MLP(nn.Module):
    """Dense, GELU (tanh form), LayerNorm after each activation, and a plain last layer.

    Modules compare by value, so that jit compiles once for all seeds of a method.
    """

    hidden: Sequence[int]
    out: int
    layer_norm: bool = True
    last_scale: float = 1.0
    """gain of the last layer's initial weights; small for policies, so that their first actions are near 0"""

    @nn.compact
    def __call__(self, *inputs):
        """Concatenates the inputs [..., D_i] that are not None; returns [..., out]."""
        x = jnp.concatenate([x for x in inputs if x is not None], axis=-1)
        for size in self.hidden:
            x = nn.gelu(nn.Dense(size, kernel_init=_initial(1.0))(x))
            if self.layer_norm:
                x = nn.LayerNorm()(x)
        return nn.Dense(self.out, kernel_init=_initial(self.last_scale))(x)


def _initial(scale: float):
    return nn.initializers.variance_scaling(scale, "fan_avg", "uniform")


def apply(net: MLP, params: Params, *inputs) -> jax.Array:
    """A network as a function to [..., out]."""
    return cast(jax.Array, net.apply(params, *inputs))


def scalar(net: MLP, params: Params, *inputs) -> jax.Array:
    """A network with one output as a function to [...]: values, logits, rewards."""
    return apply(net, params, *inputs)[..., 0]


def ensemble(net: MLP, params: Params, *inputs) -> jax.Array:
    """The members of an ensemble, parameters stacked on the first axis [M, ...], as functions to [M, ...]."""
    return jax.vmap(lambda member: scalar(net, member, *inputs))(params)


def initial(net: MLP, key: jax.Array, *inputs, members: int | None = None) -> Params:
    """Initial parameters for inputs of these shapes; stacked on a first axis for `members` of an ensemble."""
    if members is None:
        return net.init(key, *inputs)
    return jax.vmap(lambda member: net.init(member, *inputs))(jax.random.split(key, members))


def repeat(x: jax.Array | None, number: int) -> jax.Array | None:
    """[B, ...] -> [N, B, ...]: one observation for N candidates, one goal for N steps. None stays None."""
    return None if x is None else jnp.broadcast_to(x, (number, *x.shape))
