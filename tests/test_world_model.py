"""The world model in PyTorch: by hand, on linear networks whose weights are known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mac_bench import contract, registry
from mac_bench.config import parse
from mac_bench.data import Dataset, fit
from mac_bench.ensemble import HOLDOUT, EnsembleSettings
from mac_bench.errors import UserError
from mac_bench.files import read_arrays
from mac_bench.types import Batch, Goals
from mac_bench.world_model import Holdout, Sizes, WorldModel, hold_out

LOG_2PI = float(np.log(2 * np.pi))
EVERYTHING = 10**9  # a first held-out row beyond all


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def steps(obs: list, action: list, next_obs: list, index: int = 0, goals: Goals | None = None) -> Batch:
    """Transitions of a batch, one row each; reward 1, 2, ...; the last has ended the task."""
    number = len(obs)
    alive = torch.ones(number, 1)
    alive[-1] = 0
    return Batch(
        obs=torch.tensor(obs, dtype=torch.float32),
        actions=torch.tensor(action, dtype=torch.float32)[:, None],
        rewards=torch.arange(1.0, number + 1)[:, None],
        next_obs=torch.tensor(next_obs, dtype=torch.float32),
        alive=alive,
        index=torch.arange(index, index + number),
        goals=goals,
    )


ONE = steps([[0, 0]], [[0]], [[0, 0]])


def linear(sizes: Sizes = Sizes(2, 1, 0), holdout: Batch = ONE, first_row: int = EVERYTHING, **settings) -> WorldModel:  # noqa: B008
    """A model of linear networks, all weights 0: nothing moves, and each log-deviation is half way, at -2."""
    c = EnsembleSettings(model_hidden=(), **({"members": 3, "elites": 2} | settings))
    model = WorldModel(c, sizes, Holdout(holdout, first_row), random(), 0.01, True)
    for p in model.parameters():
        p.data.zero_()
    return model


def change(model: WorldModel, member: int) -> Tensor:
    """[O] what a member adds to the state."""
    return model.dynamics.network.biases[0].data[member, 0, : model.sizes.obs]


def raw_log_std(model: WorldModel) -> Tensor:
    """[M, O] before the sigmoid."""
    return model.dynamics.network.biases[0].data[:, 0, model.sizes.obs :]


def weights(model: WorldModel) -> Tensor:
    """[M, O+A, O] of the change."""
    return model.dynamics.network.weights[0].data[..., : model.sizes.obs]


# -- learning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["joint", "pretrained"])
def test_the_likelihood_is_right_by_hand(mode):
    model = linear(members=2, elites=1, dynamics_training=mode)
    change(model, 0)[:] = torch.tensor([1.0, 0.0])
    # deviation e^-2: the first member is right in the first dimension and e^-2, one deviation, off in the second
    batch = steps([[5, 5]], [[0]], [[6, 5 + np.exp(-2)]])
    right, one_off, far_off = ((2 - LOG_2PI / 2 - 0.5 * z**2) for z in (0, 1, np.exp(2)))
    expected = -((right + one_off) / 2 + (far_off + one_off) / 2)
    assert model.dynamics_loss(batch, random()).item() == pytest.approx(expected, rel=1e-5)


def test_the_log_deviation_of_the_next_state_lies_between_its_bounds():
    model = linear(members=3)
    raw_log_std(model)[:] = torch.tensor([[-100.0], [0.0], [100.0]])
    mean, log_std = model.predict(torch.ones(4, 2), torch.ones(4, 1))
    assert (mean == 1).all() and mean.shape == (3, 4, 2)
    assert log_std[:, 0, 0].tolist() == [-5, -2, 1]


def test_reward_and_success_models_begin_at_the_losses_that_hands_compute():
    batch = steps([[0, 0]] * 3, [[0]] * 3, [[0, 0]] * 3)
    losses = linear(termination="learned").losses(batch, random())
    assert losses["reward"][1].item() == pytest.approx((1 + 4 + 9) / 3)
    assert losses["success"][1].item() == pytest.approx(np.log(2))
    assert linear(termination="never").losses(batch, random()).keys() == {"dynamics", "reward"}
    goals = Goals(torch.zeros(3, 1), torch.zeros(3, 1), torch.zeros(3), None)
    assert linear(Sizes(2, 1, 1)).losses(batch._replace(goals=goals), random()).keys() == {"dynamics", "success"}


def test_success_is_a_reached_goal_or_without_goals_an_ended_task():
    reached = Goals(torch.zeros(3, 1), torch.zeros(3, 1), torch.tensor([1.0, 0, 0]), None)
    batch = steps([[1, 0], [0, 1], [0, 0]], [[0]] * 3, [[0, 0]] * 3)
    for goals, bias, first_two in ((None, 1.5 - 1, [0.5, 0.5]), (reached, 1.5 - 1, [-0.5, 0.5])):
        model = linear(Sizes(2, 1, 0 if goals is None else 1), termination="learned")
        loss = model.losses(batch._replace(goals=goals), random())["success"][1]
        weight, shift = torch.autograd.grad(loss, list(model.success.network.parameters()))
        # mean over rows of (1/2 - label) s
        assert (3 * weight[0, :2, 0]).tolist() == pytest.approx(first_two) and 3 * shift.item() == pytest.approx(bias)


def test_each_member_sees_its_own_bootstrap_and_its_rows_stay_together(monkeypatch):
    rows = [[float(i), -float(i)] for i in range(256)]
    model = linear(dynamics_training="pretrained")
    # exact: s' = s + (a, 2 a), so that rows which do not belong together would cost much
    weights(model)[:, 2] = torch.tensor([1.0, 2.0])
    batch = steps(rows, [[x] for x, _ in rows], [[2 * x, y + 2 * x] for x, y in rows])
    seen, each = [], model.dynamics.network.each
    monkeypatch.setattr(model.dynamics.network, "each", lambda obs, action: seen.append(obs) or each(obs, action))
    assert model.dynamics_loss(batch, random()).item() == pytest.approx(3 * (LOG_2PI / 2 - 2), rel=1e-4)
    drawn = seen[0][..., 0]  # [M, B]
    assert drawn.shape == (3, 256) and not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])
    for member in drawn:
        # with replacement 1 - 1/e of the rows come up
        assert 0.55 < len(set(member.tolist())) / 256 < 0.71


def test_a_joint_model_sees_the_batch_itself():
    # one of four numbers is one deviation off
    batch = steps([[0, 0], [9, 9]], [[0], [0]], [[0, 0], [9 + np.exp(-2), 9]], index=50)
    losses = [linear(first_row=0).dynamics_loss(batch, random(seed)).item() for seed in range(5)]
    assert losses == pytest.approx([3 * (LOG_2PI / 2 - 2 + 0.5 / 4)] * 5, rel=1e-4)


def test_held_out_rows_carry_no_gradient():
    def gradient(first: int, mode: str) -> Tensor:
        model = linear(first_row=10, dynamics_training=mode)
        batch = steps([[1, 2], [3, 4]], [[0], [0]], [[2, 2], [9, 9]], index=first)
        return torch.autograd.grad(model.dynamics_loss(batch, random()), model.dynamics.network.weights[0])[0]

    assert gradient(8, "pretrained").any() and not gradient(10, "pretrained").any()
    assert gradient(10, "joint").any(), "a joint model has no use for held-out rows, and trains on all"
    # of rows 9 and 10 only the first counts, wherever the bootstrap puts it: its s is (1, 2)
    mixed = gradient(9, "pretrained")
    assert mixed[..., 0].any() and torch.allclose(mixed[:, 1, 0], 2 * mixed[:, 0, 0])


# -- what is held out ------------------------------------------------------------------------------------------------


def held_rows(data: Dataset) -> tuple[np.ndarray, int]:
    found, first = hold_out(data, fit("none", "train", data), torch.device("cpu"))
    assert len(found.obs) <= HOLDOUT
    return found.index.numpy(), first


def episodes(*lengths: int, validation: Dataset | None = None) -> Dataset:
    """Episodes of so many rows; each row says its number."""
    rows = np.arange(sum(lengths), dtype=np.float32)[:, None]
    return Dataset(rows, rows, np.cumsum(lengths) - 1, rewards=rows[:, 0], validation=validation)


def test_the_last_tenth_of_the_episodes_is_held_out():
    rows, first = held_rows(episodes(*[5] * 20))
    assert first == 90
    assert sorted(rows) == [90, 91, 92, 93, 95, 96, 97, 98], "each transition once, and no row that ends an episode"
    assert held_rows(episodes(5, 5, 5))[1] == 10, "at least one episode"
    rows, first = held_rows(episodes(*[3001] * 10))
    assert first == 9 * 3001 and len(set(rows)) == len(rows) == HOLDOUT and rows.min() >= first
    assert (held_rows(episodes(*[3001] * 10))[0] == rows).all(), "the same for every seed"


def test_of_a_single_episode_its_end_is_held_out():
    rows, first = held_rows(episodes(100))
    assert first == 90 and sorted(rows) == list(range(90, 99))


def test_a_validation_split_is_held_out_where_there_is_one():
    validation = episodes(5, 5)
    data = episodes(*[5] * 20, validation=validation)
    found, first = hold_out(data, fit("none", "train", data), torch.device("cpu"))
    assert first == 100 and set(found.obs[:, 0].tolist()) == {0, 1, 2, 3, 5, 6, 7, 8}


def test_the_held_out_error_is_that_of_the_mean():
    model = linear(holdout=steps([[0, 0], [1, 1]], [[0], [0]], [[1, 0], [1, 3]]))
    change(model, 1)[:] = torch.tensor([1.0, 0.0])
    # squares of (1, 0), (0, 2) and of (0, 0), (-1, 2)
    assert model.holdout_errors().tolist() == [1.25, 1.25, 1.25]
    change(model, 2)[:] = torch.tensor([0.5, 1.0])
    assert model.holdout_errors()[2].item() == (0.25 + 1 + 0.25 + 1) / 4


# -- pretraining -----------------------------------------------------------------------------------------------------


def looking(errors: list[list[float]], **settings) -> tuple[WorldModel, list[int]]:
    """A model that is shown these held-out errors of its members, look for look, until it has enough; before look k
    each member's change is set to k. Returns it and after how many updates it had enough."""
    model = linear(members=len(errors[0]), **({"elites": 1, "dynamics_training": "pretrained"} | settings))
    shown = iter(errors)
    model.holdout_errors = lambda: torch.tensor(next(shown))
    step = 0
    while not model.ready:
        step += 1
        if step % model.c.holdout_every == 0 or step == model.c.model_updates:
            for member in range(model.c.members):
                change(model, member)[:] = step
        assert bool(model.look(step)) == (step % model.c.holdout_every == 0 or step == model.c.model_updates)
    return model, step


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([1.0, 1.0, 1.0], 3),
        ([1.0, 0.9899, 2.0, 2.0], 4),  # just enough
        ([1.0, 0.9901, 2.0], 3),  # not quite
        ([1.0, 0.995, 0.9899, 1.0, 1.0], 5),  # it is the best that counts, not the last
        ([1.0, 0.995, 0.9901], 3),
        ([1.0, 2.0, 0.5, 0.5, 0.5], 5),  # in a row
        ([float("inf"), float("inf")], 2),
    ],
)
def test_pretraining_ends_when_nothing_has_improved_by_a_hundredth(errors, expected):
    _, steps = looking([[error] for error in errors], holdout_every=1, patience=2)
    assert steps == expected == len(errors)


