"""A one-step world model in JAX: an ensemble of Gaussians of the next state, a reward model, a success model. Its twin
in PyTorch is `world_model.py`, whose dynamics start as the networks come, not from "nothing moves".

    dynamics    -log N(s_{t+1} | s_t + mu_i(s, a), sigma_i(s, a)) for each member i, scaled observations, per dimension
    reward      |r(s, a) - r_t|^2                                                   reward-based
    success     cross-entropy of "s_t has reached the goal" or "s_t has ended the task"    goals, or a learned end

The log-deviation is squashed into [-5, 1], as in the released code of MAC's comparison: no bounds are learned.

`ensemble.py` has the settings, and the rule of pretraining (`dynamics_training`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pydantic

from mac_bench import ensemble
from mac_bench.data import Dataset, ScalingKind, Scalings
from mac_bench.dynamics import open_loop, reward_loss, success_loss
from mac_bench.ensemble import IMPROVEMENT, LOG_STD_HIGH, LOG_STD_LOW, EnsembleSettings
from mac_bench.jax_agent import Learner, descend, learner
from mac_bench.nn import MLP, Params, apply, initial, scalar
from mac_bench.types import Batch, Forecast


class ModelSettings(EnsembleSettings):
    """Settings of the world model; the defaults are those of MAC's comparison."""

    layer_norm: bool = True
    """in all networks"""
    learning_rate: float = pydantic.Field(default=3e-4, gt=0)
    """of all networks"""


class WalkSettings(ModelSettings):
    """Of a method that walks H steps in the model from logged states, and learns a value and a policy there; the
    defaults are those of MAC's comparison."""

    rollout_steps: int = pydantic.Field(default=10, gt=0)
    """H, imagined actions"""
    rollout_batch: int = pydantic.Field(default=1024, gt=0)
    """imagined walks for each loss of one update; they start from the first states of the batch"""
    discount: float = pydantic.Field(default=0.999, gt=0, lt=1)
    tau: float = pydantic.Field(default=0.005, gt=0, le=1)
    """rate of the slow value or critic"""
    value_hidden: tuple[int, ...] = (1024, 1024, 1024, 1024)
    policy_hidden: tuple[int, ...] = (1024, 1024, 1024, 1024)
    batch_size: int = pydantic.Field(default=1024, gt=0)
    scaling: ScalingKind = "minmax"

    @pydantic.model_validator(mode="after")
    def _fits_together(self):
        if self.rollout_batch > self.batch_size:
            raise ValueError(f"rollout_batch is {self.rollout_batch}, more than batch_size {self.batch_size}")
        return self


class ModelNetworks(NamedTuple):
    """What is fixed; compared by value."""

    dynamics: MLP
    outcome: MLP
    """architecture of the success and the reward model"""


class Steps(NamedTuple):
    """K scaled one-step transitions."""

    obs: jax.Array
    """[K, O]"""
    actions: jax.Array
    """[K, A]"""
    next_obs: jax.Array
    """[K, O]"""


class Fitting(NamedTuple):
    """Where pretraining stands."""

    holdout: Steps
    """at most HOLDOUT transitions that the dynamics never train on"""
    held_from: jax.Array
    """rows of the training data from here on are held out; beyond the last where there is a validation split"""
    kept: Params
    """[M, ...] the parameters of each member when it last improved"""
    error: jax.Array
    """[M] their held-out errors; inf before the first look"""
    updates: jax.Array
    """done so far"""
    looks: jax.Array
    """in a row at which no member had improved"""
    done: jax.Array
    """whether the model is ready for the policy"""


class WorldModel(NamedTuple):
    """What is learned."""

    members: Learner
    """parameters stacked on the first axis [M, ...]"""
    elite: jax.Array
    """[E] the members in use"""
    reward: Learner | None
    """reward-based tasks"""
    success: Learner | None
    """goal-conditioned tasks, and reward-based ones with a learned termination"""
    fitting: Fitting | None
    """only where the model is pretrained"""


# -- prediction ------------------------------------------------------------------------------------------------------


