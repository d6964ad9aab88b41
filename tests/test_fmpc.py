"""F-MPC against the official implementation; its returns, its choice and its forecast by law and by hand."""

from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden, assert_close

from baselines import fmpc
from mac_bench import contract, registry
from mac_bench.data import Dataset
from mac_bench.errors import UserError
from mac_bench.jax_agent import descend, learner
from mac_bench.nn import MLP, scalar
from mac_bench.policies import Flow
from mac_bench.types import Batch, Goals

LEARNED = ["model", "policy", "value", "critic"]
THEIRS = {"model": "dynamics_flow", "policy": "actor_flow"}
SMALL = {"model_hidden": (16, 16), "policy_hidden": (16, 16), "value_hidden": (16, 16), "batch_size": 8}
TOY = contract.small("fmpc") | {"chunk": 4, "flow_steps": 2, "candidates": 2, "discount": 0.9}


class Case:
    """The golden file in our types."""

    c = fmpc.Config(chunk=4, candidates=6, discount=0.97, targets="released", flow_steps=4, **SMALL)
    nets = fmpc.Networks(MLP((16, 16), 20), Flow(MLP((16, 16), 2), 4), MLP((16, 16), 1), MLP((16, 16), 1))

    def __init__(self):
        self.golden = golden = Golden("fmpc_goal")
        theirs = golden.group("batch")
        following = theirs["next_observations"].reshape(8, 4, 5)
        actions = np.full((8, 4, 2), np.nan, np.float32)  # all but the first must not matter
        actions[:, 0] = theirs["actions"]
        self.goals = Goals(theirs["value_goals"], theirs["actor_goals"], 1 - theirs["masks"], np.full(8, np.nan))
        self.batch = Batch(
            obs=theirs["observations"],
            actions=actions,
            rewards=np.zeros((8, 4), np.float32),
            next_obs=following[:, -1],
            alive=np.ones((8, 4), np.float32),
            index=np.arange(8),
            goals=self.goals,
            path=np.concatenate([theirs["observations"][:, None], following], axis=1),
        )
        # the file's returns are random numbers, made up for it, and no function of a distance
        self.logged = fmpc.labels(self.c, self.batch)._replace(to_go=theirs["returns_to_go"])
        self.draws = fmpc.Draws(*golden.group("draws").values())

    def network(self, group: str, name: str) -> dict:
        return self.golden.network(group, THEIRS.get(name, name))

    @cached_property
    def state(self) -> fmpc.State:
        return fmpc.State(**{name: learner(self.network("params", name), self.c.learning_rate) for name in LEARNED})

    @cached_property
    def losses(self) -> dict:
        """name -> (loss of its parameters, golden loss)."""
        c, nets, b, info, goals = self.c, self.nets, self.batch, self.golden.group("info"), self.goals
        action, future = b.actions[:, 0], b.path[:, 1:].reshape(8, 20)
        target = fmpc.critic_target(c, nets, self.state.value.params, b.next_obs, goals.value, self.logged)
        return {
            "model": (
                lambda p: fmpc.model_loss(nets, p, b.obs, action, future, self.draws),
                info["dynamics/flow_loss"],
            ),
            "policy": (
                lambda p: nets.policy.loss(
                    p, b.obs, goals.actor, action, self.draws.policy_noise, self.draws.policy_time
                ),
                info["bc_actor/flow_loss"],
            ),
            "value": (
                lambda p: fmpc.value_loss(c, nets, p, b.obs, goals.value, self.logged.to_go),
                info["value/value_loss"],
            ),
            "critic": (
                lambda p: fmpc.critic_loss(c, nets, p, future, goals.value, action, target),
                info["critic/critic_loss"],
            ),
        }


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


def test_rewards_and_ends_of_goals_equal_the_reference(case):
    theirs = case.golden.group("batch")
    np.testing.assert_array_equal(case.logged.reward, theirs["rewards"])
    np.testing.assert_array_equal(case.logged.alive, theirs["masks"])


