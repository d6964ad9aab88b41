"""COMBO: critics are held up at logged actions and pressed down at all others; nothing else differs from SAC."""

import math

import pytest
import torch

from baselines.combo import Combo, Config, make
from mac_bench import contract
from mac_bench.ring import Transitions
from mac_bench.torch_agent import descend, generator, tensors

SMALL = {"model_hidden": (16,), "value_hidden": (16,), "policy_hidden": (16,), "batch_size": 16, "rollout_batch": 16}


def method(goals: bool = False, **settings) -> Combo:
    return make(Config(**SMALL, **settings), contract.toy(goals), 0).method


def random(step: int = 0) -> torch.Generator:
    return generator(0, 0, step, torch.device("cpu"))


def parts(combo: Combo, goals: bool):
    """A batch, and its logged and imagined steps."""
    data, sampling = contract.toy(goals), combo.starts.sampling
    batch = tensors(data.sample(sampling, 0, 1), combo.starts.scalings, torch.device("cpu"))
    combo.ring.add(combo.imagine(1, random()))
    return batch, *combo.draw(batch, random())


def steps(rows: int) -> Transitions:
    obs, action = torch.zeros(rows, contract.OBS), torch.zeros(rows, contract.ACTION)
    return Transitions(obs, action, torch.zeros(rows), torch.ones(rows), obs + 1)


def test_soft_maximum_of_a_constant(monkeypatch):
    """log integral of exp q over the square [-1, 1]^2 is q + log 4: exactly, where all three distributions are even."""
    combo = method()

    def sample(obs, goal, random):
        return combo.uniform(obs, random), torch.full(obs.shape[:-1], -math.log(4))

    monkeypatch.setattr(combo.sac, "sample", sample)
    monkeypatch.setattr(combo.sac, "q", lambda obs, goal, action: torch.full((2, *obs.shape[:-1]), 1.5))
    torch.testing.assert_close(combo.soft_maximum(steps(8), random()), torch.full((2, 8), 1.5 + math.log(4)))


def test_soft_maximum_weighs_each_action_by_its_density(monkeypatch):
    combo = method(actions=1)
    action = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]], [[-1.0, 0.0]]])  # [3, 1, 2]
    density = torch.tensor([[0.25], [2.0], [0.5]]).log()
    monkeypatch.setattr(combo, "candidates", lambda states, random: (action, density))
    monkeypatch.setattr(combo.sac, "q", lambda obs, goal, action: action[None, ..., 0])
    expected = math.log((1 / 0.25 + math.e / 2.0 + 1 / math.e / 0.5) / 3)
    torch.testing.assert_close(combo.soft_maximum(steps(1), random()), torch.full((1, 1), expected))


def test_soft_maximum_is_the_integral(monkeypatch):
    """Of exp(2 a_1) over the square: 2 sinh 2. The policy's actions, weighed by their density, may not bias it."""
    combo = method(actions=4000)
    monkeypatch.setattr(combo.sac, "q", lambda obs, goal, action: 2 * action[None, ..., 0])
    found = combo.soft_maximum(steps(4), random())
    torch.testing.assert_close(found, torch.full((1, 4), math.log(2 * math.sinh(2))), atol=0.05, rtol=0)


def test_candidates_are_even_of_here_and_of_the_next_state():
    combo = method(actions=3)
    states, seen = steps(5), []
    sample = combo.sac.sample

    def spy(obs, goal, random):
        seen.append(obs)
        return sample(obs, goal, random)

    combo.sac.sample = spy
    action, density = combo.candidates(states, random())
    assert action.shape == (9, 5, contract.ACTION) and density.shape == (9, 5)
    assert action.abs().max() <= 1 and not action.requires_grad
    torch.testing.assert_close(density[:3], torch.full((3, 5), -math.log(4)))
    assert [float(obs[0, 0, 0]) for obs in seen] == [0.0, 1.0]


