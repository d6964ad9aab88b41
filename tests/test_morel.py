"""MOReL: the pessimistic world and its planner, by law and by hand."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pretraining import check_pretrained, same

from baselines import morel
from mac_bench import contract, gaussian, registry, returns
from mac_bench.data import Dataset
from mac_bench.gaussian import ModelNetworks, WorldModel
from mac_bench.jax_agent import learner
from mac_bench.nn import MLP, initial
from mac_bench.policies import Gaussian
from mac_bench.types import Batch, Goals

OBS, ACTION, GOAL, ROWS, STEPS = 3, 2, 2, 5, 3
SMALL = {"model_hidden": [8], "value_hidden": [8], "policy_hidden": [8], "batch_size": 16, "rollout_batch": ROWS}
SMALL |= {"layer_norm": False, "rollout_steps": STEPS}


def config(**settings) -> morel.Config:
    return morel.Config(**{key: tuple(x) if isinstance(x, list) else x for key, x in (SMALL | settings).items()})


@cache
def small(goals: bool) -> tuple[morel.Networks, morel.State]:
    """Random small networks; four members, of which two are in use."""
    obs, action, goal = (jnp.zeros((1, size)) for size in (OBS, ACTION, GOAL))
    goal = goal if goals else None
    sizes = {"dynamics": 2 * OBS, "outcome": 1, "value": 1, "policy": 2 * ACTION}
    net = {name: MLP((8,), size, layer_norm=False) for name, size in sizes.items()}
    nets = morel.Networks(
        ModelNetworks(net["dynamics"], net["outcome"]), net["value"], Gaussian(net["policy"], lowest=-1.0)
    )

    @jax.jit
    def fresh(key):
        keys = jax.random.split(key, 5)
        value = initial(net["value"], keys[0], obs, goal)
        world = WorldModel(
            learner(initial(net["dynamics"], keys[1], obs, action, members=4), 1e-3),
            jnp.array([0, 2]),
            reward=None if goals else learner(initial(net["outcome"], keys[2], obs, goal, action), 1e-3),
            success=learner(initial(net["outcome"], keys[3], obs, goal, action), 1e-3),
            fitting=None,
        )
        policy = learner(initial(net["policy"], keys[4], obs, goal), 1e-3)
        slow = jax.tree.map(lambda x: x + 1, value)
        known = morel.Known(jnp.zeros((), jnp.int32), jnp.zeros(()), jnp.zeros(()))
        return morel.State(world, learner(value, 1e-3), slow, policy, known, jnp.float32(-20))

    return nets, fresh(jax.random.key(5))


def batch_of(goals: bool = False, seed: int = 0, size: int = 16) -> Batch:
    rng = np.random.default_rng(seed)
    obs, following = rng.normal(size=(2, size, OBS)).astype(np.float32)
    value, actor = rng.normal(size=(2, size, GOAL)).astype(np.float32)
    return Batch(
        obs,
        rng.uniform(-0.9, 0.9, (size, 1, ACTION)).astype(np.float32),
        rng.normal(size=(size, 1)).astype(np.float32),
        following,
        np.ones((size, 1), np.float32),
        np.arange(size),
        Goals(value, actor, rng.integers(2, size=size).astype(np.float32), np.full(size, np.inf)) if goals else None,
    )


def column(*numbers: float) -> jax.Array:
    return jnp.array(numbers, jnp.float32)[:, None]


# -- what is known ---------------------------------------------------------------------------------------------------


def test_threshold_is_mean_and_deviations_over_all_that_was_seen():
    rng = np.random.default_rng(0)
    data, look = rng.exponential(size=(60, 8)).astype(np.float32), jax.jit(morel.look)
    known = morel.Known(jnp.int32(0), jnp.float32(0), jnp.float32(0))
    for found in data:
        known = look(known, found)
    np.testing.assert_allclose(morel.threshold(known, 0.0), data.mean(), rtol=1e-5)
    np.testing.assert_allclose(morel.threshold(known, 3.0), data.mean() + 3 * data.std(), rtol=1e-5)


def test_statistics_of_long_ago_are_forgotten():
    known = morel.Known(jnp.int32(5000), jnp.float32(10.0), jnp.float32(100.0))
    known = morel.look(known, jnp.zeros(4))
    np.testing.assert_allclose([known.mean, known.square], [9.9, 99.0], rtol=1e-6)


# -- HALT ------------------------------------------------------------------------------------------------------------


def test_halt_is_as_bad_as_the_worst_for_ever():
    rewards = np.array([-3.0, 5.0, 0.0], np.float32)
    data = Dataset(np.zeros((3, 1), np.float32), np.zeros((3, 1), np.float32), np.array([2]), rewards=rewards)
    value = morel.halt_value(morel.Config(discount=0.5, halt_offset=1.0), data)
    assert value == -8
    np.testing.assert_allclose(value, -4 + 0.5 * value)  # staying changes nothing
    goals = Dataset(data.observations, data.actions, data.ends, goals=data.observations)
    assert morel.halt_value(morel.Config(discount=0.5), goals) == -2
    assert morel.halt_value(morel.Config(discount=0.5, goal_reward="0/1", halt_offset=1.0), goals) == -2


def test_an_unknown_step_gives_its_reward_and_then_halt():
    c = morel.Config(discount=0.9, lam=0.5)
    alive, unknown = column(1, 1, 1, 0), column(0, 1, 0, 1)
    rewards, alive = morel.pessimistic(c, jnp.float32(-20), column(-1, -1, -1, -1), alive, unknown)
    np.testing.assert_allclose(rewards[:, 0], [-1, -19, -1, -1])  # where the task has ended there is nothing to fear
    np.testing.assert_array_equal(alive[:, 0], [1, 0, 1, 0])
    found = returns.lambda_returns(rewards, alive, column(7, 8, 9, 0), c.discount, c.lam)
    # G_1 = -1 - 0.9 * 20, whatever follows;  G_0 = -1 + 0.9 (0.5 * 7 - 0.5 * 19)
    np.testing.assert_allclose(found[:2, 0], [-6.4, -19], rtol=1e-6)


@pytest.mark.parametrize("goals", [False, True])
def test_without_a_limit_the_world_is_the_model(goals):
    c, (nets, state) = config(discount=0.9, termination="learned"), small(goals)
    start, goal = batch_of().obs[:ROWS], batch_of(True).goals.value[:ROWS] if goals else None
    go = jax.jit(lambda limit, seed: morel.walk(c, nets, state, start, goal, limit, jax.random.key(seed)))
    free, none, some, other = (go(jnp.float32(limit), seed) for limit, seed in ((np.inf, 3), (0, 3), (1, 3), (1, 4)))
    assert (free.actions[0] != other.actions[0]).all(), "actions are drawn"
    goal = np.broadcast_to(goal, (STEPS, ROWS, GOAL)) if goals else None

    @jax.jit
    def plain(states, actions):
        means = jax.vmap(lambda s, a: gaussian.elite_means(nets.model, state.world, s, a))(states, actions)
        return gaussian.outcome(c, nets.model, state.world, states, goal, actions), means  # means [H, E, R, O]

    (rewards, alive), means = plain(free.states[:-1], free.actions)
    assert not free.halted.any()
    np.testing.assert_array_equal(none.halted, alive)  # wherever the task has not ended
    np.testing.assert_allclose(free.rewards, rewards, rtol=1e-5)
    np.testing.assert_array_equal(free.alive, alive)
    assert alive.any() and (np.abs(free.actions) <= 1).all()
    # always HALT: the same walk, and at every step its reward and the value of HALT
    np.testing.assert_array_equal(none.states, free.states)
    np.testing.assert_allclose(none.rewards, rewards - 0.9 * 20 * alive, rtol=1e-5)
    assert not none.alive.any()
    # in between: where the elites in use disagree by more than the limit, and nowhere else
    gap = np.linalg.norm(means[:, 0] - means[:, 1], axis=-1)
    assert 0 < (gap > 1).mean() < 1
    np.testing.assert_array_equal(some.halted, (gap > 1) * alive)
    np.testing.assert_allclose(some.rewards, np.where(gap > 1, rewards - 18 * alive, rewards), rtol=1e-5)
    np.testing.assert_array_equal(some.alive, np.where(gap > 1, 0, alive))


# -- the planner -----------------------------------------------------------------------------------------------------


def line(slope: float, bias: float) -> dict:
    return {"params": {"Dense_0": {"kernel": jnp.array([[slope]]), "bias": jnp.array([bias])}}}


def test_returns_and_advantages_of_a_hand_number():
    c, (nets, state) = config(rollout_steps=2, discount=0.5, lam=0.5), small(False)
    nets = nets._replace(value=MLP((), 1, layer_norm=False))
    # V(s) = s, and its slow copy 2 s + 1
    state = state._replace(value=learner(line(1.0, 0.0), 1e-3), value_target=line(2.0, 1.0))
    states = jnp.array([0.0, 1.0, 2.0]).reshape(3, 1, 1)
    assess = jax.jit(lambda walked: morel.assess(c, nets, state, walked, None))
    for alive, target, weight in (([1, 1], [12.25, 22.5], [1, 1]), ([0, 1], [10, 22.5], [1, 0])):
        walked = morel.Walk(states, states[:2], column(10, 20), column(*alive), column(0, 0))
        found = assess(walked)
        # G_1 = 20 + 0.5 * 5;  G_0 = 10 + 0.5 (0.5 * 3 + 0.5 * 22.5) where the task goes on
        target[0] = 10 + 0.5 * (1.5 + 11.25) * alive[0]
        expected = target, [target[0] - 0, target[1] - 1], weight
        for x, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(x[:, 0], wanted, rtol=1e-6)


def test_losses_of_hand_numbers():
    nets, _ = small(False)
    nets = nets._replace(value=MLP((), 1, layer_norm=False), policy=Gaussian(MLP((), 2, layer_norm=False)))
    states, actions = jnp.array([0.0, 1.0, 2.0]).reshape(3, 1, 1), jnp.array([0.5, -0.5]).reshape(2, 1, 1)
    walked = morel.Walk(states, actions, column(0, 0), column(1, 1), column(0, 0))
    weight = column(1, 0)
    # V(s) = s: |0 - 3|^2, and the second state does not count
    np.testing.assert_allclose(morel.value_loss(nets, line(1.0, 0.0), walked, None, column(3, 9), weight), 4.5)
    policy = {"params": {"Dense_0": {"kernel": jnp.zeros((1, 2)), "bias": jnp.array([0.2, 0.0])}}}
    slope = jax.jit(jax.grad(lambda p: morel.policy_loss(nets, p, walked, None, column(2, 5), weight)))(policy)
    # d log N(x | 0.2, 1) / d mean = x - 0.2 at x = artanh(0.5), times advantage 2, averaged over two; the loss falls
    expected = -(np.arctanh(0.5) - 0.2)
    np.testing.assert_allclose(slope["params"]["Dense_0"]["bias"][0], expected, rtol=1e-5)


def test_advantages_are_standardised_where_they_count():
    found = morel.standardised(column(1, 3, 100), column(1, 1, 0))
    np.testing.assert_allclose(found[:2, 0], [-1, 1], rtol=1e-5)


def test_one_update_learns_in_the_pessimistic_world():
    c, (nets, state) = config(halt_beta=0.5), small(True)
    learn = jax.jit(lambda state, batch: morel.learn_policy(c, nets, state, batch, jax.random.key(0)))
    batch, other = batch_of(True), batch_of(True, seed=1)
    new, metrics = learn(state, batch)
    assert 0 < metrics["model/halted"] < 1
    means = gaussian.elite_means(nets.model, state.world, batch.obs, batch.actions[:, 0])
    gap = np.linalg.norm(means[0] - means[1], axis=-1)
    np.testing.assert_allclose(metrics["model/limit"], gap.mean() + 0.5 * gap.std(), rtol=1e-5)

    @jax.jit
    def losses(limit):
        goal = batch.goals.value[:ROWS]
        walked = morel.walk(c, nets, state, batch.obs[:ROWS], goal, limit, jax.random.key(0))
        target, advantage, weight = morel.assess(c, nets, state, walked, goal)
        scaled = morel.standardised(advantage, weight)
        return {
            "loss/value": morel.value_loss(nets, state.value.params, walked, goal, target, weight),
            "loss/policy": morel.policy_loss(nets, state.policy.params, walked, goal, scaled, weight),
        }

    for name, expected in losses(metrics["model/limit"]).items():
        np.testing.assert_allclose(metrics[name], expected, rtol=1e-4)
    assert not same(new.value.params, state.value.params) and not same(new.policy.params, state.policy.params)
    assert same(new.world, state.world)
    slow = jax.tree.map(lambda s, v: s + c.tau * (v - s), state.value_target, state.value.params)
    for found, wanted in zip(jax.tree.leaves(new.value_target), jax.tree.leaves(slow), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    # value and policy both learn for the value goals
    for change, differs in (({"actor": other.goals.actor}, False), ({"value": other.goals.value}, True)):
        again, _ = learn(state, batch._replace(goals=batch.goals._replace(**change)))
        assert same(new.value.params, again.value.params) is not differs
        assert same(new.policy.params, again.policy.params) is not differs
    # HALT matters
    assert not same(new.policy.params, learn(state._replace(halt=jnp.float32(-500)), batch)[0].policy.params)


# -- turns -----------------------------------------------------------------------------------------------------------


def test_cloning_then_planning_and_it_resumes_anywhere(tmp_path):
    data = contract.toy(False)
    settings = SMALL | {"members": 3, "elites": 2, "model_updates": 4, "holdout_every": 2}
    settings |= {"model_hidden": [], "value_hidden": [], "policy_hidden": []}

    whole = registry.make("morel", settings, data, 0)
    for step in range(1, 8):
        before = jax.tree.map(np.asarray, (whole.state.policy.params, whole.state.value.params))
        whole.update(data.sample(whole.sampling, 0, step), step)
        whole.save(tmp_path / f"{step}.npz", step)
        assert not same(before[0], whole.state.policy.params)  # first it clones, then it plans
        assert same(before[1], whole.state.value.params) is (step <= 4)
    assert int(whole.state.known.batches) == 3
    check_pretrained(lambda: registry.make("morel", settings, data, 0), data, tmp_path)


def test_cloning_raises_the_likelihood_of_the_data_and_only_before_the_plan():
    c, (nets, state) = config(members=4), small(True)
    batch = batch_of(True)
    clone = jax.jit(lambda s: morel.learn_model(c, nets, s, batch, jax.random.key(0)))
    first = clone(state)[1]["loss/clone"]
    for _ in range(30):
        state, metrics = clone(state)
    assert metrics["loss/clone"] < first - 0.05
    joint = c.model_copy(update={"dynamics_training": "joint"})
    new, metrics = jax.jit(lambda s: morel.learn_model(joint, nets, s, batch, jax.random.key(0)))(state)
    assert same(new.policy, state.policy) and "loss/clone" not in metrics
