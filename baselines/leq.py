"""LEQ: Lower Expectile Q-learning (Park and Lee, arXiv 2407.00699).

The claim: values of imagined walks are too high where the model errs, so regress Q not to the mean of their returns but
to a low expectile: pessimism without any measure of the model's uncertainty. Long walks, by lambda-returns, keep the
bias of bootstrapping small.

A deterministic policy walks H steps from logged states. The return along such a walk is the mixture of all n-step
returns, n = 0 included, with weights 1, lambda, lambda^2, ...; backwards, with k_t = lambda + ... + lambda^{H-t},

    G_H = Q_H,    G_t = (Q_t + k_t (r_t + gamma G_{t+1})) / (1 + k_t)

    critic    imagined   |tau - 1(G < Q)| (Q(s_t, a_t) - G_t)^2, weighted by gamma^t until the end
              logged     (Q(s, a) - (r + gamma Q(s', pi(s'))))^2 / 2
              both       (Q - Q_slow)^2: stay near the slow copy; no target uses it
    actor     -|tau - 1(G_t < Q_t)| dG_t/da_t . pi(s_t) at every imagined state: the expectile's gradient, by the
              deterministic policy gradient, through model, reward, critic and the policy's own later actions
    model     see `gaussian.py`

The released code of MAC's comparison evaluates the critic of the imagined losses without the parameters that are
trained, so that those losses, 95 % of the whole, have no gradient. Here they do.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pydantic

from mac_bench import gaussian
from mac_bench.config import GoalMix
from mac_bench.data import Dataset, fit
from mac_bench.gaussian import ModelNetworks, WalkSettings, WorldModel
from mac_bench.jax_agent import JaxAgent, Learner, Method, descend, follow, initial_key, learner
from mac_bench.nn import MLP, Params, apply, initial, repeat, scalar
from mac_bench.types import About, Batch, Forecast, GoalSampling, Sampling

VERSION = 1
ABOUT = About(
    paper="Park and Lee 2024, arXiv 2407.00699",
    parity="law, hand numbers: tests/test_leq.py; learning: tests/test_learning.py",
    defaults="MAC's comparison. LEQ's own release: lam 0.95, discount 0.997, expectile 0.1 to 0.5 per task, "
    "imagined_weight 0.25, tau 0.02, batch 256, learning rates 1e-4 (critic) and 3e-5 (actor), model of 4 x 200 first",
    deviations="unlike MAC's comparison the dynamics start from 'nothing moves' (last layer times 0.01) and scaling is "
    "fitted on the training data; the imagined critic losses have gradient, which it lost; the actor learns nothing "
    "from imagined states after the task's end; walks start from logged states, where LEQ's release also starts from "
    "imagined ones and clones the policy first",
)


class Config(WalkSettings):
    """Defaults are those of MAC's comparison."""

    expectile: float = pydantic.Field(default=0.5, gt=0, lt=1)
    """tau; below 1/2 is pessimistic"""
    lam: float = pydantic.Field(default=1.0, ge=0, le=1)
    """lambda of the return; at 1 all n-step returns weigh the same"""
    imagined_weight: float = pydantic.Field(default=0.95, ge=0, le=1)
    """of the critic's losses on imagined steps; the rest is of those on logged ones"""
    value_goals: GoalMix = GoalMix(current=0.2, future=0.5, random=0.3)
    actor_goals: GoalMix = GoalMix(current=0.0, future=0.5, random=0.5, geometric=True)


class Networks(NamedTuple):
    """What is fixed; compared by value."""

    model: ModelNetworks
    critic: MLP
    actor: MLP


class State(NamedTuple):
    """What is learned."""

    world: WorldModel
    critic: Learner
    critic_target: Params
    """the slow copy"""
    actor: Learner


# -- imagined walks --------------------------------------------------------------------------------------------------


class Walk(NamedTuple):
    """R walks of H steps, and the action after the last."""

    states: jax.Array
    """[H+1, R, O]"""
    actions: jax.Array
    """[H+1, R, A]"""
    rewards: jax.Array
    """[H, R]"""
    alive: jax.Array
    """[H, R] 0 where s_t ends the task"""


def decide(nets: Networks, actor: Params, obs, goal) -> jax.Array:
    """The policy's action [..., A] in (-1, 1)."""
    return jnp.tanh(apply(nets.actor, actor, obs, goal))


def walk(c: Config, nets: Networks, state: State, obs, goal, key: jax.Array) -> Walk:
    """H steps of the policy in the model from states [R, O]."""

    def step(obs: jax.Array, key: jax.Array):
        action = decide(nets, state.actor.params, obs, goal)
        return gaussian.sample(nets.model, state.world, obs, action, key), (obs, action)

    last, (states, actions) = jax.lax.scan(step, obs, jax.random.split(key, c.rollout_steps))
    rewards, alive = gaussian.outcome(c, nets.model, state.world, states, repeat(goal, c.rollout_steps), actions)
    final = decide(nets, state.actor.params, last, goal)
    return Walk(jnp.concatenate([states, last[None]]), jnp.concatenate([actions, final[None]]), rewards, alive)