def test_the_term_raises_logged_values_and_lowers_others(monkeypatch):
    """Descent raises each of 4 logged values by 1/4, and lowers the candidates' of each of 2 states by 1/2 in all."""
    combo = method(actions=1)
    logged, others = torch.zeros(1, 4, requires_grad=True), torch.randn(1, 3, 2).requires_grad_()
    monkeypatch.setattr(combo.sac, "q", lambda obs, goal, action: logged if obs.ndim == 2 else others)
    combo.gap(steps(4), steps(2), random()).sum().backward()
    torch.testing.assert_close(logged.grad, torch.full((1, 4), -1 / 4))
    assert others.grad is not None and (others.grad > 0).all()
    torch.testing.assert_close(others.grad.sum(dim=1), torch.full((1, 2), 1 / 2))


@pytest.mark.parametrize("goals", [False, True])
def test_logged_actions_come_to_be_worth_more_than_others(goals):
    combo = method(goals, learning_rate=3e-3)
    _, real, imagined = parts(combo, goals)

    def lead():
        with torch.no_grad():
            other = combo.uniform(real.obs, random(1))
            values = [combo.sac.q(real.obs, real.value_goal, action) for action in (real.action, other)]
            return (values[0] - values[1]).mean(dim=1)

    before = lead()
    for step in range(40):
        descend({"critic": (combo.sac.critic, combo.gap(real, imagined, random(step)).sum())})
    assert (lead() > before + 0.1).all()


def test_the_gap_is_soft_maximum_less_logged_value(monkeypatch):
    combo = method()
    monkeypatch.setattr(combo, "soft_maximum", lambda states, random: torch.tensor([[1.0, 3.0], [5.0, 7.0]]))
    monkeypatch.setattr(combo.sac, "q", lambda obs, goal, action: torch.tensor([[0.5, 0.5, 2.0], [1.0, 2.0, 3.0]]))
    torch.testing.assert_close(combo.gap(steps(3), steps(2), random()), torch.tensor([1.0, 4.0]))


@pytest.mark.parametrize("goals", [False, True])
@pytest.mark.parametrize("beta", [0.0, 2.0])
def test_critic_loss_is_that_of_sac_and_beta_times_the_gap(goals, beta):
    combo = method(goals, beta=beta)
    batch, real, imagined = parts(combo, goals)
    both = Transitions.join([real, imagined])
    stream = random()
    combo.draw(batch, stream)
    expected, _ = combo.sac.losses(both, combo.sac.target(both, stream), stream)
    gap = combo.gap(real, both, stream)
    losses, _ = combo.policy_losses(batch, random())
    torch.testing.assert_close(losses["critic"][1], expected["critic"][1] + beta * gap.sum())
    for name in ("actor", "temperature"):
        torch.testing.assert_close(losses[name][1], expected[name][1], rtol=0, atol=0)


@pytest.mark.parametrize(("states", "rows"), [("mixed", 16), ("imagined", 8)])
def test_where_values_are_pressed_down(monkeypatch, states, rows):
    combo = method(conservative_states=states)
    batch, _, imagined = parts(combo, False)
    seen = []
    monkeypatch.setattr(combo, "gap", lambda real, states, random: seen.append(states) or torch.zeros(2))
    combo.policy_losses(batch, random())
    assert len(seen[0].obs) == rows
    torch.testing.assert_close(seen[0].obs[-8:], imagined.obs, rtol=0, atol=0)


def test_walks_by_chance_cover_all_actions():
    combo = method(rollout_actions="uniform", rollout_length=20)
    action = combo.imagine(1, random()).action
    assert action.shape == (20 * 16, contract.ACTION)
    # a uniform draw has deviation 1 / sqrt 3; the policy's at the start is narrower and not flat
    torch.testing.assert_close(action.std(dim=0), torch.full((2,), 3**-0.5), atol=0.05, rtol=0)
    assert ((action.abs() > 0.9).float().mean(dim=0) - 0.1).abs().max() < 0.05


def test_walks_by_the_policy_are_its_own():
    combo = method(rollout_length=3)
    stream = random()
    expected = combo.model.imagine(lambda obs, goal: combo.sac.sample(obs, goal, stream)[0], combo.starts(1), 3, stream)
    torch.testing.assert_close(combo.imagine(1, random()).action, expected.action, rtol=0, atol=0)
