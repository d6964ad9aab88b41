"""COMBO: Conservative Offline Model-Based policy Optimisation (Yu et al., arXiv 2102.08363).

The claim: no estimate of uncertainty is needed. The critics are pressed down where the model takes the policy, and held
up at the logged steps, so that they are low wherever the data do not speak against it:

    critic   beta (E_{s ~ rho}[ log integral exp Q(s, a) da ] - E_{(s, a) ~ D}[ Q(s, a) ]) + soft actor-critic's error

The integral is over all actions; its logarithm is a soft maximum. It is estimated from `actions` actions each of the
uniform distribution, of pi(s) and of pi(s'), by their importance: log mean_k exp(Q(s, a_k) - log p_k(a_k)).

Differences: the paper's formula has the expectation over the policy's actions in place of the soft maximum, which is
CQL's (arXiv 2006.04779) and OfflineRL-Kit's. There, as the result of a reshape is dropped, each soft maximum is over
one sample of each kind; here it is over all. The squared error is not halved, so that beta is twice the paper's. What
the Dyna-style methods share is set as in MAC's comparison, which has no COMBO.
"""

import math
from typing import Literal

import pydantic
import torch
from torch import Tensor

from mac_bench.data import Dataset
from mac_bench.dyna import Dyna, DynaSettings, make_dyna
from mac_bench.ring import Transitions
from mac_bench.torch_agent import TorchAgent
from mac_bench.types import About, Batch

VERSION = 1
ABOUT = About(
    paper="Yu et al. 2021, arXiv 2102.08363",
    parity="laws and hand numbers: tests/test_combo.py; learning: tests/test_learning.py",
    defaults="what is COMBO's own: OfflineRL-Kit; what all share: MAC's comparison",
    deviations="the soft maximum of CQL and OfflineRL-Kit in place of the paper's expectation, over all samples; the "
    "squared error is not halved, so that beta is twice the paper's; no Lagrange multiplier for beta; goals work",
)


class Config(DynaSettings):
    """The paper chooses `beta`, `rollout_length` 1 or 5, `rollout_actions` and `conservative_states` per task."""

    beta: float = pydantic.Field(default=0.5, ge=0)
    """weight of the conservative term; OfflineRL-Kit's for diverse logs, for those of one policy it mostly takes 5"""
    actions: int = pydantic.Field(default=10, gt=0)
    """drawn from each of the three distributions for the soft maximum"""
    conservative_states: Literal["mixed", "imagined"] = "mixed"
    """where values are pressed down: logged and imagined states, or imagined ones alone"""
    rollout_actions: Literal["policy", "uniform"] = "policy"
    """who acts in imagined walks"""


class Combo(Dyna):
    """Dyna with conservative critics."""

    c: Config

    def policy_losses(self, batch: Batch, random: torch.Generator):
        """Soft actor-critic, and the conservative term on the critics."""
        real, imagined = self.draw(batch, random)
        steps = Transitions.join([real, imagined])
        losses, metrics = self.sac.losses(steps, self.sac.target(steps, random), random)
        gap = self.gap(real, imagined if self.c.conservative_states == "imagined" else steps, random)
        critic, error = losses["critic"]
        losses["critic"] = critic, error + self.c.beta * gap.sum()
        return losses, {**metrics, "value/gap": gap.detach().mean()}

    def gap(self, real: Transitions, states: Transitions, random: torch.Generator) -> Tensor:
        """[critics] how far the soft maximum of Q in `states` lies above Q at the logged steps."""
        logged = self.sac.q(real.obs, real.value_goal, real.action)
        return (self.soft_maximum(states, random) - logged.mean(dim=1, keepdim=True)).mean(dim=1)

    def soft_maximum(self, states: Transitions, random: torch.Generator) -> Tensor:
        """[critics, B] log of the integral of exp Q(s, a) over all actions."""
        action, density = self.candidates(states, random)
        obs, goal = states.obs, states.value_goal
        obs = obs.expand(len(action), -1, -1)
        goal = None if goal is None else goal.expand(len(action), -1, -1)
        q = self.sac.q(obs, goal, action)  # [critics, 3n, B]
        return torch.logsumexp(q - density, dim=1) - math.log(len(action))

    @torch.no_grad()
    def candidates(self, states: Transitions, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Actions [3n, B, A] of the three distributions, and the log-density [3n, B] of each under its own."""
        n, goal = self.c.actions, states.value_goal
        goal = None if goal is None else goal.expand(n, -1, -1)
        uniform = self.uniform(states.obs.expand(n, -1, -1), random)
        here, here_density = self.sac.sample(states.obs.expand(n, -1, -1), goal, random)
        following, following_density = self.sac.sample(states.next_obs.expand(n, -1, -1), goal, random)
        uniform_density = torch.full_like(here_density, -self.sac.sizes.action * math.log(2))
        action = torch.cat([uniform, here, following])
        return action, torch.cat([uniform_density, here_density, following_density])

    def uniform(self, obs: Tensor, random: torch.Generator) -> Tensor:
        """Actions [..., A] from anywhere in [-1, 1]."""
        shape = *obs.shape[:-1], self.sac.sizes.action
        return 2 * torch.rand(shape, generator=random, device=obs.device) - 1

    def imagine(self, step: int, random: torch.Generator) -> Transitions:
        """One round of imagination, by the policy or by chance."""
        if self.c.rollout_actions == "policy":
            return super().imagine(step, random)
        start, length = self.starts(step), self.c.rollout_length
        return self.model.imagine(lambda obs, _: self.uniform(obs, random), start, length, random)


def make(c: Config, data: Dataset, seed: int) -> TorchAgent:
    """An agent for these data; goal-conditioned where they have goals."""
    return make_dyna(Combo, c, data, seed)