def test_one_member_that_improves_is_enough():
    _, steps = looking([[1.0, 1.0], [2.0, 0.9], [0.9, 2.0], [1.0, 1.0], [1.0, 1.0]], holdout_every=10, patience=2)
    assert steps == 50


def test_pretraining_ends_after_so_many_updates_whatever_improves():
    model, steps = looking([[2.0], [1.0], [0.5]], holdout_every=5, patience=9, model_updates=12)
    assert steps == 12 and model.best.tolist() == [0.5] and change(model, 0).tolist() == [12, 12]


def test_each_member_goes_back_to_where_it_was_best_and_the_best_serve():
    errors = [[3.0, 9.0, 5.0], [1.0, 8.0, 4.99], [2.0, 4.0, 6.0], [1.0, 5.0, 7.0], [1.0, 5.0, 7.0]]
    model, steps = looking(errors, holdout_every=1, patience=2, elites=2)
    assert steps == 5
    assert [change(model, member)[0].item() for member in range(3)] == [2, 3, 1]
    assert model.best.tolist() == [1, 4, 5] and model.elites.tolist() == [0, 1]


def test_the_elites_are_those_with_the_lowest_errors():
    model, _ = looking([[4.0, 1.0, 3.0, 2.0]] * 2, holdout_every=1, patience=1, elites=3)
    assert model.elites.tolist() == [1, 3, 2]


