"""Behaviour cloning with a flow policy: the distribution of the data's chunks, not only their mean.

MAC's behaviour policy without MAC (its distillation left out): what rejection sampling has to improve on. Flow matching
as in FQL (Park et al., arXiv 2502.02538); FBC in Horizon Reduction (arXiv 2506.04168).

    |v(s, g, x_u, u) - (a - z)|^2,  x_u = (1 - u) z + u a,   z ~ N(0, I),  u ~ U[0, 1],  a a chunk of n actions
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import pydantic

from mac_bench.config import GoalMix, Settings
from mac_bench.data import Dataset, ScalingKind, fit
from mac_bench.jax_agent import JaxAgent, Learner, Method, descend, initial_key, learner
from mac_bench.nn import MLP, initial
from mac_bench.policies import Flow
from mac_bench.types import About, Batch, GoalSampling, Sampling

VERSION = 1
ABOUT = About(
    paper="FBC in Horizon Reduction: Park et al., 2025, arXiv 2506.04168; flow policy of FQL, arXiv 2502.02538",
    parity="learning: tests/test_learning.py (mean and spread of the data's actions); laws: tests/test_returns.py",
    defaults="network, optimiser, flow and goals of MAC's behaviour policy; single actions as FBC",
)


class Config(Settings):
    """Network, optimiser, flow and goals as MAC's behaviour policy."""

    chunk: int = pydantic.Field(default=1, gt=0)
    """1 is FBC; MAC's behaviour policy has 10"""
    execute: int = pydantic.Field(default=1, gt=0)
    """actions of the chunk that are executed before the next decision"""
    flow_steps: int = pydantic.Field(default=10, gt=0)
    """Euler steps from noise to a chunk"""
    hidden: tuple[int, ...] = (1024, 1024, 1024, 1024)
    layer_norm: bool = True
    learning_rate: float = pydantic.Field(default=3e-4, gt=0)
    batch_size: int = pydantic.Field(default=1024, gt=0)
    discount: float = pydantic.Field(default=0.999, gt=0, lt=1)
    """sets how far ahead goals lie"""
    goals: GoalMix = GoalMix(current=0.0, future=0.5, random=0.5, geometric=True)
    scaling: ScalingKind = "minmax"

    @pydantic.model_validator(mode="after")
    def _fits_together(self):
        if self.execute > self.chunk:
            raise ValueError(f"execute is {self.execute}, but a chunk has {self.chunk} actions")
        return self


class Networks(NamedTuple):
    """What is fixed."""

    flow: Flow


class State(NamedTuple):
    """What is learned."""

    flow: Learner


def update(c: Config, nets: Networks, state: State, batch: Batch, key: jax.Array):
    """One gradient step."""
    chunk = batch.actions.reshape(len(batch.obs), -1)  # [B, n*A]
    goal = None if batch.goals is None else batch.goals.actor
    noise_key, time_key = jax.random.split(key)
    noise, time = jax.random.normal(noise_key, chunk.shape), jax.random.uniform(time_key, (len(chunk), 1))
    flow, loss = descend(state.flow, c.learning_rate, lambda p: nets.flow.loss(p, batch.obs, goal, chunk, noise, time))
    return State(flow), {"loss/flow": loss}


def act(c: Config, nets: Networks, state: State, obs: jax.Array, goal, key: jax.Array) -> jax.Array:
    """[N, O] -> [N, K, A] with K = execute: one sample of the policy."""
    noise = jax.random.normal(key, (len(obs), nets.flow.net.out))
    return nets.flow.sample(state.flow.params, obs, goal, noise).reshape(len(obs), c.chunk, -1)[:, : c.execute]


def make(c: Config, data: Dataset, seed: int) -> JaxAgent:
    """An agent for these data; goal-conditioned where they have goals."""
    obs, size = jnp.zeros((1, data.observations.shape[1])), c.chunk * data.actions.shape[1]
    goal = None if data.goals is None else jnp.zeros((1, data.goals.shape[1]))
    nets = Networks(Flow(MLP(c.hidden, size, c.layer_norm), c.flow_steps))
    params = initial(nets.flow.net, initial_key(seed), obs, goal, jnp.zeros((1, size)), jnp.zeros((1, 1)))
    goals = None if goal is None else GoalSampling(c.goals, c.goals, c.discount)
    return JaxAgent(
        Method(update, act),
        c,
        nets,
        State(learner(params, c.learning_rate)),
        sampling=Sampling(c.batch_size, c.chunk, goals),
        scalings=fit(c.scaling, "train", data),
        seed=seed,
    )
