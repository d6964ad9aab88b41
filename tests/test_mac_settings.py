"""MAC's settings beside the golden ones, by law and by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from baselines import gciql
from mac_bench import contract, mac, registry
from mac_bench.dynamics import Rollout
from mac_bench.errors import UserError
from mac_bench.nn import MLP, initial

DREAM = jax.jit(mac.dream, static_argnums=(0, 1))


def small(goals: bool = True, **settings):
    """An agent on the toy, and a batch for it."""
    agent = registry.make("mac", contract.small("mac") | settings, contract.toy(goals), 0)
    batch = contract.toy(goals).sample(agent.sampling, 0, 1)
    return agent, batch


def rollout_of(agent, batch):
    goal = batch.goals.value if batch.goals else None
    size = agent.nets.flow.net.out
    noise = mac.draw(agent.c, len(batch.obs), size, jax.random.key(0)).candidates
    return DREAM(agent.c, agent.nets, agent.state, batch.obs, goal, noise), goal


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def metric(name, step, c, nets, *arguments):
    """One metric of a training step; what it does not depend on is not even compiled."""
    return step(c, nets, *arguments)[1][name]


def test_rewards_of_goals_are_success_or_success_minus_one():
    for kind, before, reached in (("-1/0", -1.0, 0.0), ("0/1", 0.0, 1.0)):
        agent, batch = small(goal_reward=kind)
        rollout, goal = rollout_of(agent, batch)
        rewards, alive = mac.outcome(agent.c, agent.nets, agent.state, rollout, goal)
        assert set(np.unique(rewards)) <= {before, reached}
        np.testing.assert_array_equal(np.asarray(rewards) == reached, np.asarray(alive) == 0)


def test_a_rewarded_task_never_ends_unless_that_is_learned():
    agent, batch = small(goals=False)
    assert agent.state.success is None
    rollout, _ = rollout_of(agent, batch)
    _, alive = mac.outcome(agent.c, agent.nets, agent.state, rollout, None)
    assert (np.asarray(alive) == 1).all()
    agent, _ = small(goals=False, termination="learned")
    certain = jax.tree.map(jnp.zeros_like, agent.state.success.params)
    certain["params"]["Dense_2"]["bias"] = jnp.ones(1)  # a logit above 0 everywhere
    state = agent.state._replace(success=agent.state.success._replace(params=certain))
    _, alive = mac.outcome(agent.c, agent.nets, state, rollout, None)
    assert (np.asarray(alive) == 0).all()


def test_learned_ends_come_to_tell_ended_states_from_others():
    agent, _ = small(goals=False, termination="learned", chunk=2, learning_rate=0.01)
    data = contract.toy(False)
    losses = [float(agent.update(data.sample(agent.sampling, 0, i), i)["loss/success"]) for i in range(1, 201)]
    assert np.mean(losses[-20:]) < 0.3 * np.mean(losses[:5])


def test_cross_entropy_is_least_at_its_target_and_values_are_probabilities():
    c = mac.Config(value_loss="bce", goal_reward="0/1")
    logits, target = jnp.linspace(-4, 4, 801), jnp.float32(0.3)
    losses = [float(mac._regression(c, x[None], target[None])) for x in logits[::8]]
    assert jax.nn.sigmoid(logits[::8][int(np.argmin(losses))]) == pytest.approx(0.3, abs=0.02)
    # a target beyond 1 counts as 1
    assert mac._regression(c, logits[:1], jnp.array([1.7])) == mac._regression(c, logits[:1], jnp.array([1.0]))
    agent, batch = small(value_loss="bce", goal_reward="0/1")
    rollout, goal = rollout_of(agent, batch)
    rewards, alive = jnp.zeros(rollout.chunks.shape[:2]), jnp.ones(rollout.chunks.shape[:2])
    targets = mac.value_targets(agent.c, agent.nets, agent.state, rollout, rewards, alive, goal)
    assert (np.asarray(targets) > 0).all() and (np.asarray(targets) < 1).all()
    with pytest.raises(UserError, match="value_loss 'bce' is for goals"):
        small(goals=False, value_loss="bce", goal_reward="0/1")


@pytest.mark.parametrize("slow", [True, False])
def test_rollouts_bootstrap_from_the_slow_value_or_the_online_one(slow):
    agent, batch = small(target_network=slow)
    rollout, goal = rollout_of(agent, batch)
    zero = jax.tree.map(jnp.zeros_like, agent.state.value_target)
    rewards, alive = (jnp.ones(rollout.chunks.shape[:2]) for _ in range(2))

    def targets(state):
        return np.asarray(mac.value_targets(agent.c, agent.nets, state, rollout, rewards, alive, goal))

    changed = targets(agent.state._replace(value_target=zero))
    gamma, horizon = agent.c.chunk_discount, agent.c.rollout_chunks
    without = sum(gamma**h for h in range(horizon))  # a bootstrap of 0
    assert (np.abs(changed[0] - without) < 1e-4).all() == slow
    assert (targets(agent.state) != changed).any() == slow


def test_the_reward_model_learns_the_sum_or_the_mean():
    losses = {}
    for kind in ("sum", "mean"):
        agent, batch = small(goals=False, chunk_reward=kind)
        rewards = -np.ones_like(batch.rewards)
        zero = jax.tree.map(jnp.zeros_like, agent.state.reward.params)
        state = agent.state._replace(reward=agent.state.reward._replace(params=zero))
        batch = batch._replace(rewards=rewards)
        losses[kind] = float(metric("loss/reward", mac.update, agent.c, agent.nets, state, batch, jax.random.key(0)))
    alive = contract.toy(False).sample(agent.sampling, 0, 1).alive
    begun = np.concatenate([np.ones_like(alive[:, :1]), alive[:, :-1]], axis=1)
    total = (begun * agent.c.discount ** np.arange(agent.c.chunk)).sum(axis=1)
    assert losses["sum"] == pytest.approx((total**2).mean(), rel=1e-4)
    assert losses["mean"] == pytest.approx(((total / agent.c.chunk) ** 2).mean(), rel=1e-4)


def test_rollouts_start_from_the_first_states_of_the_batch():
    agent, batch = small(rollout_batch=5)
    draws = mac.draw(agent.c, 32, agent.nets.flow.net.out, jax.random.key(0))
    assert draws.candidates.shape == (10, 8, 5, 20) and draws.noise.shape == (32, 20)
    mean = metric("value/mean", mac.learn, agent.c, agent.nets, agent.state, batch, draws)
    rollout = DREAM(agent.c, agent.nets, agent.state, batch.obs[:5], batch.goals.value[:5], draws.candidates)
    assert isinstance(rollout, Rollout) and rollout.states.shape == (11, 5, 4)
    rewards, alive = mac.outcome(agent.c, agent.nets, agent.state, rollout, batch.goals.value[:5])
    targets = mac.value_targets(
        agent.c, agent.nets, agent.state, rollout, rewards, alive, jnp.asarray(batch.goals.value[:5])
    )
    assert mean == pytest.approx(float(targets.mean()), rel=1e-4)


def test_scaling_is_fitted_where_it_is_asked_for():
    from dataclasses import replace

    data = contract.toy(True)
    wide = replace(data, observations=data.observations * 3)
    both = replace(data, validation=wide)
    of = {
        split: registry.make("mac", contract.small("mac") | {"scaling_split": split}, both, 0).scalings
        for split in ("train", "validation")
    }
    np.testing.assert_allclose(of["validation"].obs.scale - 1e-3, 3 * (of["train"].obs.scale - 1e-3), rtol=1e-5)
    with pytest.raises(UserError, match="these data have no validation split; use 'train'"):
        registry.make("mac", contract.small("mac") | {"scaling_split": "validation"}, data, 0)


def test_awr_weighs_imitation_by_the_advantage_up_to_a_limit():
    c = gciql.Config(actor_loss="awr", alpha=2.0, value_hidden=(8,), policy_hidden=(8,))
    nets = gciql.Networks(MLP((8,), 1), MLP((8,), 1), MLP((8,), 2))
    obs, action = jnp.ones((4, 3)), jnp.full((4, 2), 0.5)

    def zeros(net, *inputs, **kind):
        shapes = jax.eval_shape(lambda key: initial(net, key, *inputs, **kind), jax.random.key(0))
        return jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)

    value, critic, actor = zeros(nets.value, obs), zeros(nets.critic, obs, action, members=2), zeros(nets.actor, obs)
    loss_of = jax.jit(lambda critic: gciql.actor_loss(c, nets, actor, value, critic, obs, None, action))
    log_prob = -0.5 * (0.25 + gciql.LOG_2PI) * 2  # of 0.5 under a standard normal, two numbers
    for q, weight in ((0.0, 1.0), (0.3, np.exp(0.6)), (9.0, 100.0)):
        critic["params"]["Dense_1"]["bias"] = jnp.full((2, 1), q)
        assert loss_of(critic) == pytest.approx(-weight * log_prob, rel=1e-5)


def test_two_critics_are_one_by_minimum_or_mean():
    q = jnp.array([[1.0, 4.0], [3.0, 2.0]])
    np.testing.assert_array_equal(gciql.aggregate(gciql.Config(), q), [1, 2])
    np.testing.assert_array_equal(gciql.aggregate(gciql.Config(q_aggregation="mean"), q), [2, 3])