def test_more_elites_than_members_are_refused():
    with pytest.raises(UserError, match="elites is 3, but the ensemble has 2 members"):
        parse(EnsembleSettings, {"dynamics_training": "pretrained", "members": 2, "elites": 3}, "settings")


SHORT = {"dynamics_training": "pretrained", "holdout_every": 2, "patience": 1, "model_updates": 5}


def train(agent, first: int, last: int) -> list[dict[str, float]]:
    data = contract.toy(agent.sampling.goals is not None)
    batches = ((step, data.sample(agent.sampling, 0, step)) for step in range(first, last + 1))
    return [{name: float(value) for name, value in agent.update(batch, step).items()} for step, batch in batches]


@pytest.mark.parametrize("goals", [False, True])
def test_a_pretrained_model_delays_the_policy_and_then_rests(goals):
    agent = registry.make("mopo", contract.small("mopo") | SHORT, contract.toy(goals), 0)
    method, step = agent.method, 0
    begin = {name: value.clone() for name, value in method.state_dict().items()}
    while not method.model.ready:
        step += 1
        (metrics,) = train(agent, step, step)
        assert "loss/dynamics" in metrics and "loss/actor" not in metrics
        assert ("model/holdout_error" in metrics) == (step % 2 == 0 or step == 5)
    assert len(method.ring) == 0 and step <= 5
    between = {name: value.clone() for name, value in method.state_dict().items()}
    assert all(torch.equal(value, begin[name]) for name, value in between.items() if name.startswith("sac."))
    (metrics,) = train(agent, step + 1, step + 1)
    assert "loss/dynamics" not in metrics and {"loss/actor", "loss/critic"} <= metrics.keys()
    for name, value in method.state_dict().items():
        if name.startswith("model."):
            assert torch.equal(value, between[name]), f"{name} still learns"
    assert len(method.ring) > 0


