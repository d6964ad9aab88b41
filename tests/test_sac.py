"""Soft actor-critic by hand, on linear networks whose weights are known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mac_bench import contract, registry
from mac_bench.ring import Transitions
from mac_bench.sac import Bounds, Sac, SacSettings, goal_bounds
from mac_bench.torch_agent import descend
from mac_bench.world_model import Sizes

DISCOUNT = 0.9


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(goal: int = 0, bounds: Bounds | None = None, **settings) -> Sac:
    """Linear actor and critics for s, a in R, all weights 0: Q is 0, and a = tanh(z) with deviation 1."""
    c = SacSettings(value_hidden=(), policy_hidden=(), **({"discount": DISCOUNT, "learning_rate": 0.01} | settings))
    sac = Sac(c, Sizes(1, 1, goal), random(), bounds)
    for p in sac.parameters():
        p.data.zero_()
    return sac


def set_critics(net, **terms: list[float]) -> None:
    """Q_i = constant_i + obs_i s + action_i a [+ goal_i g, where there are goals]."""
    names = ["obs", "goal", "action"] if net.weights[0].shape[1] == 3 else ["obs", "action"]
    for name, values in terms.items():
        place = net.biases[0].data[:, 0] if name == "constant" else net.weights[0].data[:, names.index(name)]
        place[:, 0] = torch.tensor(values)


def steps(*rewards: float, obs: float = 0.0, next_obs: float = 0.0, alive: float = 1.0, goals: bool = False):
    reward = torch.tensor(rewards)
    column = torch.ones(len(rewards), 1)
    goal = (2 * column, 3 * column) if goals else (None, None)
    return Transitions(obs * column, 0 * column, reward, torch.full_like(reward, alive), next_obs * column, *goal)


# -- the critics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("aggregation", "expected"), [("min", 3), ("mean", 4)])
def test_the_target_is_right_by_hand(aggregation, expected):
    sac = linear(q_aggregation=aggregation)
    set_critics(sac.slow_critic, constant=[2.0, 4.0], obs=[0.1, 0.1])
    set_critics(sac.critic.network, constant=[70.0, 70.0])  # it is the slow ones that count
    target = sac.target(steps(-1, 5, obs=-70, next_obs=10), random())
    assert target.tolist() == pytest.approx([-1 + DISCOUNT * expected, 5 + DISCOUNT * expected])


def test_nothing_follows_a_task_that_has_ended():
    sac = linear()
    set_critics(sac.slow_critic, constant=[2.0, 4.0])
    assert sac.target(steps(-1, 5, alive=0.0), random()).tolist() == [-1, 5]


def test_the_target_is_at_the_policy_s_next_action():
    sac = linear()
    set_critics(sac.slow_critic, action=[1.0, 1.0])
    sac.actor.network.weights[0].data[0, 0, 0] = 1.0  # mean z = s'
    sac.actor.network.biases[0].data[0, 0, 1] = -5.0
    target = sac.target(steps(*[0.0] * 1000, next_obs=0.5), random())
    assert target.mean().item() == pytest.approx(DISCOUNT * np.tanh(0.5), abs=1e-3)
    assert target.std().item() > 1e-3, "a sample, not the mode"


@pytest.mark.parametrize(("goal_reward", "low", "high"), [("-1/0", -10, 0), ("0/1", 0, 1)])
def test_targets_are_clipped_to_what_goals_allow(goal_reward, low, high):
    assert goal_bounds(DISCOUNT, goal_reward) == pytest.approx((low, high))
    sac = linear(1, goal_bounds(DISCOUNT, goal_reward))
    for value, expected in ((-50.0, low), (50.0, high), ((low + high) / 2, DISCOUNT * (low + high) / 2)):
        set_critics(sac.slow_critic, constant=[value, value])
        assert sac.target(steps(0.0, goals=True), random()).item() == pytest.approx(expected)


def test_without_goals_nothing_is_clipped():
    sac = linear()
    set_critics(sac.slow_critic, constant=[1e6, 1e6])
    assert sac.target(steps(0.0), random()).item() == pytest.approx(DISCOUNT * 1e6)


def test_agents_clip_only_where_there_are_goals():
    agents = [registry.make("mopo", contract.small("mopo"), contract.toy(goals), 0) for goals in (False, True)]
    assert [agent.method.sac.bounds for agent in agents] == [(-np.inf, np.inf), goal_bounds(0.999, "-1/0")]


def test_entropy_has_no_part_in_the_target():
    sac = linear()
    set_critics(sac.slow_critic, constant=[2.0, 4.0])
    sac.temperature.network.logarithm.data.fill_(3.0)
    for log_std in (-5.0, 2.0):
        sac.actor.network.biases[0].data[0, 0, 1] = log_std
        assert sac.target(steps(1.0), random()).item() == pytest.approx(1 + DISCOUNT * 2)


def test_the_critics_loss_is_summed_over_critics_and_averaged_over_steps():
    sac = linear()
    set_critics(sac.critic.network, constant=[1.0, 4.0])
    loss = sac.critic_loss(steps(0.0, 0.0), torch.tensor([2.0, 6.0]))
    assert loss.item() == pytest.approx((1 + 25) / 2 + (4 + 4) / 2)


def test_values_are_of_value_goals_and_policies_of_actor_goals(monkeypatch):
    sac, asked = linear(1), []
    sample, q = sac.sample, sac.q
    monkeypatch.setattr(sac, "sample", lambda obs, goal, random: asked.append((obs, goal)) or sample(obs, goal, random))
    monkeypatch.setattr(sac, "q", lambda obs, goal, action: asked.append((obs, goal)) or q(obs, goal, action))
    batch = steps(0.0, obs=5.0, next_obs=7.0, goals=True)
    set_critics(sac.slow_critic, goal=[1.0, 1.0], obs=[0.0, 0.0])
    assert sac.target(batch, random()).item() == pytest.approx(DISCOUNT * 2)
    sac.losses(batch, torch.zeros(1), random())
    found = [(obs.item(), goal.item()) for obs, goal in asked]
    # target; then the actor's sample and its Q, and the critics' error, in whatever order
    assert found[0] == (7, 2) and sorted(found[1:]) == [(5, 2), (5, 3), (5, 3)]


# -- actor and temperature -------------------------------------------------------------------------------------------


def after(sac: Sac, updates: int = 1, *names: str) -> Tensor:
    """The actor's output [2], mean and log-deviation, after updates of it and of what else is named."""
    for step in range(updates):
        losses, _ = sac.losses(steps(*[0.0] * 256), torch.zeros(256), random(step))
        descend({name: losses[name] for name in ("actor", *names)})
    return sac.actor(torch.zeros(1, 1), None).detach()[0]


