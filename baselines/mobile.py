"""MOBILE: Model-Bellman Inconsistency penalised offline policy optimisation (Sun et al., ICML 2023, PMLR 202).

The claim: what counts is not how unsure the model is of the next state, but how unsure that makes the value. Each
member of the ensemble gives its own estimate of the Bellman target; an imagined step pays for their disagreement:

    r~(s, a) = r(s, a) - beta std_i[ r(s, a) + gamma alive E_{s' ~ P_i, a' ~ pi} Q'(s', a') ]
             = r(s, a) - beta gamma alive std_i[ E_{s' ~ P_i, a' ~ pi} Q'(s', a') ]

because reward and end are predicted by one network each, which all members share. Soft actor-critic learns from logged
and from such imagined steps; `dyna.py` has what surrounds it.

Differences: both released codes, the authors' and that of MAC's comparison, leave `gamma alive` out of the price. At
their discounts that is 0.1 to 1 % of it, and a state that has ended its task, where nothing follows, pays nothing here.
The authors take the lowest critic for Q', MAC's comparison the mean (`penalty_aggregation`), and the authors' deviation
divides by the number of members less one, which beta can absorb. The authors also keep targets above 0, which tasks
with negative rewards forbid. As in MAC's comparison the model may go on learning beside the policy
(`dynamics_training`).
"""

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
    paper="Sun et al. 2023, PMLR 202",
    parity="law and hand numbers: tests/test_mobile.py; learning: tests/test_learning.py",
    defaults="MAC's comparison, from its released code",
    deviations="the price is that of the whole Bellman target, so that it has the discount and ends with the task; "
    "the codes leave both out; targets may be negative; goals work; unlike MAC's released code, the model learns from "
    "as many logged steps as the policy from both kinds, and scaling is fitted on the training data",
)


class Config(DynaSettings):
    """The authors set `beta` and `rollout_length` per task, and `real_fraction` to 0.05."""

    beta: float = pydantic.Field(default=0.003, ge=0)
    """price of inconsistency"""
    samples: int = pydantic.Field(default=5, gt=0)
    """next states that each member's expectation is estimated from; the authors' code: 10"""
    penalty_aggregation: Literal["mean", "min"] = "mean"
    """of the slow critics, in the price; the authors: min"""


class Mobile(Dyna):
    """Dyna with a price on what the members' targets differ by."""

    c: Config

    def policy_losses(self, batch: Batch, random: torch.Generator):
        """Soft actor-critic on logged steps and on imagined ones that have paid."""
        real, imagined = self.draw(batch, random)
        penalty = self.inconsistency(imagined, random)
        imagined = imagined._replace(reward=imagined.reward - self.c.beta * penalty)
        steps = Transitions.join([real, imagined])
        losses, metrics = self.sac.losses(steps, self.sac.target(steps, random), random)
        return losses, {**metrics, "model/penalty": penalty.mean()}

    @torch.no_grad()
    def inconsistency(self, steps: Transitions, random: torch.Generator) -> Tensor:
        """[B] standard deviation over the elites of the target that each predicts."""
        mean, log_std = (x[self.model.elites] for x in self.model.predict(steps.obs, steps.action))  # [E, B, O]
        noise = torch.randn((self.c.samples, *mean.shape), generator=random, device=mean.device)
        following = mean + log_std.exp() * noise  # [S, E, B, O]
        goal = steps.value_goal
        goal = None if goal is None else goal.expand(*following.shape[:-1], -1)
        action, _ = self.sac.sample(following, goal, random)
        q = self.sac.slow_q(following, goal, action)  # [critics, S, E, B]
        q = q.amin(dim=0) if self.c.penalty_aggregation == "min" else q.mean(dim=0)
        return self.c.discount * steps.alive * q.mean(dim=0).std(dim=0, correction=0)


def make(c: Config, data: Dataset, seed: int) -> TorchAgent:
    """An agent for these data; goal-conditioned where they have goals."""
    return make_dyna(Mobile, c, data, seed)