def evaluate(nets: Networks, critic: Params, walk: Walk, goal) -> jax.Array:
    """Q at every step of the walks [H+1, R]."""
    return scalar(nets.critic, critic, walk.states, repeat(goal, len(walk.states)), walk.actions)


def begun(alive: jax.Array) -> jax.Array:
    """[H, R] -> [H+1, R]: 1 up to the state that ends the task, 0 after it."""
    return jnp.concatenate([jnp.ones_like(alive[:1]), jnp.cumprod(alive, axis=0)])


# -- returns ---------------------------------------------------------------------------------------------------------


def lead(steps: int, lam: float) -> jax.Array:
    """k_0 ... k_{H-1}: what a step into the model weighs, against 1 for Q itself."""
    return lam * jnp.cumsum(lam ** jnp.arange(steps))[::-1]


def mixed_returns(q: jax.Array, rewards: jax.Array, alive: jax.Array, discount: float, lam: float) -> jax.Array:
    """G_0 ... G_H [H+1, R] of values [H+1, R], rewards and alive [H, R]; see the top of this file.

    `returns.lambda_returns` leaves Q_t itself out, and gives the longest return all the weight that would follow.
    """

    def step(following, now):
        value, reward, going, k = now
        mixed = (value + k * (reward + discount * going * following)) / (1 + k)
        return mixed, mixed

    _, before = jax.lax.scan(step, q[-1], (q[:-1], rewards, alive, lead(len(rewards), lam)), reverse=True)
    return jnp.concatenate([before, q[-1:]])


def action_gradients(c: Config, nets: Networks, state: State, walk: Walk, goal, key: jax.Array) -> jax.Array:
    """dG_t/da_t [H+1, R, A] of a walk that was made with this key: one way back along it.

    G_t depends on a_t through Q_t, r_t and s_{t+1}; on s_t through these and through a_t, which the policy takes there.
    """

    def value(obs: jax.Array, action: jax.Array) -> jax.Array:
        return scalar(nets.critic, state.critic.params, obs, goal, action)

    def through_policy(obs: jax.Array, by_obs: jax.Array, by_action: jax.Array) -> jax.Array:
        _, pull = jax.vjp(lambda s: decide(nets, state.actor.params, s, goal), obs)
        return by_obs + pull(by_action)[0]

    def step(by_next: jax.Array, now: tuple[jax.Array, ...]):
        obs, action, going, k, key = now

        def consequences(obs: jax.Array, action: jax.Array):
            reward, _ = gaussian.outcome(c, nets.model, state.world, obs, goal, action)
            return value(obs, action), reward, gaussian.sample(nets.model, state.world, obs, action, key)

        _, pull = jax.vjp(consequences, obs, action)
        share = jnp.broadcast_to(k / (1 + k), going.shape)
        by_obs, by_action = pull((1 - share, share, (share * c.discount * going)[:, None] * by_next))
        return through_policy(obs, by_obs, by_action), by_action

    obs, action = walk.states[-1], walk.actions[-1]
    _, pull = jax.vjp(value, obs, action)
    by_obs, by_action = pull(jnp.ones(len(obs)))
    keys = jax.random.split(key, c.rollout_steps)
    now = walk.states[:-1], walk.actions[:-1], walk.alive, lead(c.rollout_steps, c.lam), keys
    _, before = jax.lax.scan(step, through_policy(obs, by_obs, by_action), now, reverse=True)
    return jnp.concatenate([before, by_action[None]])


def asymmetry(difference: jax.Array, expectile: float) -> jax.Array:
    """|tau - 1(d < 0)| of d = return - value."""
    return jnp.where(difference > 0, expectile, 1 - expectile)


# -- losses ----------------------------------------------------------------------------------------------------------


def imagined_loss(c: Config, nets: Networks, params: Params, slow: Params, walk: Walk, goal, target) -> jax.Array:
    """Lower expectile of the returns [H+1, R] at every imagined state but the last, and nearness to the slow critic."""
    weight = (begun(walk.alive) * c.discount ** jnp.arange(len(target))[:, None])[:-1]
    q = evaluate(nets, params, walk, goal)[:-1]
    difference = target[:-1] - q
    near = jnp.square(evaluate(nets, slow, walk, goal)[:-1] - q)
    return (weight * (asymmetry(difference, c.expectile) * jnp.square(difference) + near)).mean()


def logged_loss(nets: Networks, params: Params, slow: Params, obs, goal, action, target: jax.Array) -> jax.Array:
    """Half the squared error to the targets [B] of logged steps, and nearness to the slow critic."""
    q = scalar(nets.critic, params, obs, goal, action)
    near = jnp.square(scalar(nets.critic, slow, obs, goal, action) - q)
    return (0.5 * jnp.square(target - q) + near).mean()


def actor_weights(c: Config, nets: Networks, critic: Params, walk: Walk, goal) -> jax.Array:
    """|tau - 1(G < Q)| [H+1, R] up to the end of the task, 0 after it; 1/2 at the last step, where G = Q."""
    q = evaluate(nets, critic, walk, goal)
    mixed = mixed_returns(q, walk.rewards, walk.alive, c.discount, c.lam)
    return asymmetry(mixed - q, c.expectile).at[-1].set(0.5) * begun(walk.alive)


