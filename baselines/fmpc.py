"""F-MPC, the flow version of D-MPC in the MAC comparison: propose actions, sample their futures, take the best ranked.

D-MPC: Diffusion Model Predictive Control (Zhou et al., 2024, arXiv 2410.05364), with flow matching (arXiv 2210.02747)
in place of diffusion, as in MAC (Park et al., ICLR 2026). The claim: a generative model that samples the next n states
at once compounds no one-step errors, and planning needs no policy optimisation: actions are proposed as the data has
them, and choosing among their futures is enough. Four networks, each trained by one loss:

    policy   flow matching of the data's action a given (s_t, goal)             what is proposed
    model    flow matching of s_{t+1} ... s_{t+n} given (s_t, a)                what follows, as the data goes on
    value    V(s_t) towards the return-to-go of the logged episode              Monte Carlo, no bootstrapping
    critic   Q(s_{t+1} ... s_{t+n}, a) towards r + gamma^n V(s_{t+n})           the ranking; r the reward of the piece

Of a goal d actions ahead in the same episode the return-to-go is gamma^d, of any other goal 0, and r is gamma^d where
the goal lies inside the piece, else 0. These are in [0, 1], so V and Q are logits that cross-entropy (BCE) trains.
Rewards of a task are no probabilities: BCE would cut off whatever lies outside of [0, 1] (of OGBench's rewards, none
above 0, it would leave nothing), so reward-based tasks have the squared error and refuse BCE.

The released code computes other targets, to which `targets: released` switches. The return-to-go is not discounted: 1
for every goal ahead, the plain sum of rewards, past the task's end; r is 1 for every goal in the piece. The critic
takes V's logit for its probability, which makes 0 of every probability below one half. The reward of a piece is the
mean of its discounted rewards, while V is a sum of them. The default is what the formulas above say.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pydantic

from mac_bench import returns
from mac_bench.config import GoalMix, Settings
from mac_bench.data import Dataset, ScalingKind, fit
from mac_bench.dynamics import open_loop
from mac_bench.errors import UserError
from mac_bench.flow import euler, flow_matching_loss
from mac_bench.jax_agent import JaxAgent, Learner, Method, descend, initial_key, learner
from mac_bench.nn import MLP, Params, apply, initial, repeat, scalar
from mac_bench.policies import Flow, best
from mac_bench.types import About, Array, Batch, Forecast, GoalSampling, Metrics, Sampling

VERSION = 2

ABOUT = About(
    paper="D-MPC: Zhou et al., 2024, arXiv 2410.05364; its flow version F-MPC: Park et al., ICLR 2026 (MAC)",
    parity="golden numbers of MAC's released code with `targets: released`, laws for the rest: tests/test_fmpc.py; "
    "learning: tests/test_learning.py",
    defaults="MAC's released code, but for `targets`",
    deviations="Targets of value and critic are discounted returns; those of the released code are a setting. Neither "
    "way keeps that its reward mode fits V(s_t) to the returns of all n + 1 rows of a piece, and that it counts a goal "
    "on an episode's last row as not ahead. As there and unlike D-MPC: MLPs, no history, one proposed action, not n "
    "(`propose`).",
)


class Config(Settings):
    """Defaults are those of the MAC comparison, but for `targets`."""

    chunk: int = pydantic.Field(default=32, gt=0)
    """n, states that the model samples at once"""
    propose: int = pydantic.Field(default=1, gt=0)
    """actions that are proposed, and given to the model, at once; D-MPC has `chunk`"""
    execute: int = pydantic.Field(default=1, gt=0)
    """of them, before the next decision"""
    candidates: int = pydantic.Field(default=64, gt=0)
    """actions among which is chosen, with one future each"""
    discount: float = pydantic.Field(default=0.999, gt=0, lt=1)
    """gamma, per environment step"""
    targets: Literal["discounted", "released"] = "discounted"
    """of value and critic: discounted returns, or what MAC's released code computes; see the top of this file"""
    value_loss: Literal["auto", "bce", "squared"] = "auto"
    """auto: bce for goals, squared for rewards"""
    flow_steps: int = pydantic.Field(default=10, gt=0)
    """Euler steps of both flows"""
    model_hidden: tuple[int, ...] = (1024, 1024, 1024, 1024)
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
    """the code fits on the validation split of the first file"""

    @pydantic.model_validator(mode="after")
    def _fits_together(self):
        if self.propose > self.chunk:
            raise ValueError(f"propose is {self.propose}, but the model sees only {self.chunk} states ahead")
        if self.execute > self.propose:
            raise ValueError(f"execute is {self.execute}, but only {self.propose} actions are proposed at once")
        return self


