"""LEQ: its returns, its critic's losses and its policy gradient, by hand and against the plain computation."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pretraining import check_pretrained, same

from baselines import leq
from mac_bench import contract, gaussian, registry, returns
from mac_bench.gaussian import ModelNetworks, WorldModel
from mac_bench.jax_agent import learner
from mac_bench.nn import MLP, initial, scalar
from mac_bench.types import Batch, Goals

OBS, ACTION, GOAL, ROWS = 3, 2, 2, 4
SMALL = {"model_hidden": [8], "value_hidden": [8], "policy_hidden": [8], "batch_size": 16, "rollout_batch": ROWS}


# -- returns ---------------------------------------------------------------------------------------------------------


def column(*numbers: float) -> jax.Array:
    return jnp.array(numbers, jnp.float32)[:, None]


def test_returns_of_a_hand_number():
    found = leq.mixed_returns(column(1, 2, 3), column(10, 20), column(1, 1), 0.5, 0.5)
    # G_2 = 3;  G_1 = (2 + 0.5 (20 + 0.5 * 3)) / 1.5 = 8.5;  G_0 = (1 + 0.75 (10 + 0.5 * 8.5)) / 1.75
    np.testing.assert_allclose(found[:, 0], [6.678571, 8.5, 3.0], rtol=1e-6)


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_returns_mix_all_n_step_returns(lam):
    rng, steps, discount = np.random.default_rng(0), 5, 0.9
    q, rewards = rng.normal(size=(steps + 1, 1)), rng.normal(size=(steps, 1))
    alive = np.array([1, 1, 1, 0, 1])[:, None]
    found = leq.mixed_returns(*(jnp.asarray(x, jnp.float32) for x in (q, rewards, alive)), discount, lam)
    for first in range(steps + 1):
        n_step, weights = [], []
        for n in range(steps - first + 1):
            total, going = 0.0, 1.0
            for k in range(n):
                total += discount**k * going * rewards[first + k, 0]
                going *= alive[first + k, 0]
            n_step.append(total + discount**n * going * q[first + n, 0])
            weights.append(lam**n)
        np.testing.assert_allclose(found[first, 0], np.average(n_step, weights=weights), rtol=1e-5)


def test_returns_are_not_those_of_gae():
    q, rewards, alive = column(1, 2, 3), column(10, 20), column(1, 1)
    usual = returns.lambda_returns(rewards, alive, q[1:], 0.5, 0.5)
    assert abs(float(usual[0, 0] - leq.mixed_returns(q, rewards, alive, 0.5, 0.5)[0, 0])) > 1


def test_asymmetry():
    np.testing.assert_allclose(leq.asymmetry(jnp.array([2.0, -2.0]), 0.1), [0.1, 0.9])


# -- losses ----------------------------------------------------------------------------------------------------------

FLAT = leq.Networks(
    ModelNetworks(MLP((), 2), MLP((), 1)), critic=MLP((), 1, layer_norm=False), actor=MLP((), 1, layer_norm=False)
)


def flat(value: float, inputs: int) -> dict:
    """A network that gives the same number everywhere."""
    return {"params": {"Dense_0": {"kernel": jnp.zeros((inputs, 1)), "bias": jnp.array([value])}}}


def standing(alive: list[float]) -> leq.Walk:
    """One walk that stays at 0 with action 0."""
    steps = len(alive)
    zeros = jnp.zeros((steps + 1, 1, 1))
    return leq.Walk(zeros, zeros, jnp.zeros((steps, 1)), column(*alive))


@pytest.mark.parametrize(("alive", "expected"), [([1, 1], 1.85), ([1, 0], 1.85), ([0, 1], 0.7)])
def test_imagined_loss_of_a_hand_number(alive, expected):
    c = leq.Config(expectile=0.1, discount=0.5, rollout_steps=2)
    # Q = 1, slow Q = 0: 0.1 (3 - 1)^2 + (0 - 1)^2 = 1.4 and 0.9 (-1 - 1)^2 + 1 = 4.6, of weight 1 and 0.5 or 0
    loss = leq.imagined_loss(c, FLAT, flat(1.0, 2), flat(0.0, 2), standing(alive), None, column(3, -1, 100))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_imagined_loss_moves_the_critic():
    c = leq.Config(expectile=0.1, discount=0.5, rollout_steps=2)
    slope = jax.grad(lambda p: leq.imagined_loss(c, FLAT, p, flat(0.0, 2), standing([1, 1]), None, column(3, -1, 100)))(
        flat(1.0, 2)
    )
    # d/dQ: -0.2 * 2 + 2 = 1.6 and 0.5 (1.8 * 2 + 2) = 2.8, averaged
    np.testing.assert_allclose(slope["params"]["Dense_0"]["bias"], [2.2], rtol=1e-6)


def test_logged_loss_of_a_hand_number():
    obs = action = jnp.zeros((1, 1))
    loss = leq.logged_loss(FLAT, flat(1.0, 2), flat(0.0, 2), obs, None, action, jnp.array([4.0]))
    np.testing.assert_allclose(loss, 0.5 * 9 + 1, rtol=1e-6)


def test_actor_loss_moves_each_action_along_its_gradient():
    weight, gradient = column(0.9, 0.1, 0.5), jnp.array([2.0, -5.0, 1.0]).reshape(3, 1, 1)
    slope = jax.grad(lambda p: leq.actor_loss(FLAT, p, standing([1, 1]), None, weight, gradient))(flat(0.3, 1))
    # pi = tanh(0.3): the sum of weight * gradient is 1.8, and loss goes down where returns go up
    np.testing.assert_allclose(slope["params"]["Dense_0"]["bias"], [-1.8 * (1 - np.tanh(0.3) ** 2)], rtol=1e-5)


# -- the policy gradient ---------------------------------------------------------------------------------------------


def config(**settings) -> leq.Config:
    return leq.Config(**{key: tuple(x) if isinstance(x, list) else x for key, x in (SMALL | settings).items()})


@cache
def small(goals: bool) -> tuple[leq.Networks, leq.State, jax.Array, jax.Array | None]:
    """Random small networks, four states and goals; three members, of which two are in use."""
    obs, action, goal = (jax.random.normal(jax.random.key(n), (ROWS, n)) for n in (OBS, ACTION, GOAL))
    goal = goal if goals else None
    sizes = {"dynamics": 2 * OBS, "outcome": 1, "critic": 1, "actor": ACTION}
    net = {name: MLP((8,), size, layer_norm=False) for name, size in sizes.items()}
    nets = leq.Networks(ModelNetworks(net["dynamics"], net["outcome"]), net["critic"], net["actor"])

    @jax.jit
    def fresh(key):
        keys = jax.random.split(key, 5)
        critic = initial(nets.critic, keys[0], obs, goal, action)
        world = WorldModel(
            learner(initial(nets.model.dynamics, keys[1], obs, action, members=3), 1e-3),
            jnp.array([0, 2]),
            reward=None if goals else learner(initial(nets.model.outcome, keys[2], obs, goal, action), 1e-3),
            success=learner(initial(nets.model.outcome, keys[3], obs, goal, action), 1e-3),
            fitting=None,
        )
        slow = jax.tree.map(lambda x: 0.5 * x, critic)
        return leq.State(world, learner(critic, 1e-3), slow, learner(initial(nets.actor, keys[4], obs, goal), 1e-3))

    return nets, fresh(jax.random.key(5)), obs, goal


@pytest.mark.parametrize(("goals", "lam"), [(False, 1.0), (True, 0.6)])
def test_action_gradients_equal_the_whole_jacobian(goals, lam):
    steps, key = 3, jax.random.key(8)
    c = config(rollout_steps=steps, lam=lam, discount=0.9, expectile=0.2)
    nets, state, obs, goal = small(goals)

    def all_returns(nudges):
        """Every return of a walk whose actions are moved by so much."""
        here, q, rewards, alive = obs, [], [], []
        for nudge, draw in zip(nudges, [*jax.random.split(key, steps), None], strict=True):
            action = leq.decide(nets, state.actor.params, here, goal) + nudge
            q.append(scalar(nets.critic, state.critic.params, here, goal, action))
            if draw is not None:
                reward, going = gaussian.outcome(c, nets.model, state.world, here, goal, action)
                rewards, alive = [*rewards, reward], [*alive, going]
                here = gaussian.sample(nets.model, state.world, here, action, draw)
        q, rewards, alive = jnp.stack(q), jnp.stack(rewards), jnp.stack(alive)
        mixed = leq.mixed_returns(q, rewards, alive, c.discount, c.lam)
        return mixed, mixed > q

    @jax.jit
    def found(key):
        walk = leq.walk(c, nets, state, obs, goal, key)
        weight = leq.actor_weights(c, nets, state.critic.params, walk, goal)
        return walk, weight, leq.action_gradients(c, nets, state, walk, goal, key)

    still = jnp.zeros((steps + 1, ROWS, ACTION))
    jacobian, above = jax.jit(jax.jacrev(all_returns, has_aux=True))(still)  # [H+1, R, H+1, R, A]
    walk, weight, gradient = found(key)
    assert 0 < float(walk.alive.mean()) < 1, "the case has walks that end and walks that go on"
    expected = np.einsum("trtra->tra", jacobian)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-5)
    asymmetric = np.where(above, 0.2, 0.8)
    asymmetric[-1] = 0.5
    going = np.concatenate([np.ones((1, ROWS)), np.cumprod(walk.alive, axis=0)])
    np.testing.assert_allclose(weight, asymmetric * going, rtol=1e-6)


# -- updates ---------------------------------------------------------------------------------------------------------


def batch_of(goals: bool, seed: int = 0, size: int = 16) -> Batch:
    rng = np.random.default_rng(seed)
    obs, following = rng.normal(size=(2, size, OBS)).astype(np.float32)
    value, actor = rng.normal(size=(2, size, GOAL)).astype(np.float32)
    ones = np.ones((size, 1), np.float32)
    return Batch(
        obs,
        rng.uniform(-1, 1, (size, 1, ACTION)).astype(np.float32),
        rng.normal(size=(size, 1)).astype(np.float32),
        following,
        ones,
        np.arange(size),
        Goals(value, actor, rng.integers(2, size=size).astype(np.float32), np.full(size, np.inf)) if goals else None,
    )


@pytest.mark.parametrize("imagined_weight", [0.0, 1.0])
def test_the_critic_learns_from_what_has_weight(imagined_weight):
    c, (nets, state, *_) = config(rollout_steps=2, imagined_weight=imagined_weight, termination="learned"), small(False)
    learn = jax.jit(lambda state, batch: leq.learn_policy(c, nets, state, batch, jax.random.key(0))[0].critic.params)
    batch = batch_of(False)
    first = learn(state, batch)
    assert not same(first, state.critic.params)
    assert same(first, learn(state, batch._replace(rewards=batch.rewards + 5))) is (imagined_weight == 1)
    other = jax.tree.map(lambda x: x + 1, state.world.reward)
    assert same(first, learn(state._replace(world=state.world._replace(reward=other)), batch)) is (imagined_weight == 0)
    if imagined_weight == 0:  # the target of a logged step looks at the next state, but not past the task's end
        moved = batch_of(False, seed=1).next_obs
        assert not same(first, learn(state, batch._replace(next_obs=moved)))
        ended = batch._replace(alive=np.zeros((16, 1), np.float32))
        assert same(learn(state, ended), learn(state, ended._replace(next_obs=moved)))


def test_critic_and_actor_learn_for_their_own_goals():
    c, (nets, state, *_) = config(rollout_steps=2), small(True)
    learn = jax.jit(lambda batch: leq.learn_policy(c, nets, state, batch, jax.random.key(0))[0])
    batch, other = batch_of(True), batch_of(True, seed=1)
    first = learn(batch)
    actor = learn(batch._replace(goals=batch.goals._replace(actor=other.goals.actor)))
    value = learn(batch._replace(goals=batch.goals._replace(value=other.goals.value)))
    assert same(first.critic, actor.critic) and not same(first.actor, actor.actor)
    assert same(first.actor, value.actor) and not same(first.critic, value.critic)
    # the slow copy moves by tau towards the parameters of before
    expected = jax.tree.map(lambda s, q: s + c.tau * (q - s), state.critic_target, state.critic.params)
    for found, wanted in zip(jax.tree.leaves(first.critic_target), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_pretraining_comes_first_and_resumes_anywhere(tmp_path):
    data = contract.toy(False)
    settings = SMALL | {"dynamics_training": "pretrained", "members": 3, "elites": 2, "rollout_steps": 2}
    settings |= {"model_updates": 4, "holdout_every": 2, "layer_norm": False}
    settings |= {"model_hidden": [], "value_hidden": [], "policy_hidden": []}

    whole = registry.make("leq", settings, data, 0)
    start = jax.tree.map(np.asarray, (whole.state.actor, whole.state.critic))
    for step in range(1, 8):
        whole.update(data.sample(whole.sampling, 0, step), step)
        whole.save(tmp_path / f"{step}.npz", step)
        learned = not same(start, (whole.state.actor, whole.state.critic))
        assert learned is (step > 4)
    check_pretrained(lambda: registry.make("leq", settings, data, 0), data, tmp_path)
