"""MAC: Model-Based RL with Action Chunks (Park and Lee, ICLR 2026).

The claim: a model that predicts the state after a whole chunk of n actions makes n times fewer steps, and so n times
fewer errors, than a one-step model; imagined rollouts of H chunks (100 environment steps) are then good enough to train
the value by their return, without the bias of bootstrapping at every step. Actions stay in distribution by rejection
sampling: of N chunks drawn from a behaviour policy, the one with the highest Q is taken.

Seven small networks, each trained by one loss, all in one step on one batch:

    dynamics    |s_t + f(s_t, a) - s_{t+n}|^2                                       a is a chunk of n actions
    success     cross-entropy of "the goal is reached inside this chunk"            goal-conditioned, or a learned end
    reward      |r(s_t, a) - sum_i gamma^i r_{t+i}|^2                               reward-based
    flow        flow matching of the data's chunks: the behaviour policy
    policy      |pi(s, z) - euler(flow, s, z)|^2: the same policy in one network call
    value       |V(s_h) - G_h|^2 at every state of an imagined rollout, G the lambda-return with chunk discount gamma^n
    critic      |Q(s_0, a_0) - (r_0 + gamma^n V(s_1))|^2 at its first state and the chunk chosen there

Differences from the released code, each with the same result: an imagined state's successor value is read off one step
later and, with lambda = 1, only the last one is evaluated; of the success and the reward model only the one that the
task needs exists. Paper and code differ in the chunk reward (`chunk_reward`), the code never sees a task end in
reward-based tasks (`termination`), and scales by the validation split (`scaling_split`).
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pydantic

from mac_bench import returns
from mac_bench.config import GoalMix, Settings
from mac_bench.data import Dataset, ScalingKind
from mac_bench.dynamics import Rollout, imagine, predict, prediction_loss
from mac_bench.errors import UserError
from mac_bench.flow import euler, flow_matching_loss
from mac_bench.jax_agent import JaxAgent, Learner, Method, descend, fit, follow, initial_key, learner
from mac_bench.nn import MLP, Params, apply, initial, scalar
from mac_bench.types import Batch, GoalSampling, Sampling

VERSION = 1


class Config(Settings):
    """Defaults are those of the released code, which the paper shares for all tasks."""

    chunk: int = pydantic.Field(default=10, gt=0)
    """n, actions in a chunk"""
    rollout_chunks: int = pydantic.Field(default=10, gt=0)
    """H, chunks in an imagined rollout"""
    rollout_batch: int = pydantic.Field(default=1024, gt=0)
    """imagined rollouts in one update; they start from the first states of the batch"""
    train_candidates: int = pydantic.Field(default=8, gt=0)
    """N in imagined rollouts"""
    act_candidates: int = pydantic.Field(default=32, gt=0)
    """N when acting"""
    execute: int = pydantic.Field(default=1, gt=0)
    """actions of the chosen chunk that are executed before the next choice: 1 is closed loop, `chunk` open loop"""
    discount: float = pydantic.Field(default=0.999, gt=0, lt=1)
    """per environment step"""
    lam: float = pydantic.Field(default=1.0, ge=0, le=1)
    """lambda of the return; 1 is the whole rollout's return"""
    target_network: bool = True
    """bootstrap rollouts from the slow copy of the value"""
    tau: float = pydantic.Field(default=0.005, gt=0, le=1)
    """rate of the slow copy"""
    value_loss: Literal["squared", "bce"] = "squared"
    """bce: values are probabilities of success, for goals with rewards 0 and 1"""
    goal_reward: Literal["-1/0", "0/1"] = "-1/0"
    """reward of a chunk before / on reaching the goal"""
    chunk_reward: Literal["mean", "sum"] = "mean"
    """reward-based: mean as in the code, sum as in the paper; the ranking of actions is the same"""
    termination: Literal["never", "learned"] = "never"
    """reward-based: whether a task's end is learned from the data's masks; the code's labels say never"""
    flow_steps: int = pydantic.Field(default=10, gt=0)
    """Euler steps of the behaviour flow"""
    model_hidden: tuple[int, ...] = (1024, 1024, 1024, 1024)
    """dynamics, success and reward"""
    value_hidden: tuple[int, ...] = (1024, 1024, 1024, 1024)
    """value and critic"""
    policy_hidden: tuple[int, ...] = (1024, 1024, 1024, 1024)
    """flow and one-step policy"""
    layer_norm: bool = True
    learning_rate: float = pydantic.Field(default=3e-4, gt=0)
    batch_size: int = pydantic.Field(default=1024, gt=0)
    value_goals: GoalMix = GoalMix(current=0.2, future=0.5, random=0.3)
    actor_goals: GoalMix = GoalMix(current=0.0, future=0.5, random=0.5, geometric=True)
    scaling: ScalingKind = "minmax"
    scaling_split: Literal["train", "validation"] = "train"
    """the code fits on the validation split of the first file"""

    @pydantic.model_validator(mode="after")
    def _fits_together(self):
        if self.execute > self.chunk:
            raise ValueError(f"execute is {self.execute}, but a chunk has {self.chunk} actions")
        if self.rollout_batch > self.batch_size:
            raise ValueError(f"rollout_batch is {self.rollout_batch}, more than batch_size {self.batch_size}")
        if self.value_loss == "bce" and self.goal_reward != "0/1":
            raise ValueError("value_loss 'bce' needs goal_reward '0/1'")
        return self

    @property
    def chunk_discount(self) -> float:
        """gamma^n"""
        return self.discount**self.chunk


