"""MOReL: Model-based Offline Reinforcement Learning (Kidambi et al., arXiv 2005.05951).

The claim: a policy's return in the true world is bounded from below by its return in a pessimistic one, where every
step that the data do not tell about leads to a state called HALT that is never left and as bad as can be. Within it,
any planner will do.

    known       d(s, a) = max_{i,j} |mu_i(s, a) - mu_j(s, a)| of an ensemble's means is at most its mean over the data
                plus `halt_beta` of its standard deviations (the paper's appendix C.5)
    HALT        gives r_halt = the lowest reward of the data - `halt_offset` at every step: its value is
                r_halt / (1 - gamma)
    planner     H steps of a tanh-Gaussian policy from logged states; with G_t the lambda-return of the walk,
                    value     |V(s_t) - G_t|^2
                    policy    -A_t log pi(a_t | s_t),  A = G - V, scaled to mean 0 and deviation 1
    model       see `gaussian.py`; trained first. Meanwhile the policy clones the data, so that its walks begin where
                things are known

The planner of the paper is natural policy gradient with a value baseline and the same advantages. One natural-gradient
step needs many products with the Fisher matrix on thousands of long walks; here every update takes one step of Adam on
fresh, short walks that end in a bootstrapped value, as all methods of this house take one step per update. (Unifloral,
arXiv 2504.11453, plans by soft actor-critic.) The released code ends a walk where it becomes unknown, with a reward
that its example sets to 0: where rewards are negative, to end early would then be the best a policy can do, so HALT has
its value here.

The statistics of d are running ones over the logged steps of the policy's updates: the plain mean of the first 100
batches, then an average that forgets at a rate of 1/100, so that a model that still learns is followed.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import pydantic

from mac_bench import gaussian, returns
from mac_bench.config import GoalMix
from mac_bench.data import Dataset, fit
from mac_bench.gaussian import ModelNetworks, WalkSettings, WorldModel
from mac_bench.jax_agent import JaxAgent, Learner, Method, descend, follow, initial_key, learner
from mac_bench.nn import MLP, Params, initial, repeat, scalar
from mac_bench.policies import Gaussian
from mac_bench.types import About, Batch, Forecast, GoalSampling, Sampling

VERSION = 2
ABOUT = About(
    paper="Kidambi et al. 2020, arXiv 2005.05951",
    parity="law, hand numbers: tests/test_morel.py; learning: tests/test_learning.py",
    defaults="the release's ensemble of 4, discount, lambda and lowest log-deviation; networks and optimiser of MAC's "
    "comparison. The paper tunes halt_beta and halt_offset per task; 5 and 0 are ours",
    deviations="Adam on the policy gradient of short walks from logged states, where the paper takes natural gradient "
    "steps on long walks from first states; HALT has the value of staying in it, where the release ends the walk; "
    "learned rewards; running statistics of the disagreement",
)

MEMORY = 100
"""batches that the statistics of the disagreement reach back"""


class Config(WalkSettings):
    """Where the paper tunes per task, the defaults are ours; see ABOUT."""

    dynamics_training: Literal["joint", "pretrained"] = "pretrained"
    """the paper trains the model first"""
    members: int = pydantic.Field(default=4, gt=1)
    """models in the ensemble"""
    elites: int = pydantic.Field(default=4, gt=1)
    """of them in use after pretraining; the paper uses all"""
    halt_beta: float = pydantic.Field(default=5.0, ge=0)
    """standard deviations above its mean over the data that the disagreement may have"""
    halt_offset: float = pydantic.Field(default=0.0, ge=0)
    """how far the reward in HALT lies below the lowest of the data, at each step"""
    lam: float = pydantic.Field(default=0.97, ge=0, le=1)
    """lambda of the return"""
    lowest_log_std: float = -1.0
    """of the policy: what keeps it trying"""
    value_goals: GoalMix = GoalMix(current=0.2, future=0.5, random=0.3)
    """of imagined walks: value and policy learn from the same"""
    actor_goals: GoalMix = GoalMix(current=0.0, future=0.5, random=0.5, geometric=True)
    """of cloning"""


class Networks(NamedTuple):
    """What is fixed; compared by value."""

    model: ModelNetworks
    value: MLP
    policy: Gaussian


class Known(NamedTuple):
    """Running statistics of the disagreement on logged steps."""

    batches: jax.Array
    """seen so far"""
    mean: jax.Array
    square: jax.Array
    """mean of squares"""


class State(NamedTuple):
    """What is learned."""

    world: WorldModel
    value: Learner
    value_target: Params
    policy: Learner
    known: Known
    halt: jax.Array
    """value of HALT, a constant of the data"""


# -- the pessimistic world -------------------------------------------------------------------------------------------


class Walk(NamedTuple):
    """R imagined walks of H steps."""

    states: jax.Array
    """[H+1, R, O]"""
    actions: jax.Array
    """[H, R, A]"""
    rewards: jax.Array
    """[H, R] with all that follows from HALT where a step leads there"""
    alive: jax.Array
    """[H, R] 0 where s_t ends the task or the step leads to HALT"""
    halted: jax.Array
    """[H, R] 1 where the step leads to HALT"""


def look(known: Known, found: jax.Array) -> Known:
    """The statistics with one more batch of disagreements [B]."""
    batches = jnp.minimum(known.batches + 1, MEMORY)
    rate = 1 / batches
    return Known(
        batches,
        mean=known.mean + rate * (found.mean() - known.mean),
        square=known.square + rate * (jnp.square(found).mean() - known.square),
    )


def threshold(known: Known, beta: float) -> jax.Array:
    """Mean + beta standard deviations, a scalar."""
    return known.mean + beta * jnp.sqrt(jnp.maximum(known.square - jnp.square(known.mean), 0))


def pessimistic(
    c: Config, halt: jax.Array, rewards: jax.Array, alive: jax.Array, unknown: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Rewards and alive [H, R] of a world in which `unknown` [H, R] steps lead to HALT, but after a task's end."""
    return rewards + c.discount * halt * alive * unknown, alive * (1 - unknown)