def test_a_joint_model_and_its_policy_learn_from_the_first_update():
    agent = registry.make("mopo", contract.small("mopo"), contract.toy(False), 0)
    (metrics,) = train(agent, 1, 1)
    assert {"loss/dynamics", "loss/reward", "loss/actor", "loss/critic"} <= metrics.keys()
    assert agent.method.model.elites.tolist() == list(range(7))


@pytest.mark.parametrize("learning_rate", [3e-4, 1e-9], ids=["each look improves", "none but the first does"])
def test_resuming_in_the_middle_of_pretraining_is_exact(tmp_path, learning_rate):
    settings = contract.small("mopo") | SHORT | {"patience": 2, "model_updates": 9, "learning_rate": learning_rate}
    whole, before, after = (registry.make("mopo", settings, contract.toy(True), 0) for _ in range(3))
    expected = train(whole, 1, 14)[5:]
    train(before, 1, 5)
    assert before.method.model.best.isfinite().all() and not before.method.model.ready
    before.save(tmp_path / "middle.npz", 5)
    assert after.load(tmp_path / "middle.npz") == 5
    assert train(after, 6, 14) == expected
    assert whole.method.model.ready
    whole.save(tmp_path / "whole.npz", 14)
    after.save(tmp_path / "after.npz", 14)
    ends = read_arrays(tmp_path / "whole.npz"), read_arrays(tmp_path / "after.npz")
    for name, value in ends[0].items():
        np.testing.assert_array_equal(ends[1][name], value, name)


# -- use -------------------------------------------------------------------------------------------------------------


def test_next_states_come_from_the_elites_alone_and_vary_as_they_say():
    model = linear(members=3, elites=2)
    for member in range(3):
        change(model, member)[:] = 10.0 * member
    model.elites = torch.tensor([2, 0])
    raw_log_std(model)[:] = torch.tensor([[0.0, 100.0]])  # deviations e^-2 and e
    obs = torch.tensor([[1.0, 2.0]]).repeat(20_000, 1)
    following = model.sample(obs, torch.zeros(20_000, 1), random()) - obs
    second = following[:, 0] > 10
    assert second.float().mean().item() == pytest.approx(0.5, abs=0.02)
    for rows, mean in ((~second, 0), (second, 20)):
        # standard errors: e^-2 / 100 and e / 100
        assert following[rows].mean(dim=0).tolist() == pytest.approx([mean, mean], abs=0.1)
        assert following[rows].std(dim=0).tolist() == pytest.approx([np.exp(-2), np.e], rel=0.03)


def walking(sizes: Sizes, **settings) -> WorldModel:
    """An exact model of s' = s + (a, 0), with the smallest deviation that there is, e^-5."""
    model = linear(sizes, **settings)
    weights(model)[:, 2, 0] = 1.0
    raw_log_std(model)[:] = -100.0
    return model


