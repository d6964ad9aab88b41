"""RAMBO: the model's gradient is that of the policy's value, by the score function, held back by the likelihood."""

import math

import pytest
import torch
from torch import nn

from baselines.rambo import Config, Rambo, make
from mac_bench import contract
from mac_bench.ring import Transitions
from mac_bench.torch_agent import TorchAgent, descend, generator, tensors

SMALL = {"model_hidden": (16,), "value_hidden": (16,), "policy_hidden": (16,), "batch_size": 64, "rollout_batch": 64}


def agent(goals: bool = False, **settings) -> TorchAgent:
    return make(Config(**SMALL, **settings), contract.toy(goals), 0)


def random(step: int = 0) -> torch.Generator:
    return generator(0, 0, step, torch.device("cpu"))


def batch_of(rambo: Rambo, goals: bool, step: int = 1):
    data = contract.toy(goals)
    return tensors(data.sample(rambo.starts.sampling, 0, step), rambo.starts.scalings, torch.device("cpu"))


def steps(rows: int) -> Transitions:
    obs, action = torch.zeros(rows, 1), torch.zeros(rows, contract.ACTION)
    return Transitions(obs, action, torch.zeros(rows), torch.ones(rows), obs)


class Tiny(nn.Module):
    """Members that say N(mean_i, std^2) of the next state, whatever state and action are."""

    def __init__(self, means: list[float], std: float):
        super().__init__()
        self.means, self.std = nn.Parameter(torch.tensor(means)), std

    def forward(self, obs, action):
        mean = self.means[:, None, None].expand(-1, *obs.shape)
        return mean, torch.full_like(mean, math.log(self.std))


@pytest.fixture
def tiny(monkeypatch):
    """A method in a world of one dimension, with its model and with the value of the next state given."""

    def prepare(means: list[float], std: float, value) -> tuple[Rambo, Tiny]:
        rambo = agent(members=len(means), elites=len(means)).method
        model = Tiny(means, std)
        monkeypatch.setattr(rambo.model, "predict", model.forward)
        monkeypatch.setattr(rambo.model, "outcome", lambda obs, goal, action: (torch.zeros(len(obs)),) * 2)
        monkeypatch.setattr(rambo.sac, "sample", lambda obs, goal, random: (torch.zeros(len(obs), 2), None))
        monkeypatch.setattr(rambo, "advantage", lambda obs, goal, action, following: value(following[:, 0]))
        return rambo, model

    return prepare


@pytest.mark.parametrize("slope", [2.0, -3.0])
def test_gradient_is_the_value_s(tiny, slope):
    """V(s') = slope s', s' ~ N(m, std^2): dE[V]/dm = slope, over V's deviation |slope| std it is sign(slope) / std."""
    rambo, model = tiny([0.7], 0.5, lambda following: slope * following + 1000)
    rambo.adversary_loss(steps(200_000), random()).backward()
    assert float(model.means.grad) == pytest.approx(math.copysign(2.0, slope), abs=0.03)


def test_gradient_of_a_mixture_is_the_value_s(tiny):
    """Two members that overlap, against finite differences of E[V] under the mixture, V(s') = s'^2, by quadrature."""
    rambo, model = tiny([-0.4, 0.9], 0.6, torch.square)
    rambo.model.elites = torch.arange(2)
    rambo.adversary_loss(steps(400_000), random()).backward()
    grid = torch.linspace(-8, 8, 20_001, dtype=torch.float64)

    def moment(means, power):
        density = sum(torch.exp(-0.5 * ((grid - m) / 0.6) ** 2) / (0.6 * math.sqrt(2 * math.pi)) / 2 for m in means)
        return float(torch.trapezoid(density * grid**power, grid))

    deviation = math.sqrt(moment([-0.4, 0.9], 4) - moment([-0.4, 0.9], 2) ** 2)
    for member, (low, high) in enumerate([([-0.401, 0.9], [-0.399, 0.9]), ([-0.4, 0.899], [-0.4, 0.901])]):
        expected = (moment(high, 2) - moment(low, 2)) / 0.002 / deviation
        assert float(model.means.grad[member]) == pytest.approx(expected, abs=0.02)


def test_log_mixture_by_hand(tiny):
    rambo, _ = tiny([0.0, 3.0, 50.0], 1.0, torch.square)
    rambo.model.elites = torch.tensor([0, 1])
    density = (math.exp(-0.5) + math.exp(-2.0)) / math.sqrt(2 * math.pi) / 2
    found = rambo.log_mixture(torch.zeros(1, 1), torch.zeros(1, 2), torch.ones(1, 1))
    torch.testing.assert_close(found, torch.tensor([math.log(density)]))


def test_log_mixture_is_of_whole_states(tiny):
    """A member explains all dimensions or none: (0, 0) of one and (3, 3) of the other make no (0, 3)."""
    rambo, _ = tiny([0.0, 3.0], 1.0, torch.square)
    rambo.model.elites = torch.arange(2)
    found = rambo.log_mixture(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([[0.0, 3.0]]))
    torch.testing.assert_close(found, torch.tensor([-4.5 - math.log(2 * math.pi)]))


