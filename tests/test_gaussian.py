"""The Gaussian world model: its likelihood and disagreement by hand, and the rule by which pretraining ends."""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mac_bench import contract, ensemble, gaussian
from mac_bench.data import Dataset, fit
from mac_bench.ensemble import LOG_STD_LOW
from mac_bench.gaussian import Fitting, ModelNetworks, ModelSettings, Steps, WorldModel
from mac_bench.jax_agent import learner
from mac_bench.nn import MLP
from mac_bench.types import Batch, Sampling

C = ModelSettings(
    dynamics_training="pretrained", members=3, elites=2, model_hidden=(16, 16), holdout_every=2, patience=2
)
LINEAR = MLP((), 2, layer_norm=False)
"""s and a of one number each -> mean of the change and raw log-deviation"""
NETS = ModelNetworks(LINEAR, MLP((), 1, layer_norm=False))
NARROW = -100.0
"""raw output at which the deviation is the smallest"""


def constant(changes: list[float], raw: float = NARROW) -> dict:
    """Members that expect s to change by so much, whatever is done."""
    bias = jnp.stack([jnp.array(changes), jnp.full(len(changes), raw)], axis=1)
    return {"params": {"Dense_0": {"kernel": jnp.zeros((len(changes), 2, 2)), "bias": bias}}}


def world(changes: list[float], elite: list[int], fitting: Fitting | None = None) -> WorldModel:
    return WorldModel(learner(constant(changes), 1e-3), jnp.array(elite), None, None, fitting)


def fitting_of(params: dict, errors: list[float], held_from: int = 10**6) -> Fitting:
    steps = Steps(jnp.zeros((4, 1)), jnp.zeros((4, 1)), jnp.full((4, 1), 0.5))
    zero = jnp.zeros((), jnp.int32)
    return Fitting(steps, jnp.asarray(held_from), params, jnp.array(errors), zero, zero, jnp.zeros((), bool))


def batch_of(size: int, index=None, rewards: float = 0.0) -> Batch:
    rng = np.random.default_rng(0)
    obs, action, following = rng.normal(size=(3, size, 1)).astype(np.float32)
    ones = np.ones((size, 1), np.float32)
    return Batch(obs, action[:, None], rewards * ones, following, ones, np.arange(size) if index is None else index)


# -- prediction ------------------------------------------------------------------------------------------------------


def test_likelihood_of_a_hand_number():
    mean, log_std = jnp.array([[0.0, 1.0]]), jnp.log(jnp.array([[1.0, 2.0]]))
    # log(2 pi) / 2 = 0.918939;  (1 / 2 + 0) and (16 / 8 + log 2), averaged over the two dimensions
    expected = 0.918939 + (0.5 + 2 + 0.693147) / 2
    np.testing.assert_allclose(gaussian.nll(mean, log_std, jnp.array([[1.0, 5.0]])), [expected], rtol=1e-5)


@pytest.mark.parametrize(("raw", "log_std"), [(-100.0, -5.0), (0.0, -2.0), (100.0, 1.0)])
def test_deviation_is_squashed_and_the_change_added(raw, log_std):
    mean, found = gaussian.predictions(LINEAR, constant([0.5], raw), jnp.array([[2.0]]), jnp.array([[0.0]]))
    np.testing.assert_allclose([mean[0, 0, 0], found[0, 0, 0]], [2.5, log_std], rtol=1e-6)


def test_disagreement_is_the_largest_distance_of_two_means():
    means = jnp.array([[[0.0, 0.0], [1.0, 1.0]], [[3.0, 4.0], [1.0, 1.0]], [[0.0, 1.0], [1.0, 1.0]]])
    np.testing.assert_allclose(gaussian.disagreement(means), [5.0, 0.0])


def test_samples_come_from_elites_only_in_equal_shares_and_anew_for_each_row():
    model = world([1.0, 2.0, 3.0, 4.0], elite=[1, 3, 0])
    rows, calls = 7, 400
    obs = jnp.arange(rows, dtype=jnp.float32)[:, None]
    keys = jax.random.split(jax.random.key(0), calls)
    draw = jax.jit(jax.vmap(lambda key: gaussian.sample(NETS, model, obs, jnp.zeros((rows, 1)), key)))
    change = np.asarray(draw(keys) - obs[None])[..., 0]  # [calls, rows]
    member = change.round()
    assert set(np.unique(member)) == {1.0, 2.0, 4.0}
    np.testing.assert_allclose((change - member).std(), np.exp(LOG_STD_LOW), rtol=0.1)
    for value in (1.0, 2.0, 4.0):
        np.testing.assert_allclose((member == value).mean(axis=0), 1 / 3, atol=0.1)
    # rows that share a member now need not do so at the next call
    assert len({tuple(row) for row in member}) > 3


