"""MOBILE: imagined steps pay for the members' disagreement about their Bellman targets, and for nothing else."""

import numpy as np
import pytest
import torch

from baselines.mobile import Config, Mobile, make
from mac_bench import contract
from mac_bench.ring import Transitions
from mac_bench.torch_agent import generator, tensors

SMALL = {"model_hidden": (16,), "value_hidden": (16,), "policy_hidden": (16,), "batch_size": 16, "rollout_batch": 16}


def method(goals: bool = False, **settings) -> Mobile:
    return make(Config(**SMALL, **settings), contract.toy(goals), 0).method


def random() -> torch.Generator:
    return generator(0, 0, 0, torch.device("cpu"))


def steps(goals: bool = False, rows: int = 4) -> Transitions:
    """States at 0, all alive."""
    goal = torch.zeros(rows, contract.GOAL) if goals else None
    obs, action = torch.zeros(rows, contract.OBS), torch.zeros(rows, contract.ACTION)
    return Transitions(obs, action, torch.zeros(rows), torch.ones(rows), obs, goal, goal)


def place(monkeypatch, model, means: list[float], log_std: float = -torch.inf) -> None:
    """Each member says that the next state is its number, in every dimension."""

    def predict(obs, action):
        mean = torch.tensor(means)[:, None, None].expand(-1, *obs.shape)
        return mean, torch.full_like(mean, log_std)

    monkeypatch.setattr(model, "predict", predict)


def test_hand_number_of_the_price(monkeypatch):
    mobile = method(members=3, elites=3, discount=0.5)
    place(monkeypatch, mobile.model, [0.0, 1.0, 5.0])
    # the mean of the critics is the first dimension of the next state, so targets differ by gamma (0, 1, 5)
    monkeypatch.setattr(mobile.sac, "slow_q", lambda obs, goal, action: torch.stack([2 * obs[..., 0], 0 * obs[..., 0]]))
    expected = 0.5 * np.std([0.0, 1.0, 5.0])
    torch.testing.assert_close(mobile.inconsistency(steps(), random()), torch.full((4,), expected, dtype=torch.float32))


def test_the_lowest_critic_where_asked_for(monkeypatch):
    mobile = method(members=3, elites=3, discount=0.5, penalty_aggregation="min")
    place(monkeypatch, mobile.model, [0.0, 1.0, 5.0])
    monkeypatch.setattr(mobile.sac, "slow_q", lambda obs, goal, action: torch.stack([obs[..., 0], 4 - obs[..., 0]]))
    expected = 0.5 * np.std([0.0, 1.0, -1.0])
    torch.testing.assert_close(mobile.inconsistency(steps(), random()), torch.full((4,), expected, dtype=torch.float32))


@pytest.mark.parametrize("goals", [False, True])
def test_members_that_agree_cost_nothing(monkeypatch, goals):
    mobile = method(goals)
    place(monkeypatch, mobile.model, [0.3] * 7)
    # the policy's own noise is no disagreement
    monkeypatch.setattr(mobile.sac, "sample", lambda obs, goal, random: (torch.zeros(*obs.shape[:-1], 2), None))
    torch.testing.assert_close(mobile.inconsistency(steps(goals), random()), torch.zeros(4), atol=1e-6, rtol=0)


def test_noise_of_the_model_is_averaged_out(monkeypatch):
    """One member's noise is not disagreement: with more samples, less of it is taken for that."""
    prices = []
    for samples in (1, 400):
        mobile = method(samples=samples)
        place(monkeypatch, mobile.model, [0.0] * 7, log_std=0.0)
        monkeypatch.setattr(mobile.sac, "slow_q", lambda obs, goal, action: obs[None, ..., 0])
        prices.append(float(mobile.inconsistency(steps(rows=200), random()).mean()))
    assert prices[0] > 0.5, "a single sample of noise 1 looks like disagreement"
    assert prices[1] < 0.1


def test_a_task_that_has_ended_costs_nothing(monkeypatch):
    mobile = method(members=3, elites=3)
    place(monkeypatch, mobile.model, [0.0, 1.0, 2.0])
    monkeypatch.setattr(mobile.sac, "slow_q", lambda obs, goal, action: obs[None, ..., 0])
    price = mobile.inconsistency(steps()._replace(alive=torch.tensor([1.0, 0.0, 1.0, 0.0])), random())
    assert (price[::2] > 0).all() and (price[1::2] == 0).all()


def test_only_the_elites_are_asked(monkeypatch):
    mobile = method(members=3, elites=2)
    mobile.model.elites = torch.tensor([0, 2])
    place(monkeypatch, mobile.model, [0.0, 100.0, 0.0])
    monkeypatch.setattr(mobile.sac, "slow_q", lambda obs, goal, action: obs[None, ..., 0])
    torch.testing.assert_close(mobile.inconsistency(steps(), random()), torch.zeros(4))


@pytest.mark.parametrize("goals", [False, True])
def test_imagined_steps_pay_beta_times_the_price_and_logged_ones_nothing(monkeypatch, goals):
    mobile = method(goals, beta=2.0)
    data, sampling = contract.toy(goals), mobile.starts.sampling
    batch = tensors(data.sample(sampling, 0, 1), mobile.starts.scalings, torch.device("cpu"))
    mobile.ring.add(mobile.imagine(1, random()))
    monkeypatch.setattr(mobile, "inconsistency", lambda steps, random: torch.full_like(steps.reward, 3.0))
    real, imagined = mobile.draw(batch, random())
    seen = []
    monkeypatch.setattr(mobile.sac, "target", lambda steps, random: seen.append(steps) or steps.reward)
    monkeypatch.setattr(mobile.sac, "losses", lambda steps, target, random: (seen.append(steps) or {}, {}))
    mobile.policy_losses(batch, random())
    for steps in seen:
        torch.testing.assert_close(steps.reward, torch.cat([real.reward, imagined.reward - 6.0]))
        torch.testing.assert_close(steps.action, torch.cat([real.action, imagined.action]), rtol=0, atol=0)