def test_the_actor_goes_where_the_mean_of_the_critics_rises():
    for slopes, sign in (([9.0, -3.0], 1), ([3.0, -9.0], -1)):
        for lower in ([0.0, 100.0], [100.0, 0.0]):  # whichever critic is the lower one
            sac = linear()
            set_critics(sac.critic.network, action=slopes, constant=lower)
            assert sign * after(sac)[0] > 0


def test_the_actor_s_loss_weighs_density_by_temperature_against_q():
    sac = linear()
    set_critics(sac.critic.network, constant=[2.0, 6.0])
    sac.temperature.network.logarithm.data.fill_(np.log(3.0))
    losses, metrics = sac.losses(steps(*[0.0] * 100), torch.zeros(100), random())
    _, density = sac.sample(torch.zeros(100, 1), None, random())
    assert losses["actor"][1].item() == pytest.approx(3 * density.mean().item() - 4, rel=1e-5)
    assert metrics["policy/entropy"].item() == pytest.approx(-density.mean().item(), rel=1e-5)
    # log tau moves by tau (entropy - wanted), wanted being -0.5 for one action
    assert losses["temperature"][1].item() == pytest.approx(3 * (0.5 - density.mean().item()), rel=1e-5)


@pytest.mark.parametrize(("log_std", "sign"), [(-3.0, 1), (0.0, -1)])
def test_the_temperature_moves_entropy_towards_what_is_wanted(log_std, sign):
    # a narrow policy has an entropy of about log_std + 1.4, below -0.5; the widest that a tanh allows has about 0.6
    sac = linear()
    sac.actor.network.biases[0].data[0, 0, 1] = log_std
    losses, metrics = sac.losses(steps(*[0.0] * 256), torch.zeros(256), random())
    assert (metrics["policy/entropy"] < -0.5) == (sign > 0)
    descend({"temperature": losses["temperature"]})
    assert sac.temperature.network.logarithm.item() == pytest.approx(sign * 0.01, rel=1e-3)
    gradient = torch.autograd.grad(losses["actor"][1], list(sac.temperature.parameters()), allow_unused=True)
    assert gradient == (None,), "the actor's loss moves the temperature"


def test_where_q_says_nothing_the_policy_comes_to_the_wanted_entropy():
    sac = linear(learning_rate=0.05)
    sac.actor.network.biases[0].data[0, 0, 1] = -3.0
    after(sac, 300, "temperature")
    _, metrics = sac.losses(steps(*[0.0] * 4096), torch.zeros(4096), random(1))
    assert metrics["policy/entropy"].item() > -0.6


def test_the_wanted_entropy_is_for_each_action():
    sac = Sac(SacSettings(value_hidden=(), policy_hidden=(), target_entropy=-0.5), Sizes(1, 6, 0), random())
    batch = steps(*[0.0] * 10)._replace(action=torch.zeros(10, 6))
    losses, metrics = sac.losses(batch, torch.zeros(10), random())
    assert losses["temperature"][1].item() == pytest.approx(metrics["policy/entropy"].item() + 3, rel=1e-5)


def test_it_is_evaluated_by_its_mode():
    sac = linear()
    sac.actor.network.biases[0].data[0, 0] = torch.tensor([0.5, 1.0])
    assert sac.best(torch.zeros(2, 1), None).tolist() == [[pytest.approx(np.tanh(0.5))]] * 2


# -- the slow copy ---------------------------------------------------------------------------------------------------


def test_the_slow_copy_follows_the_parameters_of_before_the_step():
    agent = registry.make("mopo", contract.small("mopo") | {"tau": 0.25}, contract.toy(False), 0)
    sac, data = agent.method.sac, contract.toy(False)
    assert all(torch.equal(a, b) for a, b in zip(sac.slow_critic.parameters(), sac.critic.parameters(), strict=True))
    for step in (1, 2, 3):
        fast = [p.detach().clone() for p in sac.critic.network.parameters()]
        slow = [p.clone() for p in sac.slow_critic.parameters()]
        agent.update(data.sample(agent.sampling, 0, step), step)
        for new, old, source in zip(sac.slow_critic.parameters(), slow, fast, strict=True):
            torch.testing.assert_close(new, 0.75 * old + 0.25 * source, rtol=1e-6, atol=1e-7)
    moved = [(a - b).abs().max() for a, b in zip(sac.critic.network.parameters(), fast, strict=True)]
    assert max(moved) > 1e-4, "it would make no difference"
    assert not any(p.requires_grad for p in sac.slow_critic.parameters())
