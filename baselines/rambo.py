"""RAMBO: Robust Adversarial Model-Based Offline RL (Rigter et al., arXiv 2204.12581).

The claim: policy and model play a zero-sum game. The model is moved towards next states of low value, but must still
explain the data, so it becomes pessimistic exactly where the data leave it free; nothing is taken off the rewards.
Once the model has been pretrained, each update of the policy goes with one of the model, on

    lambda E_{s, a ~ pi, s' ~ P}[ A log P(s' | s, a) ]  -  2 E_D[ log P(s' | s, a) ]
    A = r + gamma alive min_j Q_j(s', mode of pi(s')) - min_j Q_j(s, a),    over its batch of mean 0 and deviation 1

The first term's gradient is that of the policy's value in the model, by the score function: samples and advantages are
constants. P is the uniform mixture of the elites. While the model is pretrained the policy clones the data (`clone`).

Differences: the paper's model predicts the reward too; here that is a network of its own, so the adversary moves states
only, and r is part of the baseline. The paper takes 1000 steps of the policy and 1000 of the model in turn, on walks
made for them; here they go one by one, and the states are those of the imagined walks that the policy learns from.
The second term is as in the authors' code, so that lambda means the same: the mean over rows and dimensions and the sum
over members of (s' - mu)^2 / sigma^2 + 2 log sigma, which has no half. OfflineRL-Kit sums the first term over 256 rows,
so that its 3e-4 is 0.0768 here, and mixes the elites in each dimension by itself.
"""

import math
from typing import Literal

import pydantic
import torch
from torch import Tensor

from mac_bench.data import Dataset
from mac_bench.dyna import Dyna, DynaSettings, make_dyna
from mac_bench.ring import Transitions
from mac_bench.torch_agent import TorchAgent, descend
from mac_bench.torch_nn import gaussian, log_density
from mac_bench.types import About, Batch, Metrics

VERSION = 2
ABOUT = About(
    paper="Rigter et al. 2022, arXiv 2204.12581",
    parity="laws and hand numbers: tests/test_rambo.py; learning: tests/test_learning.py",
    defaults="what is RAMBO's own: the authors' code; what all share: MAC's comparison",
    deviations="the adversary moves states, not rewards, which have a network of their own, and takes turns with the "
    "policy step by step; the model learns from as many logged steps as the policy from both kinds; goals work",
)


class Config(DynaSettings):
    """The paper sets `rollout_length` 2 or 5 and `adversary_weight` 3e-4 or 0 per task."""

    dynamics_training: Literal["joint", "pretrained"] = "pretrained"
    """of the likelihood alone, before the game; with "joint" the game begins with the first update"""
    adversary_weight: float = pydantic.Field(default=3e-4, ge=0)
    """the paper's lambda"""
    clone: bool = True
    """whether the policy clones the data while the model is pretrained; else it waits"""


class Rambo(Dyna):
    """Dyna in a model that plays against the policy."""

    c: Config

    def update(self, batch: Batch, step: int, random: torch.Generator) -> Metrics:
        """One step of everything; before the game, of the model and of cloning."""
        if self.model.ready or not self.c.clone:
            return super().update(batch, step, random)
        cloned = descend({"actor": (self.sac.actor, self.clone_loss(batch))})
        return {**cloned, **super().update(batch, step, random)}

    def clone_loss(self, batch: Batch) -> Tensor:
        """Negative log-likelihood of the logged actions, less what does not depend on the policy."""
        goal = None if batch.goals is None else batch.goals.actor
        mean, log_std = gaussian(self.sac.actor(batch.obs, goal))
        return -log_density(batch.actions[:, 0].atanh(), mean, log_std).mean()

    def policy_losses(self, batch: Batch, random: torch.Generator):
        """Soft actor-critic, and the model's side of the game."""
        real, imagined = self.draw(batch, random)
        steps = Transitions.join([real, imagined])
        losses, metrics = self.sac.losses(steps, self.sac.target(steps, random), random)
        adversary = self.adversary_loss(imagined, random)
        likelihood = self.model.dynamics_loss(batch, random)
        losses["dynamics"] = self.model.dynamics, 2 * likelihood + self.c.adversary_weight * adversary
        return losses, {**metrics, "model/likelihood": likelihood.detach(), "model/adversary": adversary.detach()}

    def adversary_loss(self, states: Transitions, random: torch.Generator) -> Tensor:
        """Its gradient raises the policy's value in the model: the mean of advantage and log-density."""
        obs, goal = states.obs, states.value_goal
        with torch.no_grad():
            action, _ = self.sac.sample(obs, goal, random)
            following = self.model.sample(obs, action, random)
            advantage = self.advantage(obs, goal, action, following)
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-6)
        return (advantage * self.log_mixture(obs, action, following)).mean()

    def log_mixture(self, obs: Tensor, action: Tensor, following: Tensor) -> Tensor:
        """[B] log-density of next states under the uniform mixture of the elites."""
        density = log_density(following, *self.model.predict(obs, action))[self.model.elites]  # [E, B]
        return torch.logsumexp(density, dim=0) - math.log(len(density))

    def advantage(self, obs: Tensor, goal: Tensor | None, action: Tensor, following: Tensor) -> Tensor:
        """[B] how much better than expected it is to come to the states `following`."""
        reward, alive = self.model.outcome(obs, goal, action)
        value = self.sac.q(following, goal, self.sac.best(following, goal)).amin(dim=0)
        return reward + self.c.discount * alive * value - self.sac.q(obs, goal, action).amin(dim=0)


def make(c: Config, data: Dataset, seed: int) -> TorchAgent:
    """An agent for these data; goal-conditioned where they have goals."""
    return make_dyna(Rambo, c, data, seed)
