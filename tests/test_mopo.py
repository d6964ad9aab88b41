"""MOPO's price on uncertainty, and the walks that all Dyna-style methods take."""

import numpy as np
import pytest
import torch
from torch import Tensor

from baselines import mopo
from mac_bench import contract, registry
from mac_bench.config import parse
from mac_bench.dyna import Dyna, make_dyna
from mac_bench.ring import Transitions
from mac_bench.torch_agent import TorchAgent, generator, tensors

MODES = pytest.mark.parametrize("goals", [False, True], ids=["rewards", "goals"])


def agent(goals: bool, **settings) -> TorchAgent:
    return registry.make("mopo", contract.small("mopo") | settings, contract.toy(goals), 0)


def batch(of: TorchAgent, step: int):
    return contract.toy(of.sampling.goals is not None).sample(of.sampling, 0, step)


def train(of: TorchAgent, first: int, last: int) -> list[dict[str, float]]:
    return [
        {name: float(value) for name, value in of.update(batch(of, step), step).items()}
        for step in range(first, last + 1)
    ]


def learned_from(of: TorchAgent, step: int = 7) -> tuple[Transitions, Transitions, Transitions]:
    """What the policy learns from in one update, and the logged and imagined steps that it was made of."""
    seen, sac, method = [], of.method.sac, of.method
    target, draw = sac.target, method.draw
    sac.target = lambda steps, random: seen.append(steps) or target(steps, random)
    method.draw = lambda *arguments: seen.extend(draw(*arguments)) or seen[-2:]
    method.policy_losses(tensors(batch(of, step), of.scalings, of.device), generator(0, 0, step, of.device))
    del sac.target, method.draw
    real, imagined, steps = seen
    return steps, real, imagined


# -- the price -------------------------------------------------------------------------------------------------------


def test_uncertainty_is_the_largest_norm_of_the_members_deviations():
    sigma = torch.tensor([[[3.0, 4.0], [1.0, 0.0]], [[1.0, 1.0], [5.0, 12.0]]])  # [M, B, O]
    assert mopo.uncertainty(sigma.log()).tolist() == pytest.approx([5, 13])


@MODES
def test_imagined_steps_pay_for_their_uncertainty_and_logged_ones_do_not(goals):
    one = agent(goals, beta=0.5)
    metrics = train(one, 1, 2)
    steps, real, imagined = learned_from(one)
    _, log_std = one.method.model.predict(imagined.obs, imagined.action)
    price = 0.5 * mopo.uncertainty(log_std)
    number = len(real.reward)
    assert (price > 0.01).all() and price.std() > 0
    assert torch.equal(steps.reward[:number], real.reward)
    torch.testing.assert_close(steps.reward[number:], imagined.reward - price)
    # nothing else changes
    assert torch.equal(steps.obs, torch.cat([real.obs, imagined.obs]))
    assert torch.equal(steps.alive, torch.cat([real.alive, imagined.alive]))
    assert metrics[-1]["model/penalty"] == pytest.approx(2 * price.mean().item(), rel=0.3)


def test_the_price_is_that_of_the_model_of_today_and_is_not_stored():
    one = agent(False, beta=0.5)
    train(one, 1, 1)
    stored = one.method.ring.reward.clone()
    before = learned_from(one)[0].reward
    # all deviations up
    one.method.model.dynamics.network.biases[-1].data[..., contract.OBS :] += 2.0
    after = learned_from(one)[0].reward
    number = len(before) // 2
    assert torch.equal(before[:number], after[:number]) and (before[number:] > after[number:] + 0.1).all()
    assert torch.equal(one.method.ring.reward, stored)


def test_the_more_uncertain_the_step_the_lower_the_target():
    one = agent(False, beta=0.5)
    net = one.method.model.dynamics.network
    for p in (*net.parameters(), *one.method.sac.slow_critic.parameters()):
        p.data.zero_()
    # of one member, the deviation of s_0 depends on the first unit of the last layer, and so on the state
    net.weights[0].data[0, 0, 0], net.weights[1].data[0, 0, 0], net.gains[0].data[:], net.gains[1].data[:] = 5, 5, 1, 1
    net.weights[2].data[0, 0, contract.OBS] = 1.0
    obs = torch.tensor([[-1.0, 0, 0, 0], [1.0, 0, 0, 0]])
    steps = Transitions(obs, torch.zeros(2, 2), torch.zeros(2), torch.ones(2), obs)
    paid, penalty = one.method.penalised(steps)
    assert penalty[1] > penalty[0] + 0.05
    target = one.method.sac.target(paid, generator(0, 0, 0, one.device))
    torch.testing.assert_close(target, -0.5 * penalty)


class Plain(Dyna):
    """Dyna without any price."""

    def policy_losses(self, batch, random):
        steps = Transitions.join(self.draw(batch, random))
        return self.sac.losses(steps, self.sac.target(steps, random), random)