def test_walks_begin_at_their_starts_go_on_step_by_step_and_keep_their_goals():
    model = walking(Sizes(2, 1, 1))
    goals = Goals(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[-1.0], [-2.0], [-4.0]]), None, None)
    start = steps([[0, 0], [10, 0], [20, 0]], [[0]] * 3, [[0, 0]] * 3, goals=goals)
    found = model.imagine(lambda obs, goal: goal, start, 4, random())  # each step is as long as the value goal
    assert found.obs.shape == found.next_obs.shape == (12, 2) and found.action.shape == (12, 1)
    assert found.reward.shape == found.alive.shape == (12,)
    assert torch.equal(found.obs[:3], start.obs) and torch.equal(found.next_obs[:-3], found.obs[3:])
    expected = [[0, 10, 20], [1, 12, 24], [2, 14, 28], [3, 16, 32], [4, 18, 36]]
    states = torch.cat([found.obs, found.next_obs[-3:]])[:, 0].reshape(5, 3)
    np.testing.assert_allclose(states, expected, atol=0.1)
    assert found.value_goal.flatten().tolist() == [1, 2, 4] * 4
    assert found.actor_goal.flatten().tolist() == [-1, -2, -4] * 4
    assert not any(column.requires_grad for column in found)


@pytest.mark.parametrize(("goal_reward", "rewards"), [("-1/0", [-1, 0]), ("0/1", [0, 1])])
def test_in_goal_mode_reward_and_end_are_the_success_model_s_hard_decision(goal_reward, rewards):
    model = linear(Sizes(2, 1, 1), goal_reward=goal_reward)
    model.success.network.weights[0].data[0, :, 0] = torch.tensor([1.0, 0, -1.0, 0])  # logit s_0 - g
    obs, goal = torch.tensor([[0.9, 5.0], [1.1, -5.0]]), torch.ones(2, 1)
    reward, alive = model.outcome(obs, goal, torch.zeros(2, 1))
    assert reward.tolist() == rewards and alive.tolist() == [1, 0]


@pytest.mark.parametrize(("termination", "expected"), [("learned", [1, 0]), ("never", [1, 1])])
def test_in_reward_mode_the_reward_is_predicted_and_the_end_only_where_it_is_learned(termination, expected):
    model = linear(termination=termination)
    model.reward.network.weights[0].data[0, :, 0] = torch.tensor([2.0, 0, 10])
    if model.success is not None:
        model.success.network.weights[0].data[0, :, 0] = torch.tensor([0.0, 1, 0])
    reward, alive = model.outcome(torch.tensor([[1.0, -0.1], [3.0, 0.1]]), None, torch.tensor([[0.5], [0.0]]))
    assert reward.tolist() == [7, 6] and alive.tolist() == expected


def test_logged_steps_have_the_rewards_and_ends_of_their_goals_or_of_the_data():
    batch = steps([[0, 0]] * 2, [[1], [2]], [[5, 5]] * 2)
    learned, never = (linear(termination=kind).real(batch) for kind in ("learned", "never"))
    assert learned.reward.tolist() == [1, 2] and learned.alive.tolist() == [1, 0] and never.alive.tolist() == [1, 1]
    assert (
        learned.action.tolist() == [[1], [2]] and learned.value_goal is None and learned.next_obs[0].tolist() == [5, 5]
    )
    goals = Goals(torch.full((2, 1), 3.0), torch.full((2, 1), 4.0), torch.tensor([1.0, 0]), None)
    for goal_reward, rewards in (("-1/0", [0, -1]), ("0/1", [1, 0])):
        found = linear(Sizes(2, 1, 1), goal_reward=goal_reward).real(batch._replace(goals=goals))
        assert found.reward.tolist() == rewards and found.alive.tolist() == [0, 1]
        assert (found.value_goal == 3).all() and (found.actor_goal == 4).all()


def test_the_forecast_of_an_exact_linear_model_is_exact():
    model = linear(members=3, elites=2)
    matrix = torch.tensor([[-0.1, 0.2], [0.3, -0.2], [1.0, -1.0]])  # of s_0, s_1 and a
    weights(model)[:] = matrix
    model.elites = torch.tensor([0, 2])
    for member, error in enumerate((0.5, 100.0, -0.5)):  # those of the elites cancel
        change(model, member)[:] = error
    raw_log_std(model)[:] = 100.0  # no noise in a forecast
    obs, actions = torch.randn(4, 2, generator=random()), torch.randn(4, 6, 1, generator=random(1))
    states, stride = model.forecast(obs, actions)
    assert states.shape == (4, 6, 2) and stride == 1
    for step in range(6):
        obs = obs + torch.cat([obs, actions[:, step]], dim=-1) @ matrix
        torch.testing.assert_close(states[:, step], obs, rtol=1e-5, atol=1e-5)