class Networks(NamedTuple):
    """What is fixed; compared by value."""

    dynamics: MLP
    value: MLP
    critic: MLP
    flow: MLP
    policy: MLP
    outcome: MLP
    """architecture of the success and the reward model"""


class State(NamedTuple):
    """What is learned."""

    dynamics: Learner
    value: Learner
    value_target: Params
    critic: Learner
    flow: Learner
    policy: Learner
    success: Learner | None
    """goal-conditioned tasks, and reward-based ones with a learned termination"""
    reward: Learner | None
    """reward-based tasks"""


class Draws(NamedTuple):
    """All randomness of one update, so that a test can hand it in. D = n * A."""

    noise: jax.Array
    """[B, D] start of the flow path"""
    time: jax.Array
    """[B, 1] in [0, 1]"""
    distill: jax.Array
    """[B, D] noise that teacher and one-step policy share"""
    candidates: jax.Array
    """[H, N, R, D] noise of the candidates at each imagined step of R rollouts"""


def draw(c: Config, batch_size: int, size: int, key: jax.Array) -> Draws:
    """Draws for a batch with chunks of `size` = n * A numbers."""
    keys = jax.random.split(key, 4)
    return Draws(
        noise=jax.random.normal(keys[0], (batch_size, size)),
        time=jax.random.uniform(keys[1], (batch_size, 1)),
        distill=jax.random.normal(keys[2], (batch_size, size)),
        candidates=jax.random.normal(keys[3], (c.rollout_chunks, c.train_candidates, c.rollout_batch, size)),
    )


# -- behaviour policy ------------------------------------------------------------------------------------------------


def flow_loss(nets: Networks, params: Params, obs, goal, chunk, draws: Draws) -> jax.Array:
    """Flow matching of the data's chunks [B, D]."""
    return flow_matching_loss(lambda x, u: apply(nets.flow, params, obs, goal, x, u), draws.noise, chunk, draws.time)


def distill_loss(c: Config, nets: Networks, params: Params, flow: Params, obs, goal, noise) -> jax.Array:
    """The one-step policy imitates where the flow takes the same noise [B, D]; the teacher is not differentiated."""
    teacher = euler(lambda x, u: apply(nets.flow, flow, obs, goal, x, u), noise, c.flow_steps)
    return jnp.square(apply(nets.policy, params, obs, goal, noise) - jnp.clip(teacher, -1, 1)).mean()