def actor_loss(nets: Networks, params: Params, walk: Walk, goal, weight: jax.Array, gradient: jax.Array) -> jax.Array:
    """Its gradient is that of the weighted returns, by dG/da da/dparams at every state of the walks."""
    action = decide(nets, params, walk.states, repeat(goal, len(walk.states)))
    return -(weight[..., None] * gradient * action).sum(axis=(0, 2)).mean()


# -- one step --------------------------------------------------------------------------------------------------------


def update(c: Config, nets: Networks, state: State, batch: Batch, key: jax.Array):
    """One training step of the model and the policy, or of the one whose turn it is."""
    model_key, policy_key = jax.random.split(key)
    return gaussian.take_turns(
        lambda s: learn_model(c, nets, s, batch, model_key),
        lambda s: learn_policy(c, nets, s, batch, policy_key),
        state,
    )


def learn_model(c: Config, nets: Networks, state: State, batch: Batch, key: jax.Array):
    """One step of the world model."""
    world, metrics = gaussian.learn(c, nets.model, state.world, batch, key)
    return state._replace(world=world), metrics


def learn_policy(c: Config, nets: Networks, state: State, batch: Batch, key: jax.Array):
    """One step of critic and actor, both from the same old parameters."""
    critic_key, actor_key = jax.random.split(key)
    value_goal = actor_goal = None
    if batch.goals is not None:
        value_goal, actor_goal = batch.goals.value, batch.goals.actor[: c.rollout_batch]
    start, old = batch.obs[: c.rollout_batch], state.critic.params
    goal = None if value_goal is None else value_goal[: c.rollout_batch]
    step, metrics = partial(descend, learning_rate=c.learning_rate), {}

    walked = walk(c, nets, state, start, goal, critic_key)
    target = mixed_returns(evaluate(nets, old, walked, goal), walked.rewards, walked.alive, c.discount, c.lam)
    rewards, alive = gaussian.logged(c, batch)
    next_action = decide(nets, state.actor.params, batch.next_obs, value_goal)
    one_step = rewards + c.discount * alive * scalar(nets.critic, old, batch.next_obs, value_goal, next_action)

    def critic_loss(params: Params) -> jax.Array:
        imagined = imagined_loss(c, nets, params, state.critic_target, walked, goal, target)
        logged = logged_loss(nets, params, state.critic_target, batch.obs, value_goal, batch.actions[:, 0], one_step)
        return c.imagined_weight * imagined + (1 - c.imagined_weight) * logged

    critic, metrics["loss/critic"] = step(state.critic, loss=critic_loss)

    paths = walk(c, nets, state, start, actor_goal, actor_key)
    gradient = action_gradients(c, nets, state, paths, actor_goal, actor_key)
    weight = actor_weights(c, nets, old, paths, actor_goal)
    actor, metrics["loss/actor"] = step(
        state.actor, loss=lambda p: actor_loss(nets, p, paths, actor_goal, weight, gradient)
    )
    metrics |= {"value/mean": target.mean(), "value/min": target.min(), "value/max": target.max()}
    # the slow copy follows the parameters of before this step, as in the reference: it lags by one update
    slow = follow(state.critic_target, old, c.tau)
    return State(state.world, critic, slow, actor), metrics


def act(c: Config, nets: Networks, state: State, obs: jax.Array, goal, key: jax.Array) -> jax.Array:
    """[N, O] -> [N, 1, A]."""
    return decide(nets, state.actor.params, obs, goal)[:, None]


def forecast(c: Config, nets: Networks, state: State, obs: jax.Array, actions: jax.Array) -> Forecast:
    """Of the world model."""
    return gaussian.forecast(nets.model, state.world, obs, actions)


def make(c: Config, data: Dataset, seed: int) -> JaxAgent:
    """An agent for these data; goal-conditioned where they have goals."""
    scalings, keys = fit(c.scaling, "train", data), jax.random.split(initial_key(seed), 3)
    obs, action = jnp.zeros((1, data.observations.shape[1])), jnp.zeros((1, data.actions.shape[1]))
    goal = None if data.goals is None else jnp.zeros((1, data.goals.shape[1]))
    model, world = gaussian.initial_world(c, data, scalings, keys[0])
    nets = Networks(
        model,
        critic=MLP(c.value_hidden, 1, c.layer_norm),
        actor=MLP(c.policy_hidden, action.shape[1], c.layer_norm, last_scale=0.01),
    )
    critic = initial(nets.critic, keys[1], obs, goal, action)
    state = State(
        world=world,
        critic=learner(critic, c.learning_rate),
        critic_target=jax.tree.map(jnp.copy, critic),
        actor=learner(initial(nets.actor, keys[2], obs, goal), c.learning_rate),
    )
    goals = None if goal is None else GoalSampling(c.value_goals, c.actor_goals, c.discount)
    return JaxAgent(
        Method(update, act, forecast),
        c,
        nets,
        state,
        sampling=Sampling(c.batch_size, 1, goals),
        scalings=scalings,
        seed=seed,
    )