def test_advantage_by_hand(monkeypatch):
    rambo = agent(discount=0.5).method
    monkeypatch.setattr(
        rambo.model, "outcome", lambda obs, goal, action: (torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0]))
    )
    monkeypatch.setattr(rambo.sac, "best", lambda obs, goal: torch.ones(2, 2))

    def q(obs, goal, action):
        """(6, 8) after the policy's mode, (2, 3) else."""
        low, high = (6.0, 8.0) if float(action[0, 0]) == 1 else (2.0, 3.0)
        return torch.tensor([[low, high], [high, low]])

    monkeypatch.setattr(rambo.sac, "q", q)
    obs, action = torch.zeros(2, contract.OBS), torch.zeros(2, 2)
    found = rambo.advantage(obs, None, action, obs)
    torch.testing.assert_close(found, torch.tensor([1.0 + 0.5 * 6.0 - 2.0, 1.0 - 2.0]))


def played(monkeypatch, weight: float, likelihood: float) -> tuple[float, float]:
    """First coordinate of the next states, which is their value, and held-out error, after 150 steps of the model."""
    rambo = agent(dynamics_training="joint", members=2, elites=2, learning_rate=1e-2).method
    monkeypatch.setattr(rambo.sac, "q", lambda obs, goal, action: obs[None, ..., 0])
    states = rambo.model.real(rambo.starts(0))
    for step in range(150):
        loss = weight * rambo.adversary_loss(states, random(step))
        loss = loss + likelihood * rambo.model.dynamics_loss(batch_of(rambo, False, step), random(step))
        descend({"dynamics": (rambo.model.dynamics, loss)})
    with torch.no_grad():
        mean, _ = rambo.model.predict(states.obs, rambo.sac.sample(states.obs, None, random())[0])
    return float(mean[..., 0].mean()), float(rambo.model.holdout_errors().mean())


def test_the_adversary_lowers_value_and_the_likelihood_holds_it_to_the_data(monkeypatch):
    fair, game, alone = (played(monkeypatch, *weights) for weights in ((0.0, 1.0), (0.3, 1.0), (0.3, 0.0)))
    assert alone[0] < game[0] < fair[0] - 0.01, (fair, game, alone)
    assert game[1] < 2 * fair[1] < alone[1] / 5, (fair, game, alone)


@pytest.mark.parametrize("goals", [False, True])
@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_model_s_loss_is_likelihood_and_weighed_adversary(goals, weight):
    rambo = agent(goals, dynamics_training="joint", adversary_weight=weight).method
    batch = batch_of(rambo, goals)
    rambo.ring.add(rambo.imagine(1, random()))
    stream = random()
    both = rambo.draw(batch, stream)
    joined = Transitions.join(both)
    expected, _ = rambo.sac.losses(joined, rambo.sac.target(joined, stream), stream)
    adversary = rambo.adversary_loss(both[1], stream)
    expected["dynamics"] = rambo.model.dynamics, 2 * rambo.model.dynamics_loss(batch, stream) + weight * adversary
    losses, _ = rambo.policy_losses(batch, random())
    assert losses.keys() == expected.keys()
    for name in expected:
        assert losses[name][0] is expected[name][0]
        torch.testing.assert_close(losses[name][1], expected[name][1])


@pytest.mark.parametrize("goals", [False, True])
def test_first_the_model_and_cloning_then_the_game(goals):
    settings = {"members": 2, "elites": 1, "model_updates": 150, "holdout_every": 50, "learning_rate": 1e-2}
    made, data = agent(goals, **settings), contract.toy(goals)
    for step in range(1, 151):
        metrics = made.update(data.sample(made.sampling, 0, step), step)
        assert {"loss/dynamics", "loss/actor"} <= metrics.keys() and "loss/critic" not in metrics
    rows = data.sample(made.sampling, 0, 0)
    inside = (rows.obs[:, :2] < 0.7).all(axis=1)
    goal = None if rows.goals is None else rows.goals.actor[inside]
    actions = made.act(rows.obs[inside], goal, seed=0)[:, 0]
    assert abs(actions.mean() - 0.5) < 0.1, "the logged actions there have mean 0.5"
    weights = made.method.model.dynamics.network.weights[0].clone()
    metrics = made.update(data.sample(made.sampling, 0, 151), 151)
    assert {"loss/dynamics", "loss/actor", "loss/critic", "model/adversary"} <= metrics.keys()
    assert (made.method.model.dynamics.network.weights[0] != weights).any(), "the model goes on learning"
    assert made.method.sac.actor.adam_0_step == 151, "and cloning is over"


def test_without_cloning_the_policy_waits():
    made, data = agent(clone=False), contract.toy(False)
    before = {name: x.clone() for name, x in made.method.sac.state_dict().items()}
    metrics = made.update(data.sample(made.sampling, 0, 1), 1)
    assert "loss/actor" not in metrics
    for name, x in made.method.sac.state_dict().items():
        torch.testing.assert_close(x, before[name], rtol=0, atol=0)
