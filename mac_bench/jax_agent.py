"""From pure functions to an Agent: the shell that all JAX methods share.

A method is a triple (Config, Networks, State) and two pure functions over it, three where it has a world model:

    update(c, nets, state, batch, key) -> (state, metrics)
    act(c, nets, state, obs, goal, key) -> actions [N, K, A]
    forecast(c, nets, state, obs, actions) -> Forecast

They see scaled observations and goals. Config and networks are compared by value, so a second seed compiles nothing;
the same `update` can be vmapped over seeds and scanned over batches.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mac_bench.config import Settings
from mac_bench.data import Scaling, Scalings
from mac_bench.files import read_checkpoint, write_checkpoint
from mac_bench.nn import Params
from mac_bench.types import Batch, Forecast, Metrics, Sampling

INIT, UPDATE, ACT = 11, 12, 13
"""purpose numbers of the random streams"""


class Learner(NamedTuple):
    """One network's parameters with their own Adam. Each parameter has gradient from one loss only, so this equals the
    reference's single Adam over the sum of all losses."""

    params: Params
    optimizer: Any


def learner(params: Params, learning_rate: float) -> Learner:
    """A learner at the start of training."""
    return Learner(params, optax.adam(learning_rate).init(params))


def descend(old: Learner, learning_rate: float, loss: Callable[[Params], jax.Array]) -> tuple[Learner, jax.Array]:
    """One Adam step on `loss(params) -> scalar`; returns the new learner and the loss before it."""
    value, gradient = jax.value_and_grad(loss)(old.params)
    change, optimizer = optax.adam(learning_rate).update(gradient, old.optimizer, old.params)
    return Learner(optax.apply_updates(old.params, change), optimizer), value


def follow(target: Params, source: Params, rate: float) -> Params:
    """Exponential moving average of parameters: rate source + (1 - rate) target."""
    return jax.tree.map(lambda new, old: rate * new + (1 - rate) * old, source, target)


class Method(NamedTuple):
    """The pure functions of a method; see the top of this file."""

    update: Callable
    act: Callable
    forecast: Callable | None = None
    """of methods with a world model: (c, nets, state, obs [N, O], actions [N, T, A]) -> Forecast, all scaled"""


def initial_key(seed: int) -> jax.Array:
    """The key of everything that is drawn when an agent is made."""
    return jax.random.fold_in(jax.random.key(seed), INIT)


class JaxAgent:
    """An Agent around a Method. `method`, `c` and `nets` never change; `state` is replaced by every update."""

    def __init__(
        self,
        method: Method,
        c: Settings,
        nets: Any,
        state: Any,
        *,
        sampling: Sampling,
        scalings: Scalings,
        seed: int,
    ):
        self.method, self.c, self.nets, self.state = method, c, nets, state
        self.sampling, self.scalings, self.seed = sampling, scalings, seed

    def update(self, batch: Batch, step: int) -> Metrics:
        """One step; the metrics stay on the device."""
        self.state, metrics = _update(
            self.method, self.c, self.nets, self.state, self.scalings, batch, np.uint32(self.seed), np.uint32(step)
        )
        return metrics

    def act(self, obs: np.ndarray, goal: np.ndarray | None, *, seed: int) -> np.ndarray:
        """[N, O], [N, G] -> [N, K, A]."""
        actions = _act(self.method, self.c, self.nets, self.state, self.scalings, obs, goal, np.uint32(seed))
        return np.asarray(actions)

    @property
    def forecast(self) -> Callable[[np.ndarray, np.ndarray], Forecast] | None:
        """(obs [N, O], actions [N, T, A]) -> Forecast, in the units of the data; None without a world model."""
        return None if self.method.forecast is None else self._forecast

    def _forecast(self, obs: np.ndarray, actions: np.ndarray) -> Forecast:
        states, stride = _forecast(self.method, self.c, self.nets, self.state, self.scalings, obs, actions)
        return Forecast(np.asarray(states), int(stride))

    def save(self, path: Path, step: int) -> None:
        """Plain arrays under their paths in the state."""
        write_checkpoint(path, {name: np.asarray(leaf) for name, leaf in _named(self._saved()).items()}, step)

    def load(self, path: Path) -> int:
        """Raises UserError where names or shapes differ from this agent's."""
        here = _named(self._saved())
        arrays, step = read_checkpoint(path, here)
        structure = jax.tree.structure(self._saved())
        self.state, self.scalings = structure.unflatten([jnp.asarray(arrays[name]) for name in here])
        return step

    def _saved(self) -> tuple:
        return self.state, self.scalings


def _named(tree: Any) -> dict[str, Any]:
    """Leaves under their paths, in the order of the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _key(seed: jax.Array, purpose: int, step: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), purpose), step)


def _scaled(scaling: Scaling | None, x):
    return x if x is None or scaling is None else scaling(x)


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(3,))
def _update(method, c, nets, state, scalings: Scalings, batch: Batch, seed, step):
    goals = batch.goals
    if goals is not None:
        goals = goals._replace(value=_scaled(scalings.goal, goals.value), actor=_scaled(scalings.goal, goals.actor))
    batch = batch._replace(
        obs=_scaled(scalings.obs, batch.obs),
        next_obs=_scaled(scalings.obs, batch.next_obs),
        path=_scaled(scalings.obs, batch.path),
        goals=goals,
    )
    return method.update(c, nets, state, batch, _key(seed, UPDATE, step))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _act(method, c, nets, state, scalings: Scalings, obs, goal, seed):
    key = _key(seed, ACT, jnp.uint32(0))
    return method.act(c, nets, state, _scaled(scalings.obs, obs), _scaled(scalings.goal, goal), key)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _forecast(method, c, nets, state, scalings: Scalings, obs, actions) -> Forecast:
    forecast = method.forecast(c, nets, state, scalings.obs(obs), actions)
    return forecast._replace(states=scalings.obs.inverse(forecast.states))