def walk(c: Config, nets: Networks, state: State, obs, goal, limit: jax.Array, key: jax.Array) -> Walk:
    """H steps of the policy from states [R, O] in the world that halts where members disagree by more than `limit`."""

    def step(obs: jax.Array, key: jax.Array):
        noise_key, model_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, (len(obs), nets.policy.net.out // 2))
        action = nets.policy.sample(state.policy.params, obs, goal, noise)
        gap = gaussian.disagreement(gaussian.elite_means(nets.model, state.world, obs, action))
        return gaussian.sample(nets.model, state.world, obs, action, model_key), (obs, action, gap)

    last, (states, actions, gap) = jax.lax.scan(step, obs, jax.random.split(key, c.rollout_steps))
    rewards, alive = gaussian.outcome(c, nets.model, state.world, states, repeat(goal, c.rollout_steps), actions)
    unknown = (gap > limit).astype(jnp.float32)
    halted = alive * unknown
    rewards, alive = pessimistic(c, state.halt, rewards, alive, unknown)
    return Walk(jnp.concatenate([states, last[None]]), actions, rewards, alive, halted)


def assess(c: Config, nets: Networks, state: State, walk: Walk, goal) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Lambda-returns and advantages [H, R], and the weight [H, R] of each step: 1 up to the walk's end, 0 after it."""
    goals = repeat(goal, c.rollout_steps)
    next_values = scalar(nets.value, state.value_target, walk.states[1:], goals)
    target = returns.lambda_returns(walk.rewards, walk.alive, next_values, c.discount, c.lam)
    advantage = target - scalar(nets.value, state.value.params, walk.states[:-1], goals)
    weight = jnp.concatenate([jnp.ones_like(walk.alive[:1]), jnp.cumprod(walk.alive, axis=0)[:-1]])
    return target, advantage, weight


# -- losses ----------------------------------------------------------------------------------------------------------


def value_loss(nets: Networks, params: Params, walk: Walk, goal, target: jax.Array, weight: jax.Array) -> jax.Array:
    """Squared error to the returns [H, R] at the states of the walks, up to their end."""
    v = scalar(nets.value, params, walk.states[:-1], repeat(goal, len(target)))
    return (weight * jnp.square(v - target)).mean()


def policy_loss(nets: Networks, params: Params, walk: Walk, goal, advantage: jax.Array, weight: jax.Array) -> jax.Array:
    """Its gradient is the policy gradient with advantages [H, R]."""
    distribution = nets.policy(params, walk.states[:-1], repeat(goal, len(advantage)))
    return -(weight * advantage * distribution.log_prob(walk.actions)).mean()


def standardised(advantage: jax.Array, weight: jax.Array) -> jax.Array:
    """Mean 0 and deviation 1 over where the weight [H, R] is 1."""
    count = weight.sum()
    centred = advantage - (weight * advantage).sum() / count
    return centred / (jnp.sqrt((weight * jnp.square(centred)).sum() / count) + 1e-6)


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
    """One step of the world model, and of cloning where the policy's own training has not begun."""
    world, metrics = gaussian.learn(c, nets.model, state.world, batch, key)
    policy = state.policy
    if c.dynamics_training == "pretrained":
        goal = None if batch.goals is None else batch.goals.actor
        policy, metrics["loss/clone"] = descend(
            policy, c.learning_rate, lambda p: nets.policy.loss(p, batch.obs, goal, batch.actions[:, 0])
        )
    return state._replace(world=world, policy=policy), metrics


def learn_policy(c: Config, nets: Networks, state: State, batch: Batch, key: jax.Array):
    """One step of value and policy, both from the same old parameters."""
    start = batch.obs[: c.rollout_batch]
    goal = None if batch.goals is None else batch.goals.value[: c.rollout_batch]
    step, metrics = partial(descend, learning_rate=c.learning_rate), {}

    found = gaussian.disagreement(gaussian.elite_means(nets.model, state.world, batch.obs, batch.actions[:, 0]))
    known = look(state.known, found)
    limit = threshold(known, c.halt_beta)
    walked = walk(c, nets, state, start, goal, limit, key)
    target, advantage, weight = assess(c, nets, state, walked, goal)
    value, metrics["loss/value"] = step(state.value, loss=lambda p: value_loss(nets, p, walked, goal, target, weight))
    scaled = standardised(advantage, weight)
    policy, metrics["loss/policy"] = step(
        state.policy, loss=lambda p: policy_loss(nets, p, walked, goal, scaled, weight)
    )
    metrics |= {"value/mean": target.mean(), "value/min": target.min(), "value/max": target.max()}
    metrics |= {"model/limit": limit, "model/halted": (weight * walked.halted).sum(axis=0).mean()}
    slow = follow(state.value_target, state.value.params, c.tau)
    return State(state.world, value, slow, policy, known, state.halt), metrics


def act(c: Config, nets: Networks, state: State, obs: jax.Array, goal, key: jax.Array) -> jax.Array:
    """The policy's mode: [N, O] -> [N, 1, A]."""
    return nets.policy(state.policy.params, obs, goal).mode()[:, None]


def forecast(c: Config, nets: Networks, state: State, obs: jax.Array, actions: jax.Array) -> Forecast:
    """Of the world model."""
    return gaussian.forecast(nets.model, state.world, obs, actions)


def halt_value(c: Config, data: Dataset) -> float:
    """r_halt / (1 - gamma); the lowest reward of a goal-conditioned task is that of not being there."""
    lowest = -c.goal_cost if data.rewards is None else float(data.rewards.min())
    return (lowest - c.halt_offset) / (1 - c.discount)


def make(c: Config, data: Dataset, seed: int) -> JaxAgent:
    """An agent for these data; goal-conditioned where they have goals."""
    scalings, keys = fit(c.scaling, "train", data), jax.random.split(initial_key(seed), 3)
    obs = jnp.zeros((1, data.observations.shape[1]))
    goal = None if data.goals is None else jnp.zeros((1, data.goals.shape[1]))
    model, world = gaussian.initial_world(c, data, scalings, keys[0])
    nets = Networks(
        model,
        value=MLP(c.value_hidden, 1, c.layer_norm),
        policy=Gaussian(
            MLP(c.policy_hidden, 2 * data.actions.shape[1], c.layer_norm, last_scale=0.01), lowest=c.lowest_log_std
        ),
    )
    value = initial(nets.value, keys[1], obs, goal)
    state = State(
        world=world,
        value=learner(value, c.learning_rate),
        value_target=jax.tree.map(jnp.copy, value),
        policy=learner(initial(nets.policy.net, keys[2], obs, goal), c.learning_rate),
        known=Known(jnp.zeros((), jnp.int32), jnp.zeros(()), jnp.zeros(())),
        halt=jnp.asarray(halt_value(c, data), jnp.float32),
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