class Networks(NamedTuple):
    """What is fixed."""

    model: MLP
    policy: Flow
    value: MLP
    critic: MLP


class State(NamedTuple):
    """What is learned."""

    model: Learner
    policy: Learner
    value: Learner
    critic: Learner


class Draws(NamedTuple):
    """All randomness of one update, so that a test can hand it in. D = propose * A, E = n * O."""

    model_noise: jax.Array
    """[B, E]"""
    model_time: jax.Array
    """[B, 1] in [0, 1]"""
    policy_noise: jax.Array
    """[B, D]"""
    policy_time: jax.Array
    """[B, 1] in [0, 1]"""


class Rewards(NamedTuple):
    """In reward-based tasks the agent hands this to `update` in place of `Batch.rewards`."""

    piece: Array
    """[B, H] r_t ... r_{t+H-1}"""
    to_go: Array
    """[B] the return of everything from s_t to the end of its episode"""


class Labels(NamedTuple):
    """What the logged pieces say of their values."""

    reward: jax.Array
    """[B] of the piece"""
    alive: jax.Array
    """[B] 0 where the task ended in it"""
    to_go: jax.Array
    """[B] return-to-go of s_t"""


# -- returns of the data ---------------------------------------------------------------------------------------------


def returns_to_go(data: Dataset, discount: float, cut: bool = True) -> np.ndarray:
    """G_t = r_t + discount alive_t G_{t+1} of every row [N]; 0 in an episode's last row, whose action leads nowhere.

    `cut` = False ignores `alive`. One pass backwards through all episodes at once: as many NumPy operations as the
    longest episode has rows.
    """
    total = np.zeros(len(data.observations), np.float32)
    if data.rewards is None:
        return total
    transitions = np.diff(data.ends, prepend=-1) - 1  # [E]
    following = np.zeros(len(data.ends))  # [E] in double precision, rounded only where it is stored
    for back in range(1, int(transitions.max()) + 1):
        episodes = np.flatnonzero(transitions >= back)
        rows = data.ends[episodes] - back
        going = data.alive[rows] if cut and data.alive is not None else 1.0
        following[episodes] = data.rewards[rows] + discount * going * following[episodes]
        total[rows] = following[episodes]
    return total


def labels(c: Config, batch: Batch) -> Labels:
    """Reward and end of each piece, and the return-to-go of its first state."""
    released = c.targets == "released"
    if batch.goals is not None:
        reached, distance = batch.goals.reached, batch.goals.distance
        # gamma^inf = 0: a goal that does not lie ahead
        to_go = jnp.isfinite(distance).astype(jnp.float32) if released else c.discount**distance
        return Labels(reached if released else reached * to_go, 1 - reached, to_go)
    alive = jnp.ones_like(batch.alive) if released else batch.alive
    reward = returns.chunk_reward(batch.rewards.piece, alive, c.discount, "mean" if released else "sum")
    return Labels(reward, alive[:, -1], batch.rewards.to_go)


# -- losses ----------------------------------------------------------------------------------------------------------


def model_loss(nets: Networks, params: Params, obs, actions, future, draws: Draws) -> jax.Array:
    """Flow matching of s_{t+1} ... s_{t+n} [B, E] given s_t [B, O] and the first actions [B, D]."""
    velocity = partial(apply, nets.model, params, obs, actions)
    return flow_matching_loss(velocity, draws.model_noise, future, draws.model_time)


def value_loss(c: Config, nets: Networks, params: Params, obs, goal, to_go) -> jax.Array:
    """Regression of V to the return-to-go [B]."""
    return _regression(c, goal, scalar(nets.value, params, obs, goal), to_go)