@pytest.mark.parametrize("name", LEARNED)
def test_loss_gradient_and_step_equal_the_reference(case, name):
    loss, expected = case.losses[name]
    old = getattr(case.state, name)
    value, gradient = jax.jit(jax.value_and_grad(loss))(old.params)
    assert_close(value, expected, f"{name} loss")
    assert_close(gradient, case.network("grads", name), f"{name} gradient")
    new, _ = jax.jit(descend, static_argnums=(1, 2))(old, case.c.learning_rate, loss)
    assert_close(new.params, case.network("params_after_one_update", name), f"{name} after one update")


def test_one_update_of_everything_equals_the_reference(case):
    learn = jax.jit(fmpc.learn, static_argnums=(0, 1))
    state, metrics = learn(case.c, case.nets, case.state, case.batch, case.logged, case.draws)
    for name in LEARNED:
        after = case.network("params_after_one_update", name)
        assert_close(getattr(state, name).params, after, f"{name} after one update")
    total = sum(value for name, value in metrics.items() if name.startswith("loss/"))
    assert_close(total, case.golden["loss/total"], "sum of all losses")


def test_actions_equal_the_reference(case):
    plan = jax.jit(fmpc.plan, static_argnums=(0, 1))
    noise = case.golden.group("act_draws").values()
    actions = plan(case.c, case.nets, case.state, case.golden["act/observations"], case.golden["act/goals"], *noise)
    assert_close(actions, case.golden["act/actions"], "actions")


@pytest.mark.parametrize("with_goal", [True, False])
def test_the_plan_is_the_candidate_whose_own_future_ranks_highest(with_goal):
    data = contract.toy(with_goal)
    agent = registry.make("fmpc", TOY, data, 0)
    c, nets, state = agent.c, agent.nets, agent.state
    obs, goal = data.observations[:50], data.goals[100:150] if data.goals is not None else None
    rng = np.random.default_rng(0)
    policy_noise, model_noise = (rng.normal(size=(5, 50, size)).astype(np.float32) for size in (2, 16))

    @jax.jit
    def one(a, b):  # a candidate and its rank, without any other candidate
        actions = nets.policy.sample(state.policy.params, obs, goal, a)
        future = fmpc.foresee(c, nets, state.model.params, obs, actions, b)
        return actions, scalar(nets.critic, state.critic.params, future, goal, actions)

    each, ranks = zip(*(one(a, b) for a, b in zip(policy_noise, model_noise, strict=True)), strict=True)
    best = np.argmax(ranks, axis=0)
    assert len(set(best.tolist())) == 5, "no test where one candidate always wins"
    plan = jax.jit(fmpc.plan, static_argnums=(0, 1))
    chosen = plan(c, nets, state, obs, goal, policy_noise, model_noise)
    np.testing.assert_allclose(chosen, np.stack(each)[best, np.arange(50)], rtol=1e-5, atol=1e-6)


# -- returns ---------------------------------------------------------------------------------------------------------


def episodes() -> Dataset:
    """Four episodes of 4, 2, 1 and 4 rows; in the last one the task ends in its second row."""
    return Dataset(
        observations=np.zeros((11, 1), np.float32),
        actions=np.zeros((11, 1), np.float32),
        ends=np.array([3, 5, 6, 10]),
        rewards=np.array([1, 2, 4, 8, 16, 32, 64, 1, 2, 4, 8], np.float32),
        alive=np.array([1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1], np.float32),
    )


def test_returns_to_go_by_hand():
    whole, cut, uncut = [3, 4, 4, 0, 16, 0, 0], [2, 2, 4, 0], [3, 4, 4, 0]
    np.testing.assert_array_equal(fmpc.returns_to_go(episodes(), 0.5), whole + cut)
    np.testing.assert_array_equal(fmpc.returns_to_go(episodes(), 0.5, cut=False), whole + uncut)
    np.testing.assert_array_equal(fmpc.returns_to_go(episodes(), 1.0, cut=False)[-4:], [7, 6, 4, 0])