def test_forecast_is_the_mean_of_the_elites():
    states = gaussian.forecast(NETS, world([1.0, 2.0, 6.0], elite=[0, 2]), jnp.zeros((2, 1)), jnp.zeros((2, 3, 1)))
    np.testing.assert_allclose(states.states[..., 0], [[3.5, 7.0, 10.5]] * 2, rtol=1e-6)
    assert states.stride == 1


def test_outcome_by_mode():
    model = world([0.0], [0])._replace(success=learner(_outcome(bias=-1.0, kernel=2.0), 1e-3))
    obs, action = jnp.array([[0.0], [1.0]]), jnp.zeros((2, 1))
    for kind, rewards in (("-1/0", [-1.0, 0.0]), ("0/1", [0.0, 1.0])):
        found = gaussian.outcome(ModelSettings(goal_reward=kind), NETS, model, obs, None, action)
        np.testing.assert_array_equal(found, [rewards, [1.0, 0.0]])
    model = model._replace(reward=learner(_outcome(bias=3.0, kernel=0.0), 1e-3))
    found = gaussian.outcome(ModelSettings(), NETS, model, obs, None, action)
    np.testing.assert_array_equal(found, [[3.0, 3.0], [1.0, 0.0]])
    found = gaussian.outcome(ModelSettings(), NETS, model._replace(success=None), obs, None, action)
    np.testing.assert_array_equal(found, [[3.0, 3.0], [1.0, 1.0]])


def _outcome(bias: float, kernel: float) -> dict:
    return {"params": {"Dense_0": {"kernel": jnp.array([[kernel], [0.0]]), "bias": jnp.array([bias])}}}


# -- pretraining -----------------------------------------------------------------------------------------------------


def test_a_member_is_kept_when_its_error_falls_by_more_than_one_percent():
    fitting, kept = fitting_of(constant([0.0, 0.0, 0.0]), [np.inf] * 3), []
    looks = []
    sequence = [[1.0, 1.0, 1.0], [0.995, 0.5, 2.0], [0.99, 0.496, 0.9], [0.9899, 0.496, 0.9], [0.9899, 0.496, 0.9]]
    for number, errors in enumerate(sequence, start=1):
        fitting = gaussian.judge(C, fitting, constant([number] * 3), jnp.array(errors))
        kept.append(fitting.kept["params"]["Dense_0"]["bias"][:, 0].tolist())
        looks.append(int(fitting.looks))
    # 0.995 is half a percent below 1 and 0.99 exactly one: neither counts, 0.9899 does; 0.496 is 0.8 % below 0.5
    assert kept == [[1, 1, 1], [1, 2, 1], [1, 2, 3], [4, 2, 3], [4, 2, 3]]
    np.testing.assert_allclose(fitting.error, [0.9899, 0.5, 0.9])
    assert looks == [0, 0, 0, 0, 1]
    assert not fitting.done
    assert gaussian.judge(C, fitting, constant([6] * 3), jnp.array([1.0, 1.0, 1.0])).done  # patience is 2


def test_an_error_that_is_no_number_keeps_nothing():
    fitting = gaussian.judge(
        C, fitting_of(constant([1.0] * 3), [np.inf] * 3), constant([2.0] * 3), jnp.full(3, jnp.nan)
    )
    np.testing.assert_array_equal(fitting.kept["params"]["Dense_0"]["bias"][:, 0], [1.0] * 3)
    assert int(fitting.looks) == 1


def test_the_end_restores_what_was_kept_and_picks_the_best():
    kept = constant([0.1, 0.2, 0.3])
    model = world([7.0, 8.0, 9.0], elite=[0, 1], fitting=fitting_of(kept, [0.5, 0.1, 0.2]))
    settled = gaussian.settle(C, model, model.fitting)
    assert settled.elite.tolist() == [1, 2] and settled.elite.dtype == jnp.int32
    np.testing.assert_array_equal(
        settled.members.params["params"]["Dense_0"]["bias"], kept["params"]["Dense_0"]["bias"]
    )