def critic_target(c: Config, nets: Networks, value: Params, last, goal, logged: Labels) -> jax.Array:
    """r + gamma^n alive V(s_{t+n}) [B]; `last` [B, O] is s_{t+n}, as logged."""
    v = scalar(nets.value, value, last, goal)
    if _bce(c, goal) and c.targets == "discounted":
        v = jax.nn.sigmoid(v)
    return logged.reward + c.discount**c.chunk * logged.alive * v


def critic_loss(c: Config, nets: Networks, params: Params, future, goal, actions, target) -> jax.Array:
    """Regression of the ranking to the target [B], at the logged futures [B, E]."""
    return _regression(c, goal, scalar(nets.critic, params, future, goal, actions), target)


def _bce(c: Config, goal) -> bool:
    """Whether V and Q are logits; `make` refuses BCE where there are no goals."""
    return goal is not None and c.value_loss != "squared"


def _regression(c: Config, goal, prediction: jax.Array, target: jax.Array) -> jax.Array:
    if _bce(c, goal):
        return optax.sigmoid_binary_cross_entropy(prediction, jnp.clip(target, 0, 1)).mean()
    return jnp.square(prediction - target).mean()


# -- one step --------------------------------------------------------------------------------------------------------


def update(c: Config, nets: Networks, state: State, batch: Batch, key: jax.Array):
    """One training step; see `learn`."""
    keys, size = jax.random.split(key, 4), len(batch.obs)
    draws = Draws(
        model_noise=jax.random.normal(keys[0], (size, nets.model.out)),
        model_time=jax.random.uniform(keys[1], (size, 1)),
        policy_noise=jax.random.normal(keys[2], (size, nets.policy.net.out)),
        policy_time=jax.random.uniform(keys[3], (size, 1)),
    )
    return learn(c, nets, state, batch, labels(c, batch), draws)


def learn(c: Config, nets: Networks, state: State, batch: Batch, logged: Labels, draws: Draws):
    """One step of every network on one batch, all from the same old parameters. Returns (state, metrics)."""
    assert batch.path is not None, "Sampling asks for it"
    obs, size = batch.obs, len(batch.obs)
    actions = batch.actions[:, : c.propose].reshape(size, -1)  # [B, D]
    future = batch.path[:, 1:].reshape(size, -1)  # [B, E]
    actor_goal = value_goal = None
    if batch.goals is not None:
        actor_goal, value_goal = batch.goals.actor, batch.goals.value
    target = critic_target(c, nets, state.value.params, batch.next_obs, value_goal, logged)
    step, metrics = partial(descend, learning_rate=c.learning_rate), {}

    model, metrics["loss/model"] = step(state.model, loss=lambda p: model_loss(nets, p, obs, actions, future, draws))
    policy, metrics["loss/policy"] = step(
        state.policy,
        loss=lambda p: nets.policy.loss(p, obs, actor_goal, actions, draws.policy_noise, draws.policy_time),
    )
    value, metrics["loss/value"] = step(
        state.value, loss=lambda p: value_loss(c, nets, p, obs, value_goal, logged.to_go)
    )
    critic, metrics["loss/critic"] = step(
        state.critic, loss=lambda p: critic_loss(c, nets, p, future, value_goal, actions, target)
    )
    metrics |= {"return/mean": logged.to_go.mean()}
    metrics |= {"value/mean": target.mean(), "value/min": target.min(), "value/max": target.max()}
    return State(model, policy, value, critic), metrics


# -- planning --------------------------------------------------------------------------------------------------------


def foresee(c: Config, nets: Networks, model: Params, obs, actions, noise) -> jax.Array:
    """The n states after s_t and its first actions, side by side [..., E], for noise [..., E]."""
    return euler(partial(apply, nets.model, model, obs, actions), noise, c.flow_steps)


def plan(c: Config, nets: Networks, state: State, obs, goal, policy_noise, model_noise) -> jax.Array:
    """Of M candidates, from noise [M, N, D] and [M, N, E], the actions [N, D] whose future the critic ranks first."""
    obs, goal = (repeat(x, len(policy_noise)) for x in (obs, goal))  # [M, N, O], [M, N, G]
    actions = nets.policy.sample(state.policy.params, obs, goal, policy_noise)  # [M, N, D]
    futures = foresee(c, nets, state.model.params, obs, actions, model_noise)  # [M, N, E]
    rank = scalar(nets.critic, state.critic.params, futures, goal, actions)  # [M, N]
    return best(actions, rank)


