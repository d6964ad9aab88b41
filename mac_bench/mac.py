"""MAC: Model-Based RL with Action Chunks (Park et al., ICLR 2026, arXiv 2512.08108).

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

The paper's ablations are settings (`suites/ablations.yaml` runs them):

    MAC (Gau)          policy: gaussian        -log pi(a | s) of a tanh-Gaussian, instead of flow and policy
    MAC (FQL)          policy: fql             -Q(s, pi(s, z)) / |Q| + w |pi(s, z) - euler(flow, s, z)|^2 at imagined s
    no flow teacher    policy: flow, 1 step    flow matching of the policy itself, followed in one Euler step
    one-step model     chunk: 1

A one-step policy by flow matching might also be read as a network that knows no u but 0: both have the same optimum,
the mean of the data's chunks less z, but only a velocity at every u is flow matching.

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
from mac_bench.data import Dataset, ScalingKind, fit
from mac_bench.dynamics import Rollout, imagine, open_loop, predict, prediction_loss, reward_loss, success_loss
from mac_bench.errors import UserError
from mac_bench.jax_agent import JaxAgent, Learner, Method, descend, follow, initial_key, learner
from mac_bench.nn import MLP, Params, apply, initial, repeat, scalar
from mac_bench.policies import Flow, Gaussian, OneStep, best
from mac_bench.types import About, Batch, Forecast, GoalSampling, Sampling

VERSION = 1
ABOUT = About(
    paper="Park, Park, Lee and Levine, ICLR 2026, arXiv 2512.08108",
    parity="golden numbers of the released code: tests/test_mac.py; laws of its other settings and of the ablations: "
    "tests/test_mac_settings.py, tests/test_mac_family.py; learning: tests/test_learning.py",
    defaults="the released code, the same for all tasks, but for the split that scaling is fitted on",
    deviations="MAC (FQL) discounts a chunk by gamma^n also in the return, where the released code has gamma; and it "
    "divides Q by its mean size, where the code first averages Q over each rollout",
)


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
    policy: Literal["distill", "flow", "gaussian", "fql"] = "distill"
    """what gives the candidates: one step that imitates the flow, the flow itself, a tanh-Gaussian, or one step that
    imitates the flow and raises Q; MAC (FQL) is the last with chunk 5 and 1 for both numbers of candidates"""
    bc_weight: float = pydantic.Field(default=0.3, ge=0)
    """of imitation, in policy 'fql'"""
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
    flow: Flow
    policy: OneStep | Flow | Gaussian
    outcome: MLP
    """architecture of the success and the reward model"""


class State(NamedTuple):
    """What is learned."""

    dynamics: Learner
    value: Learner
    value_target: Params
    critic: Learner
    flow: Learner | None
    """the teacher of one-step policies"""
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
    """[B, D] noise that teacher and one-step policy share; [H, R, D] for 'fql', which learns at imagined states"""
    candidates: jax.Array
    """[H, N, R, D] noise of the candidates at each imagined step of R rollouts"""


def draw(c: Config, batch_size: int, size: int, key: jax.Array) -> Draws:
    """Draws for a batch with chunks of `size` = n * A numbers."""
    keys = jax.random.split(key, 4)
    taught = (c.rollout_chunks, c.rollout_batch) if c.policy == "fql" else (batch_size,)
    return Draws(
        noise=jax.random.normal(keys[0], (batch_size, size)),
        time=jax.random.uniform(keys[1], (batch_size, 1)),
        distill=jax.random.normal(keys[2], (*taught, size)),
        candidates=jax.random.normal(keys[3], (c.rollout_chunks, c.train_candidates, c.rollout_batch, size)),
    )


# -- behaviour policy ------------------------------------------------------------------------------------------------


def distill_loss(nets: Networks, params: Params, flow: Params, obs, goal, noise) -> jax.Array:
    """The one-step policy imitates where the flow takes the same noise [..., D]; the teacher is not differentiated."""
    teacher = nets.flow.sample(flow, obs, goal, noise)
    return jnp.square(apply(nets.policy.net, params, obs, goal, noise) - teacher).mean()


def fql_loss(c: Config, nets: Networks, params: Params, flow: Params, critic: Params, obs, goal, noise) -> jax.Array:
    """FQL (Park et al., arXiv 2502.02538): imitation, and a higher Q, here at imagined states [H, R, O]."""
    q = scalar(nets.critic, critic, obs, goal, nets.policy.sample(params, obs, goal, noise))
    # dividing by the size of Q makes the weight independent of the scale of rewards
    raised = -q.mean() / jax.lax.stop_gradient(jnp.abs(q).mean() + 1e-6)
    return raised + c.bc_weight * distill_loss(nets, params, flow, obs, goal, noise)


def policy_loss(c: Config, nets: Networks, params: Params, state: State, data, imagined, draws: Draws) -> jax.Array:
    """Of the policy that `c` asks for; data is (obs, goal, chunk) [B, ...], imagined (obs, goal) [H, R, ...]."""
    obs, goal, chunk = data
    if isinstance(nets.policy, Gaussian):
        return nets.policy.loss(params, obs, goal, chunk)
    if isinstance(nets.policy, Flow):
        return nets.policy.loss(params, obs, goal, chunk, draws.noise, draws.time)
    flow = state.flow and state.flow.params
    if c.policy == "fql":
        return fql_loss(c, nets, params, flow, state.critic.params, imagined[0], imagined[1], draws.distill)
    return distill_loss(nets, params, flow, obs, goal, draws.distill)


def choose(nets: Networks, policy: Params, critic: Params, obs, goal, noise) -> jax.Array:
    """Rejection sampling: of the N candidates that `noise` [N, B, D] gives, the one with the highest Q, [B, D]."""
    obs, goal = repeat(obs, len(noise)), repeat(goal, len(noise))  # [N, B, O], [N, B, G]
    chunks = nets.policy.sample(policy, obs, goal, noise)  # [N, B, D]
    return best(chunks, scalar(nets.critic, critic, obs, goal, chunks))


def dream(c: Config, nets: Networks, state: State, obs, goal, noise) -> Rollout:
    """H chunks from the states [R, O], each the best of the candidates of `noise` [H, N, R, D]."""
    return imagine(
        lambda s, z: choose(nets, state.policy.params, state.critic.params, s, goal, z),
        lambda s, a: predict(nets.dynamics, state.dynamics.params, s, a),
        obs,
        noise,
    )


# -- what imagined chunks lead to, and what that is worth ------------------------------------------------------------


def outcome(c: Config, nets: Networks, state: State, rollout: Rollout, goal) -> tuple[jax.Array, jax.Array]:
    """Imagined rewards [H, B] and alive [H, B], 0 where the task ends within the chunk."""
    obs, goal = rollout.states[:-1], repeat(goal, len(rollout.chunks))
    success = jnp.zeros(rollout.chunks.shape[:2])
    if state.success is not None:
        logits = scalar(nets.outcome, state.success.params, obs, goal, rollout.chunks)
        success = (logits > 0).astype(jnp.float32)  # a hard decision, at probability one half
    if state.reward is not None:
        rewards = scalar(nets.outcome, state.reward.params, obs, goal, rollout.chunks)
    else:
        rewards = success - 1 if c.goal_reward == "-1/0" else success
    return rewards, 1 - success


def value_targets(c: Config, nets: Networks, state: State, rollout: Rollout, rewards, alive, goal) -> jax.Array:
    """Lambda-returns [H, B] of an imagined rollout with rewards and alive [H, B], bootstrapped from the slow value."""
    slow = state.value_target if c.target_network else state.value.params
    # with lambda = 1 the values in between have no weight: evaluate the last only
    states = rollout.states[-1:] if c.lam == 1 else rollout.states[1:]
    next_values = _as_value(c, scalar(nets.value, slow, states, repeat(goal, len(states))))
    return returns.lambda_returns(rewards, alive, jnp.broadcast_to(next_values, rewards.shape), c.chunk_discount, c.lam)


def critic_target(c: Config, nets: Networks, state: State, rollout: Rollout, rewards, alive, goal) -> jax.Array:
    """r_0 + gamma^n alive_0 V(s_1) [B], with the online V."""
    following = _as_value(c, scalar(nets.value, state.value.params, rollout.states[1], goal))
    return rewards[0] + c.chunk_discount * alive[0] * following


def value_loss(c: Config, nets: Networks, params: Params, rollout: Rollout, goal, target: jax.Array) -> jax.Array:
    """Regression of V at all H rollout states to the returns [H, B]."""
    return _regression(c, scalar(nets.value, params, rollout.states[:-1], repeat(goal, len(rollout.chunks))), target)


def critic_loss(c: Config, nets: Networks, params: Params, rollout: Rollout, goal, target: jax.Array) -> jax.Array:
    """Regression of Q to the target [B], only at the first state and the chunk chosen there."""
    return _regression(c, scalar(nets.critic, params, rollout.states[0], goal, rollout.chunks[0]), target)


def _regression(c: Config, prediction: jax.Array, target: jax.Array) -> jax.Array:
    if c.value_loss == "bce":
        return optax.sigmoid_binary_cross_entropy(prediction, jnp.clip(target, 0, 1)).mean()
    return jnp.square(prediction - target).mean()


def _as_value(c: Config, x: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(x) if c.value_loss == "bce" else x


# -- one step --------------------------------------------------------------------------------------------------------


def update(c: Config, nets: Networks, state: State, batch: Batch, key: jax.Array):
    """One training step; see `learn`."""
    size = batch.actions.shape[1] * batch.actions.shape[2]
    return learn(c, nets, state, batch, draw(c, batch.obs.shape[0], size, key))


def learn(c: Config, nets: Networks, state: State, batch: Batch, draws: Draws):
    """One step of every network on one batch, all from the same old parameters. Returns (state, metrics)."""
    obs, chunk = batch.obs, batch.actions.reshape(len(batch.obs), -1)  # [B, D]
    actor_goal, value_goal = (None, None) if batch.goals is None else (batch.goals.actor, batch.goals.value)
    step, metrics = partial(descend, learning_rate=c.learning_rate), {}
    dynamics, metrics["loss/dynamics"] = step(
        state.dynamics, loss=lambda p: prediction_loss(nets.dynamics, p, obs, chunk, batch.next_obs)
    )
    success, reward = state.success, state.reward
    if success is not None:
        label = batch.goals.reached if batch.goals is not None else 1 - batch.alive[:, -1]
        success, metrics["loss/success"] = step(
            success, loss=lambda p: success_loss(nets.outcome, p, obs, value_goal, chunk, label)
        )
    if reward is not None:
        total = returns.chunk_reward(batch.rewards, batch.alive, c.discount, c.chunk_reward)
        reward, metrics["loss/reward"] = step(
            reward, loss=lambda p: reward_loss(nets.outcome, p, obs, value_goal, chunk, total)
        )

    data, flow = (obs, actor_goal, chunk), state.flow
    if flow is not None:
        flow, metrics["loss/flow"] = step(flow, loss=lambda p: nets.flow.loss(p, *data, draws.noise, draws.time))

    goal = None if value_goal is None else value_goal[: c.rollout_batch]
    rollout = dream(c, nets, state, obs[: c.rollout_batch], goal, draws.candidates)
    imagined = rollout.states[:-1], repeat(goal, c.rollout_chunks)  # [H, R, O], [H, R, G]
    policy, metrics[f"loss/{c.policy}"] = step(
        state.policy, loss=lambda p: policy_loss(c, nets, p, state, data, imagined, draws)
    )
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
    size = nets.flow.net.out
    return best_actions(c, nets, state, obs, goal, jax.random.normal(key, (c.act_candidates, len(obs), size)))


def best_actions(c: Config, nets: Networks, state: State, obs, goal, noise) -> jax.Array:
    """The first `execute` actions [N, K, A] of the best of the candidates that `noise` [M, N, D] gives."""
    chunk = choose(nets, state.policy.params, state.critic.params, obs, goal, noise)
    return chunk.reshape(len(obs), c.chunk, -1)[:, : c.execute]


def forecast(c: Config, nets: Networks, state: State, obs: jax.Array, actions: jax.Array) -> Forecast:
    """The states [N, T // n, O] after each whole chunk of the actions [N, T, A]; a remainder is dropped."""
    return open_loop(lambda s, a: predict(nets.dynamics, state.dynamics.params, s, a), obs, actions, c.chunk)


# -- construction ----------------------------------------------------------------------------------------------------


def networks(c: Config, obs_size: int, action_size: int) -> Networks:
    """All networks for observations [O] and actions [A]; inputs are sized by what they are first called with."""
    flow = Flow(MLP(c.policy_hidden, c.chunk * action_size, c.layer_norm), c.flow_steps)
    gaussian = Gaussian(MLP(c.policy_hidden, 2 * flow.net.out, c.layer_norm, last_scale=0.01))
    return Networks(
        dynamics=MLP(c.model_hidden, obs_size, c.layer_norm),
        value=MLP(c.value_hidden, 1, c.layer_norm),
        critic=MLP(c.value_hidden, 1, c.layer_norm),
        flow=flow,
        policy={"flow": flow, "gaussian": gaussian}.get(c.policy, OneStep(flow.net)),
        outcome=MLP(c.model_hidden, 1, c.layer_norm),
    )


def initial_state(c: Config, nets: Networks, obs, goal, chunk, key: jax.Array) -> State:
    """Fresh networks for inputs of these shapes: obs [1, O], goal [1, G] or None, chunk [1, D]."""
    keys = iter(jax.random.split(key, 7))

    def fresh(net: MLP, *inputs) -> Learner:
        return learner(initial(net, next(keys), *inputs), c.learning_rate)

    value = fresh(nets.value, obs, goal)
    timed = obs, goal, chunk, chunk[:, :1]
    return State(
        dynamics=fresh(nets.dynamics, obs, chunk),
        value=value,
        value_target=jax.tree.map(jnp.copy, value.params),
        critic=fresh(nets.critic, obs, goal, chunk),
        flow=fresh(nets.flow.net, *timed) if c.policy in ("distill", "fql") else None,
        policy=fresh(nets.policy.net, *{"flow": timed, "gaussian": timed[:2]}.get(c.policy, timed[:3])),
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
    sampling, scalings = Sampling(c.batch_size, c.chunk, goals), fit(c.scaling, c.scaling_split, data)
    return JaxAgent(Method(update, act, forecast), c, nets, state, sampling=sampling, scalings=scalings, seed=seed)