@MODES
def test_at_no_price_it_is_plain_dyna(goals):
    settings = parse(mopo.Config, contract.small("mopo") | {"beta": 0.0}, "settings")
    plain, free = (make_dyna(kind, settings, contract.toy(goals), 0) for kind in (Plain, mopo.Mopo))
    dear = agent(goals, beta=0.5)
    for one in (plain, free, dear):
        train(one, 1, 4)
    states = [one.method.state_dict() for one in (plain, free, dear)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not torch.equal(states[0]["sac.critic.network.biases.0"], states[2]["sac.critic.network.biases.0"])


# -- what Dyna-style methods share -----------------------------------------------------------------------------------


def test_walks_are_taken_every_so_often_and_the_last_rounds_kept():
    one = agent(False, rollout_every=4, rollout_length=3, retain=2)
    rows, lengths = 32 * 3, []
    for step in range(1, 13):
        ring = one.method.ring.obs.clone()
        train(one, step, step)
        lengths.append(len(one.method.ring))
        assert torch.equal(one.method.ring.obs, ring) == (step not in (1, 4, 8, 12))
    # the first update begins with a round, as there is nothing to learn from
    assert lengths == [rows] * 3 + [2 * rows] * 9 and one.method.ring.capacity == 2 * rows


@MODES
def test_logged_and_imagined_steps_are_mixed_in_the_batch_s_size(goals):
    for fraction, number in ((0.5, 16), (0.05, 2), (0.001, 1), (0.999, 31)):
        one = agent(goals, real_fraction=fraction)
        train(one, 1, 1)
        steps, real, imagined = learned_from(one)
        assert (len(real.obs), len(imagined.obs), len(steps.obs)) == (number, 32 - number, 32)
        logged = one.method.model.real(tensors(batch(one, 7), one.scalings, one.device))
        assert torch.equal(real.obs, logged.obs[:number]) and torch.equal(real.reward, logged.reward[:number])


def rounds(of: TorchAgent) -> Transitions:
    """All that is in the ring."""
    ring = of.method.ring
    return Transitions(*(getattr(ring, name) for name in Transitions._fields)).rows(slice(len(ring)))


def test_walks_start_from_logged_states_with_the_goals_that_those_were_drawn_with():
    one = agent(True, rollout_length=4)
    train(one, 1, 1)
    walks, start = rounds(one), one.method.starts(1)
    assert len(walks.obs) == 4 * 32
    assert torch.equal(walks.obs[:32], start.obs) and torch.equal(walks.next_obs[:-32], walks.obs[32:])
    for part, goal in ((walks.value_goal, start.goals.value), (walks.actor_goal, start.goals.actor)):
        assert torch.equal(part, goal.repeat(4, 1)), "goals change on the way"
    assert torch.equal(walks.reward, -walks.alive), "-1 before a goal, 0 at it"
    assert walks.action.abs().max() <= 1


def test_where_walks_start_is_a_function_of_the_step_and_not_what_is_learned_from():
    one, again = agent(True), agent(True)
    assert torch.equal(one.method.starts(3).obs, again.method.starts(3).obs)
    assert not torch.equal(one.method.starts(3).obs, one.method.starts(4).obs)
    assert not torch.equal(one.method.starts(3).obs, tensors(batch(one, 3), one.scalings, one.device).obs)


@MODES
def test_all_losses_are_of_the_same_old_parameters(goals, monkeypatch):
    one = agent(goals, termination="learned")
    before = {name: p.detach().clone() for name, p in one.method.named_parameters()}
    ask = one.method.policy_losses

    def watched(batch, random) -> tuple[dict, dict[str, Tensor]]:
        for name, p in one.method.named_parameters():
            assert torch.equal(p, before[name]), f"{name} has moved already"
        return ask(batch, random)

    monkeypatch.setattr(one.method, "policy_losses", watched)
    train(one, 1, 1)
    moved = {name.split(".")[1] for name, p in one.method.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"dynamics", "success", "actor", "critic", "temperature"} | (set() if goals else {"reward"})


@MODES
def test_it_acts_by_its_mode_in_the_data_s_units(goals):
    one = agent(goals)
    data = contract.toy(goals)
    goal = None if data.goals is None else data.goals[:5]
    asked = [one.act(data.observations[:5], goal, seed=seed) for seed in (0, 1)]
    np.testing.assert_array_equal(*asked)
    obs = torch.from_numpy(one.scalings.obs(data.observations[:5]))
    scaled = None if goal is None or one.scalings.goal is None else torch.from_numpy(one.scalings.goal(goal))
    np.testing.assert_allclose(asked[0][:, 0], one.method.sac.best(obs, scaled).detach(), rtol=1e-5)