def test_looks_come_every_so_often_and_updates_have_a_limit():
    c = C.model_copy(update={"model_updates": 5, "patience": 9})
    model = world([0.5, 0.6, 0.9], elite=[0, 1], fitting=fitting_of(constant([0.0] * 3), [np.inf] * 3))
    look, errors = jax.jit(lambda w: gaussian.look(c, NETS, w, w.fitting)), []
    for _ in range(5):
        assert not model.fitting.done
        model = look(model)
        errors.append(float(model.fitting.error[0]))
    assert np.isinf(errors[0]) and errors[1] == errors[4] == 0
    # held out: s changes by 0.5
    np.testing.assert_allclose(model.fitting.error, [0.0, 0.01, 0.16], atol=1e-6)
    assert model.fitting.done and model.elite.tolist() == [0, 1]


def test_each_member_resamples_the_batch_and_held_out_rows_have_no_weight():
    fitting, batch = fitting_of(constant([0.0] * 3), [np.inf] * 3, held_from=6), batch_of(8)
    steps, weight = gaussian.lessons(C, fitting, batch, jax.random.key(0))
    rows = np.array([[int(np.flatnonzero(batch.obs[:, 0] == x)[0]) for x in member] for member in steps.obs[..., 0]])
    assert not (rows[0] == rows[1]).all() and len(np.unique(rows[0])) < 8
    np.testing.assert_array_equal(steps.next_obs, batch.next_obs[rows])
    np.testing.assert_array_equal(steps.actions, batch.actions[rows, 0])
    np.testing.assert_array_equal(weight, rows < 6)
    steps, weight = gaussian.lessons(C, None, batch, jax.random.key(0))
    np.testing.assert_array_equal(steps.obs, np.stack([batch.obs] * 3))
    assert (weight == 1).all()


def test_members_learn_nothing_from_held_out_rows():
    c = C.model_copy(update={"learning_rate": 0.1})
    model = world([0.0, 0.1, 0.2], elite=[0, 1], fitting=fitting_of(constant([0.0] * 3), [np.inf] * 3, held_from=100))
    learn = jax.jit(lambda batch: gaussian.learn(c, NETS, model, batch, jax.random.key(0))[0].members.params)
    for first, moves in ((0, True), (100, False)):
        change = jax.tree.map(
            lambda a, b: jnp.abs(a - b).max(), learn(batch_of(8, first + np.arange(8))), model.members.params
        )
        assert bool(max(jax.tree.leaves(change)) > 0) is moves


def test_the_likelihood_is_learned_by_each_member_on_its_own():
    params = constant([0.0, 0.1, 0.2], raw=0.0)
    steps, weight = gaussian.lessons(C, fitting_of(params, [np.inf] * 3), batch_of(8), jax.random.key(0))
    evaluate = jax.jit(jax.value_and_grad(lambda p, steps, weight: gaussian.dynamics_loss(LINEAR, p, steps, weight)))

    def of(member: int):
        return jax.tree.map(lambda x: x[member : member + 1], (params, steps, weight))

    value, gradient = evaluate(params, steps, weight)
    alone = [evaluate(*of(member)) for member in range(3)]
    np.testing.assert_allclose(value, sum(a[0] for a in alone), rtol=1e-5)
    for together, *parts in zip(*(jax.tree.leaves(g) for g in (gradient, *(a[1] for a in alone))), strict=True):
        np.testing.assert_allclose(together, np.concatenate(parts), rtol=1e-4, atol=1e-6)


# -- turns -----------------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """A model and a policy that count how often they learned, and how often the model had when the policy did."""

    world: WorldModel
    policy: jax.Array
    seen: jax.Array


