"""IQL with a DDPG+BC or AWR policy, goal-conditioned (GCIQL) or reward-based: the model-free one-step contrast.

Kostrikov et al., arXiv 2110.06169; policy extraction by DDPG+BC after Park et al., arXiv 2406.09329; goal-conditioned
as in Horizon Reduction, arXiv 2506.04168, whose settings are the defaults here.

    value    expectile regression of V(s) to min(Q'_1, Q'_2)(s, a)              the expectile stands in for max over a
    critic   |Q_i(s, a) - (r + gamma V(s'))|^2 for both i
    actor    DDPG+BC: -Q(s, mu(s)) / |Q| + alpha |a - mu(s)|^2 / 2;  AWR: exp(alpha (Q - V))-weighted imitation

Reward-based, the goal is left out, rewards and ends come from the data; the released code has no such mode.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import pydantic

from mac_bench.config import GoalMix, Settings
from mac_bench.data import Dataset, ScalingKind, fit
from mac_bench.jax_agent import JaxAgent, Learner, Method, descend, follow, initial_key, learner
from mac_bench.nn import MLP, Params, apply, ensemble, initial, scalar
from mac_bench.policies import LOG_2PI
from mac_bench.types import About, Batch, GoalSampling, Sampling

VERSION = 1
ABOUT = About(
    paper="IQL: Kostrikov et al., 2021, arXiv 2110.06169; as GCIQL in Horizon Reduction, arXiv 2506.04168",
    parity="golden numbers of the released code (goals, DDPG+BC), a law of the expectile: tests/test_gciql.py; "
    "laws of AWR: tests/test_mac_settings.py; learning: tests/test_learning.py",
    defaults="Horizon Reduction, for all tasks; its alpha and its aggregation of critics differ by task",
    deviations="reward-based tasks, which the released code does not know: no goal, rewards and ends from the data",
)

LARGEST_WEIGHT = 100.0
"""of an AWR sample; the reference's value"""


class Config(Settings):
    """Defaults are those of Horizon Reduction."""

    expectile: float = pydantic.Field(default=0.9, gt=0, lt=1)
    actor_loss: Literal["ddpgbc", "awr"] = "ddpgbc"
    q_aggregation: Literal["min", "mean"] = "min"
    """of the two critics; mean for humanoidmaze"""
    alpha: float = pydantic.Field(default=1.0, ge=0)
    """weight of imitation in DDPG+BC, inverse temperature in AWR"""
    discount: float = pydantic.Field(default=0.999, gt=0, lt=1)
    tau: float = pydantic.Field(default=0.005, gt=0, le=1)
    """rate of the slow critic"""
    goal_reward: Literal["-1/0", "0/1"] = "-1/0"
    """reward before / on reaching the goal"""
    value_hidden: tuple[int, ...] = (1024, 1024, 1024, 1024)
    """value and critic"""
    policy_hidden: tuple[int, ...] = (1024, 1024, 1024, 1024)
    layer_norm: bool = True
    learning_rate: float = pydantic.Field(default=3e-4, gt=0)
    batch_size: int = pydantic.Field(default=1024, gt=0)
    value_goals: GoalMix = GoalMix(current=0.2, future=0.5, random=0.3)
    actor_goals: GoalMix = GoalMix(current=0.0, future=0.5, random=0.5, geometric=True)
    scaling: ScalingKind = "minmax"
    scaling_split: Literal["train", "validation"] = "train"


class Networks(NamedTuple):
    """What is fixed."""

    value: MLP
    critic: MLP
    actor: MLP


class State(NamedTuple):
    """What is learned."""

    value: Learner
    critic: Learner
    """two members, stacked"""
    critic_target: Params
    actor: Learner


def expectile_loss(difference: jax.Array, expectile: float) -> jax.Array:
    """|expectile - 1(d < 0)| d^2, mean over d: its minimum over a constant is the expectile of the distribution."""
    return (jnp.where(difference >= 0, expectile, 1 - expectile) * difference**2).mean()


def aggregate(c: Config, q: jax.Array) -> jax.Array:
    """The two critics' values [2, B] as one [B]."""
    return q.min(axis=0) if c.q_aggregation == "min" else q.mean(axis=0)


def value_loss(c: Config, nets: Networks, params: Params, slow_critic: Params, obs, goal, action) -> jax.Array:
    """V [B] towards the upper expectile of Q over the data's actions."""
    q = aggregate(c, ensemble(nets.critic, slow_critic, obs, goal, action))
    return expectile_loss(q - scalar(nets.value, params, obs, goal), c.expectile)