def test_a_return_is_the_reward_of_the_piece_and_the_return_after_it():
    data, n = contract.toy(False), 7
    c = fmpc.Config(chunk=n, discount=0.9)
    table = fmpc.returns_to_go(data, c.discount)
    index = data.draw(np.random.default_rng(0), 500, n)
    batch = data.pieces(index, n)
    logged = fmpc.labels(c, batch._replace(rewards=fmpc.Rewards(batch.rewards, table[index])))
    assert 0.1 < logged.alive.mean() < 0.9
    np.testing.assert_array_equal(logged.to_go, table[index])
    after = logged.reward + c.discount**n * logged.alive * table[index + n]
    np.testing.assert_allclose(logged.to_go, after, rtol=1e-5, atol=1e-5)


def test_labels_of_rewards_by_hand():
    rewards = fmpc.Rewards(np.array([[1, 2, 4], [1, 2, 4]], np.float32), np.array([5, 6], np.float32))
    batch = episodes().pieces(np.array([0, 7]), 3)._replace(rewards=rewards)
    reward, alive, to_go = fmpc.labels(fmpc.Config(chunk=3, discount=0.5), batch)
    np.testing.assert_array_equal([reward, alive, to_go], [[3, 2], [1, 0], [5, 6]])
    reward, alive, to_go = fmpc.labels(fmpc.Config(chunk=3, discount=0.5, targets="released"), batch)
    np.testing.assert_array_equal([reward, alive, to_go], [[1, 1], [1, 1], [5, 6]])


def test_labels_of_goals_by_hand(case):
    distance, reached = np.array([0, 3, 4, np.inf], np.float32), np.array([1, 1, 0, 0], np.float32)
    batch = case.batch._replace(goals=Goals(None, None, reached, distance))
    reward, alive, to_go = fmpc.labels(fmpc.Config(chunk=4, discount=0.5), batch)
    np.testing.assert_array_equal([reward, alive, to_go], [[1, 1 / 8, 0, 0], 1 - reached, [1, 1 / 8, 1 / 16, 0]])
    assert to_go.dtype == jnp.float32
    released = fmpc.labels(fmpc.Config(chunk=4, discount=0.5, targets="released"), batch)
    np.testing.assert_array_equal(released.to_go, [1, 1, 1, 0])
    np.testing.assert_array_equal(released.reward, reached)


def test_critic_target_and_value_loss_by_hand(case):
    params = jax.tree.map(jnp.zeros_like, case.state.value.params)
    params["params"]["Dense_2"]["bias"] += np.log(3)  # a value of 3/4 where it is a logit
    goal, last = case.goals.value[:3], case.batch.next_obs[:3]
    logged = fmpc.Labels(np.array([1, 0, 0.0]), np.array([0, 1, 0.0]), np.array([0.5, 0.5, 0.5]))

    def target_and_loss(with_goal: bool, **settings):
        c, g = fmpc.Config(chunk=2, discount=0.5, **settings), goal if with_goal else None
        p = params if with_goal else {"params": {**params["params"], "Dense_0": without_goal}}
        loss = fmpc.value_loss(c, case.nets, p, last, g, logged.to_go)
        return fmpc.critic_target(c, case.nets, p, last, g, logged), loss

    without_goal = {**params["params"]["Dense_0"], "kernel": params["params"]["Dense_0"]["kernel"][:5]}
    entropy, square = -0.5 * (np.log(0.75) + np.log(0.25)), (np.log(3) - 0.5) ** 2
    for with_goal, settings, value, loss in [
        (True, {}, 0.75, entropy),
        (True, {"value_loss": "bce"}, 0.75, entropy),
        (True, {"targets": "released"}, np.log(3), entropy),
        (True, {"value_loss": "squared"}, np.log(3), square),
        (False, {}, np.log(3), square),
    ]:
        target, ours = target_and_loss(with_goal, **settings)
        np.testing.assert_allclose(target, [1, value / 4, 0], rtol=1e-6, err_msg=str(settings))
        np.testing.assert_allclose(ours, loss, rtol=1e-6, err_msg=str(settings))