@pytest.mark.parametrize("pretrained", [False, True])
def test_turns(pretrained):
    fitting = fitting_of(constant([0.0] * 3), [np.inf] * 3)
    state = Pair(world([0.0] * 3, [0, 1], fitting if pretrained else None), jnp.zeros(()), jnp.zeros(()))

    def count(state: Pair) -> jax.Array:
        return state.world.members.params["params"]["Dense_0"]["bias"][0, 0]

    def learn_model(state: Pair):
        params = jax.tree.map(lambda x: x + 1, state.world.members.params)
        model = state.world._replace(members=state.world.members._replace(params=params))
        if model.fitting is not None:
            model = model._replace(fitting=model.fitting._replace(done=params["params"]["Dense_0"]["bias"][0, 0] >= 2))
        return state._replace(world=model), {"loss/dynamics": jnp.float32(5)}

    def learn_policy(state: Pair):
        return state._replace(policy=state.policy + 1, seen=count(state)), {"loss/policy": jnp.float32(7)}

    turn, history = jax.jit(lambda s: gaussian.take_turns(learn_model, learn_policy, s)), []
    for _ in range(4):
        state, metrics = turn(state)
        losses = float(metrics["loss/dynamics"]), float(metrics["loss/policy"])
        history.append((float(count(state)), float(state.policy), float(state.seen), *losses))
    if pretrained:
        assert history == [(1, 0, 0, 5, 0), (2, 0, 0, 5, 0), (2, 1, 2, 0, 7), (2, 2, 2, 0, 7)]
        assert float(metrics["model/ready"]) == 1
    else:  # the policy has seen the model of before the step
        assert history == [(n, n, n - 1, 5, 7) for n in (1.0, 2.0, 3.0, 4.0)]


# -- held-out transitions --------------------------------------------------------------------------------------------


def numbered(episodes: int, length: int) -> Dataset:
    """obs is the row's number."""
    rows = np.arange(episodes * length, dtype=np.float32)[:, None]
    return Dataset(rows, rows / 1e4, np.arange(1, episodes + 1) * length - 1, rewards=rows[:, 0])


def raw(data: Dataset) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows of the held-out transitions, of where they lead, and the first row that is held out."""
    scalings = fit("minmax", "train", data)
    steps, held_from = gaussian.hold_out(data, scalings)
    rows, following = (
        scalings.obs.inverse(np.asarray(x))[:, 0].round().astype(int) for x in (steps.obs, steps.next_obs)
    )
    np.testing.assert_allclose(steps.actions[:, 0], rows / 1e4, rtol=1e-5)
    return rows, following, held_from


def test_the_last_tenth_of_the_episodes_is_held_out():
    rows, following, held_from = raw(numbered(20, 30))
    assert held_from == 540
    np.testing.assert_array_equal(following, rows + 1)
    assert sorted(rows) == [r for r in range(540, 600) if r % 30 != 29]  # no step from an episode's last row
    assert raw(numbered(1, 50))[2] == 45


def test_validation_rows_are_held_out_where_there_are_some_and_few():
    data = replace(numbered(5, 30), validation=numbered(10, 300))
    rows, following, held_from = raw(data)
    assert held_from == 150 and 0.8 * ensemble.HOLDOUT < len(rows) == len(set(rows)) <= ensemble.HOLDOUT
    np.testing.assert_array_equal(following, rows + 1)
    assert rows.max() > 150  # they are the validation split's
    np.testing.assert_array_equal(rows, raw(data)[0])


def test_pretraining_ends_by_itself_and_beats_a_model_that_knows_nothing():
    c = C.model_copy(update={"holdout_every": 20, "learning_rate": 3e-3, "model_updates": 200})
    data = contract.toy(False)
    scalings = fit("minmax", "train", data)
    nets, model = gaussian.initial_world(c, data, scalings, jax.random.key(0))
    learn, step = jax.jit(lambda w, b, k: gaussian.learn(c, nets, w, b, k)), 0
    while not model.fitting.done:
        step += 1
        batch = data.sample(Sampling(64), 0, step)
        batch = batch._replace(obs=scalings.obs(batch.obs), next_obs=scalings.obs(batch.next_obs))
        model, metrics = learn(model, batch, jax.random.key(step))
    assert step <= 200 and step % 20 == 0
    still = np.square(model.fitting.holdout.next_obs - model.fitting.holdout.obs).mean()
    errors = gaussian.holdout_errors(nets, model.members.params, model.fitting.holdout)
    np.testing.assert_allclose(errors, model.fitting.error, rtol=1e-5)
    assert (errors[model.elite] < still / 3).all()
    assert set(metrics) == {"loss/dynamics", "loss/reward", "loss/success"}


def test_more_elites_than_members_are_refused():
    with pytest.raises(ValueError, match="elites is 6, but the ensemble has 5 members"):
        ModelSettings(dynamics_training="pretrained", members=5, elites=6)
    assert ModelSettings(dynamics_training="joint", members=3).members == 3  # all serve: no elites to choose