def critic_loss(nets: Networks, params: Params, obs, goal, action, target) -> jax.Array:
    """Squared error of both members [2, B] to one target [B], summed over members."""
    q = ensemble(nets.critic, params, obs, goal, action)
    return jnp.square(q - target[None]).mean(axis=1).sum()


def actor_loss(c: Config, nets: Networks, params: Params, value: Params, critic: Params, obs, goal, action):
    """DDPG+BC or AWR for a Gaussian with fixed deviation 1 around the network's output."""
    mean = apply(nets.actor, params, obs, goal)  # [B, A]
    log_prob = -0.5 * (jnp.square(action - mean) + LOG_2PI).sum(axis=-1)
    if c.actor_loss == "awr":
        q = aggregate(c, ensemble(nets.critic, critic, obs, goal, action))
        advantage = q - scalar(nets.value, value, obs, goal)
        return -(jnp.minimum(jnp.exp(c.alpha * advantage), LARGEST_WEIGHT) * log_prob).mean()
    q = aggregate(c, ensemble(nets.critic, critic, obs, goal, jnp.clip(mean, -1, 1)))
    # dividing by the size of Q makes alpha independent of the scale of rewards
    return -q.mean() / jax.lax.stop_gradient(jnp.abs(q).mean() + 1e-6) - (c.alpha * log_prob).mean()


def update(c: Config, nets: Networks, state: State, batch: Batch, key: jax.Array):
    """One step of all three networks from the same old parameters. Nothing in it is random."""
    obs, action = batch.obs, batch.actions[:, 0]  # [B, A]
    rewards, alive, value_goal, actor_goal = batch.rewards[:, 0], batch.alive[:, 0], None, None
    if batch.goals is not None:
        value_goal, actor_goal = batch.goals.value, batch.goals.actor
        alive = 1 - batch.goals.reached
        rewards = batch.goals.reached - (c.goal_reward == "-1/0")
    q_target = rewards + c.discount * alive * scalar(nets.value, state.value.params, batch.next_obs, value_goal)
    step, metrics = partial(descend, learning_rate=c.learning_rate), {}

    value, metrics["loss/value"] = step(
        state.value, loss=lambda p: value_loss(c, nets, p, state.critic_target, obs, value_goal, action)
    )
    critic, metrics["loss/critic"] = step(
        state.critic, loss=lambda p: critic_loss(nets, p, obs, value_goal, action, q_target)
    )
    actor, metrics["loss/actor"] = step(
        state.actor,
        loss=lambda p: actor_loss(c, nets, p, state.value.params, state.critic.params, obs, actor_goal, action),
    )
    metrics |= {"value/mean": q_target.mean(), "value/min": q_target.min(), "value/max": q_target.max()}
    # the slow copy follows the parameters of before this step, as in the reference: it lags by one update
    critic_target = follow(state.critic_target, state.critic.params, c.tau)
    return State(value, critic, critic_target, actor), metrics


def act(c: Config, nets: Networks, state: State, obs: jax.Array, goal, key: jax.Array) -> jax.Array:
    """The policy's mean: [N, O] -> [N, 1, A]."""
    return jnp.clip(apply(nets.actor, state.actor.params, obs, goal), -1, 1)[:, None]


def make(c: Config, data: Dataset, seed: int) -> JaxAgent:
    """An agent for these data; goal-conditioned where they have goals."""
    obs, action = jnp.zeros((1, data.observations.shape[1])), jnp.zeros((1, data.actions.shape[1]))
    goal = None if data.goals is None else jnp.zeros((1, data.goals.shape[1]))
    nets = Networks(
        value=MLP(c.value_hidden, 1, c.layer_norm),
        critic=MLP(c.value_hidden, 1, c.layer_norm),
        actor=MLP(c.policy_hidden, action.shape[1], c.layer_norm, last_scale=0.01),
    )
    keys = jax.random.split(initial_key(seed), 3)
    critic = initial(nets.critic, keys[1], obs, goal, action, members=2)
    state = State(
        value=learner(initial(nets.value, keys[0], obs, goal), c.learning_rate),
        critic=learner(critic, c.learning_rate),
        critic_target=jax.tree.map(jnp.copy, critic),
        actor=learner(initial(nets.actor, keys[2], obs, goal), c.learning_rate),
    )
    return JaxAgent(
        Method(update, act),
        c,
        nets,
        state,
        sampling=Sampling(
            c.batch_size, 1, None if data.goals is None else GoalSampling(c.value_goals, c.actor_goals, c.discount)
        ),
        scalings=fit(c.scaling, c.scaling_split, data),
        seed=seed,
    )