def choose(nets: Networks, policy: Params, critic: Params, obs, goal, noise) -> jax.Array:
    """Rejection sampling: of the N candidates that `noise` [N, B, D] gives, the one with the highest Q, [B, D]."""
    candidates = noise.shape[0]
    obs = jnp.broadcast_to(obs, (candidates, *obs.shape))  # [N, B, O]
    goal = None if goal is None else jnp.broadcast_to(goal, (candidates, *goal.shape))  # [N, B, G]
    chunks = jnp.clip(apply(nets.policy, policy, obs, goal, noise), -1, 1)  # [N, B, D]
    q = scalar(nets.critic, critic, obs, goal, chunks)  # [N, B]
    return jnp.take_along_axis(chunks, q.argmax(axis=0)[None, :, None], axis=0)[0]


def dream(c: Config, nets: Networks, state: State, obs, goal, noise) -> Rollout:
    """H chunks from the states [R, O], each the best of the candidates of `noise` [H, N, R, D]."""
    return imagine(
        lambda s, z: choose(nets, state.policy.params, state.critic.params, s, goal, z),
        lambda s, a: predict(nets.dynamics, state.dynamics.params, s, a),
        obs,
        noise,
    )


# -- what a chunk leads to -------------------------------------------------------------------------------------------


def success_loss(nets: Networks, params: Params, obs, goal, chunk, label) -> jax.Array:
    """Cross-entropy of the labels [B] in {0, 1}."""
    logits = scalar(nets.outcome, params, obs, goal, chunk)
    return optax.sigmoid_binary_cross_entropy(logits, label).mean()


def reward_loss(nets: Networks, params: Params, obs, goal, chunk, target) -> jax.Array:
    """Squared error of the chunk rewards [B]."""
    return jnp.square(scalar(nets.outcome, params, obs, goal, chunk) - target).mean()


def outcome(c: Config, nets: Networks, state: State, rollout: Rollout, goal) -> tuple[jax.Array, jax.Array]:
    """Imagined rewards [H, B] and alive [H, B], 0 where the task ends within the chunk."""
    obs, goal = rollout.states[:-1], _over_time(goal, rollout)
    success = jnp.zeros(rollout.chunks.shape[:2])
    if state.success is not None:
        # a hard decision, at probability one half
        success = (scalar(nets.outcome, state.success.params, obs, goal, rollout.chunks) > 0).astype(jnp.float32)
    if state.reward is not None:
        rewards = scalar(nets.outcome, state.reward.params, obs, goal, rollout.chunks)
    else:
        rewards = success - 1 if c.goal_reward == "-1/0" else success
    return rewards, 1 - success


# -- values ----------------------------------------------------------------------------------------------------------


def value_targets(c: Config, nets: Networks, state: State, rollout: Rollout, rewards, alive, goal) -> jax.Array:
    """Lambda-returns [H, B] of an imagined rollout with rewards and alive [H, B], bootstrapped from the slow value."""
    slow = state.value_target if c.target_network else state.value.params
    # with lambda = 1 the values in between have no weight: evaluate the last only
    states = rollout.states[-1:] if c.lam == 1 else rollout.states[1:]
    if goal is not None:
        goal = jnp.broadcast_to(goal, (*states.shape[:2], goal.shape[-1]))
    next_values = jnp.broadcast_to(_as_value(c, scalar(nets.value, slow, states, goal)), rewards.shape)
    return returns.lambda_returns(rewards, alive, next_values, c.chunk_discount, c.lam)


def critic_target(c: Config, nets: Networks, state: State, rollout: Rollout, rewards, alive, goal) -> jax.Array:
    """r_0 + gamma^n alive_0 V(s_1) [B], with the online V."""
    following = _as_value(c, scalar(nets.value, state.value.params, rollout.states[1], goal))
    return rewards[0] + c.chunk_discount * alive[0] * following


