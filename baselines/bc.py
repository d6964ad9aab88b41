"""Behaviour cloning: the mean of the data's actions, by least squares. The file to copy for a method of your own.

    |a_t - mu(s_t, g)|^2        with g a later state of the same episode, where the task has goals

A newcomer changes what this file does and runs `mac-bench check-agent baselines.NAME`: the folder is the registry,
nothing else is edited. `chunk` > 1 clones the next n actions at once and executes `execute` of them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import pydantic

from mac_bench.config import GoalMix, Settings
from mac_bench.data import Dataset, ScalingKind, fit
from mac_bench.jax_agent import JaxAgent, Learner, Method, descend, initial_key, learner
from mac_bench.nn import MLP, Params, apply, initial
from mac_bench.types import About, Batch, GoalSampling, Sampling

VERSION = 1
ABOUT = About(
    paper="none: least squares",
    parity="learning: tests/test_learning.py (the mean of the data's actions)",
    defaults="network, optimiser and batch of the MAC comparison",
)


class Config(Settings):
    """Network and optimiser as for all methods of the MAC comparison."""

    chunk: int = pydantic.Field(default=1, gt=0)
    """n, actions that are cloned at once"""
    execute: int = pydantic.Field(default=1, gt=0)
    """of them, before the next decision"""
    hidden: tuple[int, ...] = (1024, 1024, 1024, 1024)
    layer_norm: bool = True
    learning_rate: float = pydantic.Field(default=3e-4, gt=0)
    batch_size: int = pydantic.Field(default=1024, gt=0)
    discount: float = pydantic.Field(default=0.999, gt=0, lt=1)
    """sets how far ahead goals lie"""
    goals: GoalMix = GoalMix(current=0.0, future=1.0, random=0.0, geometric=True)
    """only states that the logged actions did lead to"""
    scaling: ScalingKind = "minmax"

    @pydantic.model_validator(mode="after")
    def _fits_together(self):
        if self.execute > self.chunk:
            raise ValueError(f"execute is {self.execute}, but a chunk has {self.chunk} actions")
        return self


class Networks(NamedTuple):
    """What is fixed."""

    actor: MLP


class State(NamedTuple):
    """What is learned."""

    actor: Learner


def imitation_loss(nets: Networks, params: Params, obs, goal, chunk) -> jax.Array:
    """Mean squared error of the chunks [B, n*A]."""
    return jnp.square(apply(nets.actor, params, obs, goal) - chunk).mean()


def update(c: Config, nets: Networks, state: State, batch: Batch, key: jax.Array):
    """One gradient step; nothing in it is random."""
    chunk = batch.actions.reshape(len(batch.obs), -1)  # [B, n*A]
    goal = None if batch.goals is None else batch.goals.actor
    actor, loss = descend(state.actor, c.learning_rate, lambda p: imitation_loss(nets, p, batch.obs, goal, chunk))
    return State(actor), {"loss/actor": loss}


def act(c: Config, nets: Networks, state: State, obs: jax.Array, goal, key: jax.Array) -> jax.Array:
    """[N, O] -> [N, K, A] with K = execute."""
    chunk = jnp.clip(apply(nets.actor, state.actor.params, obs, goal), -1, 1)
    return chunk.reshape(len(obs), c.chunk, -1)[:, : c.execute]


def make(c: Config, data: Dataset, seed: int) -> JaxAgent:
    """An agent for these data; goal-conditioned where they have goals."""
    obs = jnp.zeros((1, data.observations.shape[1]))
    goal = None if data.goals is None else jnp.zeros((1, data.goals.shape[1]))
    nets = Networks(MLP(c.hidden, c.chunk * data.actions.shape[1], c.layer_norm, last_scale=0.01))
    state = State(learner(initial(nets.actor, initial_key(seed), obs, goal), c.learning_rate))
    goals = None if goal is None else GoalSampling(c.goals, c.goals, c.discount)
    return JaxAgent(
        Method(update, act),
        c,
        nets,
        state,
        sampling=Sampling(c.batch_size, c.chunk, goals),
        scalings=fit(c.scaling, "train", data),
        seed=seed,
    )
