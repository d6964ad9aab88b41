"""Soft actor-critic (Haarnoja et al., arXiv 1812.05905) in PyTorch, as the model-based methods use it.

    critic       |Q_i(s, a) - (r + gamma alive min_j Q'_j(s', a'))|^2,  a' ~ pi(s')           no entropy in the target
    actor        alpha log pi(a | s) - mean_i Q_i(s, a),  a ~ pi(s)
    temperature  log alpha moves the entropy of pi towards `target_entropy` A

The target without entropy, and the mean of the critics for the actor, are those of MAC's comparison.
"""

import copy
import math
from typing import Any, Literal, NamedTuple

import pydantic
import torch
from torch import Tensor, nn

from mac_bench.config import Settings
from mac_bench.ring import Transitions
from mac_bench.torch_agent import Learner, follow
from mac_bench.torch_nn import MLP, gaussian, tanh_sample
from mac_bench.types import Metrics
from mac_bench.world_model import Sizes


class SacSettings(Settings):
    """Settings of the policy's side; the defaults are those of MAC's comparison."""

    discount: float = pydantic.Field(default=0.999, gt=0, lt=1)
    tau: float = pydantic.Field(default=0.005, gt=0, le=1)
    """rate of the slow critics"""
    critics: int = pydantic.Field(default=2, gt=0)
    q_aggregation: Literal["min", "mean"] = "min"
    """of the slow critics, in the target"""
    target_entropy: float = -0.5
    """times the number of action dimensions"""
    value_hidden: tuple[int, ...] = (1024, 1024, 1024, 1024)
    policy_hidden: tuple[int, ...] = (1024, 1024, 1024, 1024)
    layer_norm: bool = True
    learning_rate: float = pydantic.Field(default=3e-4, gt=0)


class Temperature(nn.Module):
    """The weight of the entropy, positive by its logarithm."""

    def __init__(self):
        super().__init__()
        self.logarithm = nn.Parameter(torch.zeros(()))

    def forward(self) -> Tensor:
        """The weight, a scalar."""
        return self.logarithm.exp()


class Bounds(NamedTuple):
    """What values are known to lie between; targets are clipped to it."""

    low: float
    high: float


class Sac(nn.Module):
    """Actor, critics, their slow copies, temperature. `bounds` clip the targets."""

    def __init__(self, c: SacSettings, sizes: Sizes, random: torch.Generator, bounds: Bounds | None = None):
        super().__init__()
        self.c, self.sizes, self.bounds = c, sizes, bounds or Bounds(-math.inf, math.inf)
        inputs = [sizes.obs, sizes.goal]

        def network(inputs: list[int], hidden: tuple[int, ...], out: int, **kind) -> Learner:
            return Learner(MLP(inputs, hidden, out, random, layer_norm=c.layer_norm, **kind), c.learning_rate)

        self.actor = network(inputs, c.policy_hidden, 2 * sizes.action, last_scale=0.01)
        self.critic = network([*inputs, sizes.action], c.value_hidden, 1, members=c.critics)
        self.slow_critic: Any = copy.deepcopy(self.critic.network).requires_grad_(False)
        self.temperature = Learner(Temperature(), c.learning_rate)

    # -- use ---------------------------------------------------------------------------------------------------------

    def sample(self, obs: Tensor, goal: Tensor | None, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Actions [..., A] of the policy and their log-density [...]."""
        return tanh_sample(self.actor(obs, goal), random)

    def best(self, obs: Tensor, goal: Tensor | None) -> Tensor:
        """The policy's mode [N, A]: what it does when it is evaluated."""
        return gaussian(self.actor(obs, goal))[0].tanh()

    def q(self, obs: Tensor, goal: Tensor | None, action: Tensor) -> Tensor:
        """The critics' values [critics, ...]."""
        return self.critic(obs, goal, action)[..., 0]

    def slow_q(self, obs: Tensor, goal: Tensor | None, action: Tensor) -> Tensor:
        """The slow critics' values [critics, ...]."""
        return self.slow_critic(obs, goal, action)[..., 0]

    # -- learning ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def target(self, batch: Transitions, random: torch.Generator) -> Tensor:
        """[B] what the critics are drawn to."""
        action, _ = self.sample(batch.next_obs, batch.value_goal, random)
        q = self.slow_q(batch.next_obs, batch.value_goal, action)
        q = q.amin(dim=0) if self.c.q_aggregation == "min" else q.mean(dim=0)
        return (batch.reward + self.c.discount * batch.alive * q).clamp(*self.bounds)

    def critic_loss(self, batch: Transitions, target: Tensor) -> Tensor:
        """Squared error of all critics [critics, B] to one target [B], summed over critics."""
        q = self.q(batch.obs, batch.value_goal, batch.action)
        return (q - target).square().mean(dim=1).sum()

    def losses(
        self, batch: Transitions, target: Tensor, random: torch.Generator
    ) -> tuple[dict[str, tuple[Learner, Tensor]], Metrics]:
        """Losses of actor, critic and temperature on one batch with critic targets [B], and what to record."""
        action, density = self.sample(batch.obs, batch.actor_goal, random)
        q = self.q(batch.obs, batch.actor_goal, action).mean(dim=0)
        temperature, entropy = self.temperature(), -density.detach()
        wanted = self.c.target_entropy * self.sizes.action
        losses = {
            "critic": (self.critic, self.critic_loss(batch, target)),
            "actor": (self.actor, (temperature.detach() * density - q).mean()),
            "temperature": (self.temperature, (temperature * (entropy - wanted)).mean()),
        }
        values = {"value/mean": target.mean(), "value/min": target.min(), "value/max": target.max()}
        return losses, {**values, "policy/entropy": entropy.mean(), "policy/temperature": temperature.detach()}

    def follow(self) -> None:
        """One step of the slow critics."""
        follow(self.slow_critic, self.critic.network, self.c.tau)


def goal_bounds(discount: float, goal_reward: Literal["-1/0", "0/1"]) -> Bounds:
    """What the discounted sum of a goal-conditioned task's rewards lies between."""
    return Bounds(-1 / (1 - discount), 0) if goal_reward == "-1/0" else Bounds(0, 1)