@pytest.mark.parametrize("with_goals", [True, False])
def test_an_update_learns_from_the_returns_of_its_rows(with_goals):
    data = contract.toy(with_goals)
    agent = registry.make("fmpc", TOY, data, 0)
    batch = data.sample(agent.sampling, 0, 1)
    if batch.goals is not None:
        ahead = np.isfinite(batch.goals.distance)
        expected = np.where(ahead, 0.9**batch.goals.distance, 0)
        assert 0.1 < ahead.mean() < 0.9
    else:
        expected = fmpc.returns_to_go(data, 0.9)[batch.index]
    metrics = agent.update(batch, 1)
    np.testing.assert_allclose(metrics["return/mean"], expected.mean(), rtol=1e-5)


def test_released_returns_are_plain_sums_past_the_end():
    data = contract.toy(False)
    agent = registry.make("fmpc", {**TOY, "targets": "released"}, data, 0)
    np.testing.assert_allclose(agent.returns[:60], np.cumsum(data.rewards[:60][::-1])[::-1], rtol=1e-5)
    assert data.alive[:60].min() == 0 and agent.returns[60] == 0


# -- forecast --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_forecast_takes_the_given_actions_one_stride_after_the_other(at_once):
    agent = registry.make("fmpc", {**TOY, "propose": at_once}, contract.toy(False), 0)
    c, nets, state = agent.c, agent.nets, agent.state
    rng = np.random.default_rng(0)
    obs, actions = rng.normal(size=(3, 4)).astype(np.float32), rng.uniform(-1, 1, (3, 5, 2)).astype(np.float32)
    forecast, foresee = (jax.jit(partial(function, c, nets)) for function in (fmpc.forecast, fmpc.foresee))
    states, stride = forecast(state, obs, actions)
    assert stride == at_once and states.shape == (3, 5 // at_once, 4)
    now = obs
    for i in range(5 // at_once):
        given = actions[:, i * at_once : (i + 1) * at_once].reshape(3, -1)
        future = foresee(state.model.params, now, given, jnp.zeros((3, 16)))
        now = future[:, 4 * (at_once - 1) : 4 * at_once]  # the state after the last action that was given
        np.testing.assert_allclose(states[:, i], now, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(forecast(state, obs, actions)[0], states, "a forecast draws nothing")


# -- settings --------------------------------------------------------------------------------------------------------


def test_a_checkpoint_holds_nothing_of_the_data(tmp_path):
    agent = registry.make("fmpc", TOY, contract.toy(False), 0)
    agent.save(tmp_path / "checkpoint.npz", 3)
    other = registry.make("fmpc", TOY, contract.toy(False, episodes=4, length=20), 1)
    assert other.load(tmp_path / "checkpoint.npz") == 3
    assert len(other.returns) == 4 * 21


def test_all_proposed_actions_can_be_executed():
    data = contract.toy(False)
    one, both = (registry.make("fmpc", {**TOY, "propose": 2, "execute": number}, data, 0) for number in (1, 2))
    actions = both.act(data.observations[:5], None, seed=0)
    assert actions.shape == (5, 2, 2)
    np.testing.assert_array_equal(one.act(data.observations[:5], None, seed=0), actions[:, :1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"value_loss": "bce"}, "value_loss 'bce' is for goals"),
        ({"propose": 33}, "propose is 33, but the model sees only 32 states ahead"),
        ({"propose": 2, "execute": 3}, "execute is 3, but only 2 actions are proposed"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        registry.make("fmpc", TOY | {"chunk": 32} | settings, contract.toy(False), 0)