def _member(net: MLP, params: Params, obs: jax.Array, actions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean of the next state and log-deviation [N, O], by one member."""
    change, raw = jnp.split(apply(net, params, obs, actions), 2, axis=-1)
    return obs + change, LOG_STD_LOW + (LOG_STD_HIGH - LOG_STD_LOW) * jax.nn.sigmoid(raw)


def predictions(
    net: MLP, params: Params, obs: jax.Array, actions: jax.Array, own: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Mean of the next state and log-deviation [M, N, O] by every member, of the same states and actions [N, ...] or of
    its `own` [M, N, ...]."""
    axis = 0 if own else None
    return jax.vmap(partial(_member, net), in_axes=(0, axis, axis))(params, obs, actions)


def elite_params(world: WorldModel) -> Params:
    """[E, ...]"""
    return jax.tree.map(lambda leaf: leaf[world.elite], world.members.params)


def elite_means(nets: ModelNetworks, world: WorldModel, obs: jax.Array, actions: jax.Array) -> jax.Array:
    """What each elite expects after actions [N, A] in states [N, O]: [E, N, O]."""
    return predictions(nets.dynamics, elite_params(world), obs, actions)[0]


def disagreement(means: jax.Array) -> jax.Array:
    """max_{i,j} |mu_i - mu_j| of members' means [E, N, O], as [N] (MOReL, arXiv 2005.05951, section 4)."""
    return jnp.linalg.norm(means[:, None] - means[None], axis=-1).max(axis=(0, 1))


def sample(nets: ModelNetworks, world: WorldModel, obs: jax.Array, actions: jax.Array, key: jax.Array) -> jax.Array:
    """A next state [N, O], for each row from one elite drawn at random; differentiable in state and action.

    The rows are dealt out to the shuffled elites in equal shares: each row meets each elite with the same probability,
    anew at every call, and every elite computes only its share.
    """
    choose, draw = jax.random.split(key)
    number, elites = len(obs), len(world.elite)
    share = -(-number // elites)

    def deal(x: jax.Array) -> jax.Array:  # [N, D] -> [E, N/E, D]
        return jnp.pad(x, ((0, elites * share - number), (0, 0))).reshape(elites, share, -1)

    shuffled = world._replace(elite=jax.random.permutation(choose, world.elite))
    mean, log_std = predictions(nets.dynamics, elite_params(shuffled), deal(obs), deal(actions), own=True)
    following = mean + jnp.exp(log_std) * jax.random.normal(draw, mean.shape)
    return following.reshape(elites * share, -1)[:number]


def outcome(
    c: ModelSettings, nets: ModelNetworks, world: WorldModel, obs, goal, actions
) -> tuple[jax.Array, jax.Array]:
    """Reward and alive [...] of acting in states [..., O]; the end is a hard decision at probability one half."""
    success = jnp.zeros(obs.shape[:-1])
    if world.success is not None:
        success = (scalar(nets.outcome, world.success.params, obs, goal, actions) > 0).astype(jnp.float32)
    if world.reward is not None:
        return scalar(nets.outcome, world.reward.params, obs, goal, actions), 1 - success
    return success - c.goal_cost, 1 - success


def logged(c: ModelSettings, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The same of the batch's first actions, from the data: reward and alive [B]."""
    if batch.goals is not None:
        return batch.goals.reached - c.goal_cost, 1 - batch.goals.reached
    alive = batch.alive[:, 0]
    return batch.rewards[:, 0], alive if c.termination == "learned" else jnp.ones_like(alive)


def forecast(nets: ModelNetworks, world: WorldModel, obs: jax.Array, actions: jax.Array) -> Forecast:
    """Open loop from obs [N, O] under actions [N, T, A]: at each step the mean of the elites' means."""
    return open_loop(lambda s, a: elite_means(nets, world, s, a).mean(axis=0), obs, actions, 1)


# -- learning --------------------------------------------------------------------------------------------------------


def nll(mean: jax.Array, log_std: jax.Array, target: jax.Array) -> jax.Array:
    """Negative log-likelihood per dimension [...] of targets [..., O] under diagonal Gaussians."""
    return -jax.scipy.stats.norm.logpdf(target, mean, jnp.exp(log_std)).mean(axis=-1)


def dynamics_loss(net: MLP, params: Params, steps: Steps, weight: jax.Array) -> jax.Array:
    """Each member's loss on its own steps [M, B, ...] with weights [M, B], summed over members."""
    mean, log_std = predictions(net, params, steps.obs, steps.actions, own=True)
    return (weight * nll(mean, log_std, steps.next_obs)).mean(axis=1).sum()


def lessons(c: ModelSettings, fitting: Fitting | None, batch: Batch, key: jax.Array) -> tuple[Steps, jax.Array]:
    """What each member learns from a batch: steps [M, B, ...] and their weights [M, B], 0 for held-out rows."""
    steps, shape = Steps(batch.obs, batch.actions[:, 0], batch.next_obs), (c.members, len(batch.obs))
    if fitting is None:
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (c.members, *x.shape)), steps), jnp.ones(shape)
    rows = jax.random.randint(key, shape, 0, len(batch.obs))
    weight = (batch.index < fitting.held_from).astype(jnp.float32)
    return jax.tree.map(lambda x: x[rows], steps), weight[rows]


def learn(c: ModelSettings, nets: ModelNetworks, world: WorldModel, batch: Batch, key: jax.Array):
    """One step of dynamics, reward and success on one batch; pretraining also looks whether it is done."""
    step, metrics = partial(descend, learning_rate=c.learning_rate), {}
    steps, weight = lessons(c, world.fitting, batch, key)
    members, metrics["loss/dynamics"] = step(
        world.members, loss=lambda p: dynamics_loss(nets.dynamics, p, steps, weight)
    )
    obs, action, goal = batch.obs, batch.actions[:, 0], None if batch.goals is None else batch.goals.value
    reward, success = world.reward, world.success
    if reward is not None:
        reward, metrics["loss/reward"] = step(
            reward, loss=lambda p: reward_loss(nets.outcome, p, obs, goal, action, batch.rewards[:, 0])
        )
    if success is not None:
        label = batch.goals.reached if batch.goals is not None else 1 - batch.alive[:, 0]
        success, metrics["loss/success"] = step(
            success, loss=lambda p: success_loss(nets.outcome, p, obs, goal, action, label)
        )
    world = world._replace(members=members, reward=reward, success=success)
    return (world if world.fitting is None else look(c, nets, world, world.fitting)), metrics


def look(c: ModelSettings, nets: ModelNetworks, world: WorldModel, fitting: Fitting) -> WorldModel:
    """Count an update of pretraining; where it is time, measure the held-out errors; where it is over, settle."""
    updates, params = fitting.updates + 1, world.members.params

    def measured(old: Fitting) -> Fitting:
        return judge(c, old, params, holdout_errors(nets, params, old.holdout))

    due = (updates % c.holdout_every == 0) | (updates >= c.model_updates)
    fitting = jax.lax.cond(due, measured, lambda old: old, fitting._replace(updates=updates))
    world = world._replace(fitting=fitting)
    return jax.lax.cond(fitting.done, lambda old: settle(c, old, fitting), lambda old: old, world)


def holdout_errors(nets: ModelNetworks, params: Params, holdout: Steps) -> jax.Array:
    """Mean squared error of each member's mean [M] on the held-out steps [K, ...]."""
    mean, _ = predictions(nets.dynamics, params, holdout.obs, holdout.actions)
    return jnp.square(mean - holdout.next_obs[None]).mean(axis=(1, 2))


def judge(c: ModelSettings, fitting: Fitting, params: Params, error: jax.Array) -> Fitting:
    """Keep the members [M, ...] whose held-out error [M] fell enough; decide whether that was all."""
    better = error < (1 - IMPROVEMENT) * fitting.error

    def keep(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(better.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    looks = jnp.where(better.any(), 0, fitting.looks + 1)
    return fitting._replace(
        kept=jax.tree.map(keep, params, fitting.kept),
        error=jnp.where(better, error, fitting.error),
        looks=looks,
        done=(looks >= c.patience) | (fitting.updates >= c.model_updates),
    )


def settle(c: ModelSettings, world: WorldModel, fitting: Fitting) -> WorldModel:
    """Every member as it was kept, and the best of them as elites."""
    elite = jnp.argsort(fitting.error)[: c.elites].astype(jnp.int32)
    return world._replace(members=world.members._replace(params=fitting.kept), elite=elite)


Learn = Callable[[Any], tuple[Any, dict[str, jax.Array]]]
"""state -> (state, metrics)"""


def take_turns(learn_model: Learn, learn_policy: Learn, state: Any) -> tuple[Any, dict[str, jax.Array]]:
    """Both, from the same old parameters, where the model trains jointly; else the model until it is ready, and then
    the policy. `state.world` is a WorldModel; each changes only its own part of the state.

    Metrics of the one whose turn it is not are 0, and so is `model/best_error`, the held-out error of what is kept,
    before the first look.
    """
    fitting = state.world.fitting
    if fitting is None:
        state, policy_metrics = learn_policy(state)
        state, model_metrics = learn_model(state)
        return state, model_metrics | policy_metrics
    names = [name for learn in (learn_model, learn_policy) for name in jax.eval_shape(learn, state)[1]]

    def turn(learn: Learn) -> Learn:
        def full(state: Any) -> tuple[Any, dict[str, jax.Array]]:
            state, metrics = learn(state)
            return state, dict.fromkeys(names, jnp.zeros(())) | metrics

        return full

    state, metrics = jax.lax.cond(fitting.done, turn(learn_policy), turn(learn_model), state)
    now = state.world.fitting
    # what is not finite would stop the run
    error = jnp.where(jnp.isfinite(now.error), now.error, 0).mean()
    return state, metrics | {"model/ready": now.done.astype(jnp.float32), "model/best_error": error}


# -- construction ----------------------------------------------------------------------------------------------------


def hold_out(data: Dataset, scalings: Scalings) -> tuple[Steps, int]:
    """Scaled transitions that no member trains on, and the row of the training data from which on all are held out."""
    batch, held_from = ensemble.hold_out(data)
    steps = Steps(scalings.obs(batch.obs), batch.actions[:, 0], scalings.obs(batch.next_obs))
    return Steps(*(jnp.asarray(column, jnp.float32) for column in steps)), held_from


def initial_world(
    c: ModelSettings, data: Dataset, scalings: Scalings, key: jax.Array
) -> tuple[ModelNetworks, WorldModel]:
    """Networks for these data and their first parameters; goal-conditioned where the data have goals."""
    obs, action = jnp.zeros((1, data.observations.shape[1])), jnp.zeros((1, data.actions.shape[1]))
    goal = None if data.goals is None else jnp.zeros((1, data.goals.shape[1]))
    nets = ModelNetworks(
        # nothing moves at first: what outputs of size 1 are wrong by would fill the memory of Adam for 1,000 updates
        dynamics=MLP(c.model_hidden, 2 * obs.shape[1], c.layer_norm, last_scale=0.01),
        outcome=MLP(c.model_hidden, 1, c.layer_norm),
    )
    keys = jax.random.split(key, 3)
    params = initial(nets.dynamics, keys[0], obs, action, members=c.members)

    def fresh(key: jax.Array) -> Learner:
        return learner(initial(nets.outcome, key, obs, goal, action), c.learning_rate)

    fitting = None
    if c.dynamics_training == "pretrained":
        holdout, held_from = hold_out(data, scalings)
        fitting = Fitting(
            holdout=holdout,
            held_from=jnp.asarray(held_from, jnp.int32),
            kept=jax.tree.map(jnp.copy, params),
            error=jnp.full(c.members, jnp.inf),
            updates=jnp.zeros((), jnp.int32),
            looks=jnp.zeros((), jnp.int32),
            done=jnp.zeros((), bool),
        )
    return nets, WorldModel(
        members=learner(params, c.learning_rate),
        elite=jnp.arange(c.members if fitting is None else c.elites, dtype=jnp.int32),
        reward=fresh(keys[1]) if goal is None else None,
        success=fresh(keys[2]) if goal is not None or c.termination == "learned" else None,
        fitting=fitting,
    )