def act(c: Config, nets: Networks, state: State, obs: jax.Array, goal, key: jax.Array) -> jax.Array:
    """[N, O] -> [N, K, A] with K = execute."""
    policy_key, model_key = jax.random.split(key)
    policy_noise = jax.random.normal(policy_key, (c.candidates, len(obs), nets.policy.net.out))
    model_noise = jax.random.normal(model_key, (c.candidates, len(obs), nets.model.out))
    actions = plan(c, nets, state, obs, goal, policy_noise, model_noise)
    return actions.reshape(len(obs), c.propose, -1)[:, : c.execute]


def forecast(c: Config, nets: Networks, state: State, obs: jax.Array, actions: jax.Array) -> Forecast:
    """Open loop, as far as this model can: of the n states only the first `propose` follow from given actions (the rest
    is what the data would do next), so that the model is asked anew after each of these strides. From zero noise the
    flow leads to about the middle of the distribution, which is not exactly its mean."""

    def model(obs: jax.Array, actions: jax.Array) -> jax.Array:
        future = foresee(c, nets, state.model.params, obs, actions, jnp.zeros((len(obs), nets.model.out)))
        return future.reshape(len(obs), c.chunk, -1)[:, c.propose - 1]

    return open_loop(model, obs, actions, c.propose)


# -- construction ----------------------------------------------------------------------------------------------------


class Planner(JaxAgent):
    """Looks the return-to-go of each piece up in a table over the data, which is no part of a checkpoint."""

    returns: np.ndarray | None = None
    """[rows of the data]; only in reward-based tasks"""

    def update(self, batch: Batch, step: int) -> Metrics:
        """One step; the metrics stay on the device."""
        return super().update(self.with_returns(batch), step)

    def with_returns(self, batch: Batch) -> Batch:
        """Reward-based: the batch with Rewards in place of its rewards."""
        if self.returns is None:
            return batch
        return batch._replace(rewards=Rewards(batch.rewards, self.returns[batch.index]))


def make(c: Config, data: Dataset, seed: int) -> Planner:
    """An agent for these data; goal-conditioned where they have goals."""
    if c.value_loss == "bce" and data.goals is None:
        raise UserError(
            "value_loss 'bce' is for goals: the values of a task with rewards are no probabilities; "
            "use 'auto' or 'squared'"
        )
    obs, actions = (jnp.zeros((1, column.shape[1])) for column in (data.observations, data.actions))
    actions, time = jnp.tile(actions, (1, c.propose)), jnp.zeros((1, 1))
    future = jnp.tile(obs, (1, c.chunk))
    goal = None if data.goals is None else jnp.zeros((1, data.goals.shape[1]))
    nets = Networks(
        model=MLP(c.model_hidden, future.shape[1], c.layer_norm),
        policy=Flow(MLP(c.policy_hidden, actions.shape[1], c.layer_norm), c.flow_steps),
        value=MLP(c.value_hidden, 1, c.layer_norm),
        critic=MLP(c.value_hidden, 1, c.layer_norm),
    )
    keys = jax.random.split(initial_key(seed), 4)
    state = State(
        model=learner(initial(nets.model, keys[0], obs, actions, future, time), c.learning_rate),
        policy=learner(initial(nets.policy.net, keys[1], obs, goal, actions, time), c.learning_rate),
        value=learner(initial(nets.value, keys[2], obs, goal), c.learning_rate),
        critic=learner(initial(nets.critic, keys[3], future, goal, actions), c.learning_rate),
    )
    goals = None if goal is None else GoalSampling(c.value_goals, c.actor_goals, c.discount)
    agent = Planner(
        Method(update, act, forecast),
        c,
        nets,
        state,
        sampling=Sampling(c.batch_size, c.chunk, goals, path=True),
        scalings=fit(c.scaling, c.scaling_split, data),
        seed=seed,
    )
    if goal is None:
        discounted = c.targets == "discounted"
        agent.returns = returns_to_go(data, c.discount if discounted else 1.0, cut=discounted)
    return agent