def value_loss(c: Config, nets: Networks, params: Params, rollout: Rollout, goal, target: jax.Array) -> jax.Array:
    """Regression of V at all H rollout states to the returns [H, B]."""
    return _regression(c, scalar(nets.value, params, rollout.states[:-1], _over_time(goal, rollout)), target)


def critic_loss(c: Config, nets: Networks, params: Params, rollout: Rollout, goal, target: jax.Array) -> jax.Array:
    """Regression of Q to the target [B], only at the first state and the chunk chosen there."""
    return _regression(c, scalar(nets.critic, params, rollout.states[0], goal, rollout.chunks[0]), target)


def _regression(c: Config, prediction: jax.Array, target: jax.Array) -> jax.Array:
    if c.value_loss == "bce":
        return optax.sigmoid_binary_cross_entropy(prediction, jnp.clip(target, 0, 1)).mean()
    return jnp.square(prediction - target).mean()


def _as_value(c: Config, x: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(x) if c.value_loss == "bce" else x


def _over_time(goal, rollout: Rollout):
    """The goal [B, G] at every step of a rollout [H, B, G]: it is kept for the whole of it."""
    return None if goal is None else jnp.broadcast_to(goal, (*rollout.chunks.shape[:2], goal.shape[-1]))


# -- one step --------------------------------------------------------------------------------------------------------


def update(c: Config, nets: Networks, state: State, batch: Batch, key: jax.Array):
    """One training step; see `learn`."""
    size = batch.actions.shape[1] * batch.actions.shape[2]
    return learn(c, nets, state, batch, draw(c, batch.obs.shape[0], size, key))


def learn(c: Config, nets: Networks, state: State, batch: Batch, draws: Draws):
    """One step of every network on one batch, all from the same old parameters. Returns (state, metrics)."""
    obs, chunk = batch.obs, batch.actions.reshape(len(batch.obs), -1)  # [B, D]
    actor_goal = value_goal = None
    if batch.goals is not None:
        actor_goal, value_goal = batch.goals.actor, batch.goals.value
    step = partial(descend, learning_rate=c.learning_rate)
    metrics = {}

    dynamics, metrics["loss/dynamics"] = step(
        state.dynamics, loss=lambda p: prediction_loss(nets.dynamics, p, obs, chunk, batch.next_obs)
    )
    flow, metrics["loss/flow"] = step(state.flow, loss=lambda p: flow_loss(nets, p, obs, actor_goal, chunk, draws))
    policy, metrics["loss/distill"] = step(
        state.policy, loss=lambda p: distill_loss(c, nets, p, state.flow.params, obs, actor_goal, draws.distill)
    )
    success, reward = state.success, state.reward
    if success is not None:
        label = batch.goals.reached if batch.goals is not None else 1 - batch.alive[:, -1]
        success, metrics["loss/success"] = step(
            success, loss=lambda p: success_loss(nets, p, obs, value_goal, chunk, label)
        )
    if reward is not None:
        total = returns.chunk_reward(batch.rewards, batch.alive, c.discount, c.chunk_reward)
        reward, metrics["loss/reward"] = step(
            reward, loss=lambda p: reward_loss(nets, p, obs, value_goal, chunk, total)
        )

    goal = None if value_goal is None else value_goal[: c.rollout_batch]
    rollout = dream(c, nets, state, obs[: c.rollout_batch], goal, draws.candidates)
    rewards, alive = outcome(c, nets, state, rollout, goal)
    v_target = value_targets(c, nets, state, rollout, rewards, alive, goal)
    q_target = critic_target(c, nets, state, rollout, rewards, alive, goal)
    value, metrics["loss/value"] = step(state.value, loss=lambda p: value_loss(c, nets, p, rollout, goal, v_target))
    critic, metrics["loss/critic"] = step(state.critic, loss=lambda p: critic_loss(c, nets, p, rollout, goal, q_target))
    metrics |= {"value/mean": v_target.mean(), "value/min": v_target.min(), "value/max": v_target.max()}
    # the slow copy follows the parameters of before this step, as in the reference: it lags by one update
    value_target = follow(state.value_target, state.value.params, c.tau)
    return State(dynamics, value, value_target, critic, flow, policy, success, reward), metrics


def act(c: Config, nets: Networks, state: State, obs: jax.Array, goal, key: jax.Array) -> jax.Array:
    """[N, O] -> [N, K, A] with K = execute."""
    size = nets.policy.out
    return best_actions(c, nets, state, obs, goal, jax.random.normal(key, (c.act_candidates, len(obs), size)))


def best_actions(c: Config, nets: Networks, state: State, obs, goal, noise) -> jax.Array:
    """The first `execute` actions [N, K, A] of the best of the candidates that `noise` [M, N, D] gives."""
    chunk = choose(nets, state.policy.params, state.critic.params, obs, goal, noise)
    return chunk.reshape(len(obs), c.chunk, -1)[:, : c.execute]


# -- construction ----------------------------------------------------------------------------------------------------


def networks(c: Config, obs_size: int, action_size: int) -> Networks:
    """All networks for observations [O] and actions [A]; inputs are sized by what they are first called with."""
    return Networks(
        dynamics=MLP(c.model_hidden, obs_size, c.layer_norm),
        value=MLP(c.value_hidden, 1, c.layer_norm),
        critic=MLP(c.value_hidden, 1, c.layer_norm),
        flow=MLP(c.policy_hidden, c.chunk * action_size, c.layer_norm),
        policy=MLP(c.policy_hidden, c.chunk * action_size, c.layer_norm),
        outcome=MLP(c.model_hidden, 1, c.layer_norm),
    )


def initial_state(c: Config, nets: Networks, obs, goal, chunk, key: jax.Array) -> State:
    """Fresh networks for inputs of these shapes: obs [1, O], goal [1, G] or None, chunk [1, D]."""
    keys = iter(jax.random.split(key, 7))

    def fresh(net: MLP, *inputs) -> Learner:
        return learner(initial(net, next(keys), *inputs), c.learning_rate)

    value = fresh(nets.value, obs, goal)
    return State(
        dynamics=fresh(nets.dynamics, obs, chunk),
        value=value,
        value_target=jax.tree.map(jnp.copy, value.params),
        critic=fresh(nets.critic, obs, goal, chunk),
        flow=fresh(nets.flow, obs, goal, chunk, chunk[:, :1]),
        policy=fresh(nets.policy, obs, goal, chunk),
        success=fresh(nets.outcome, obs, goal, chunk) if goal is not None or c.termination == "learned" else None,
        reward=fresh(nets.outcome, obs, goal, chunk) if goal is None else None,
    )


def make(c: Config, data: Dataset, seed: int) -> JaxAgent:
    """An agent for these data; goal-conditioned where they have goals."""
    if c.value_loss == "bce" and data.goals is None:
        raise UserError("value_loss 'bce' is for goals: the values of a task with rewards are no probabilities")
    obs_size, action_size = data.observations.shape[1], data.actions.shape[1]
    nets = networks(c, obs_size, action_size)
    goal = None if data.goals is None else jnp.zeros((1, data.goals.shape[1]))
    shapes = jnp.zeros((1, obs_size)), goal, jnp.zeros((1, c.chunk * action_size))
    state = initial_state(c, nets, *shapes, initial_key(seed))
    goals = None if data.goals is None else GoalSampling(c.value_goals, c.actor_goals, c.discount)
    return JaxAgent(
        Method(update, act),
        c,
        nets,
        state,
        sampling=Sampling(c.batch_size, c.chunk, goals),
        scalings=fit(c.scaling, c.scaling_split, data),
        seed=seed,
    )
