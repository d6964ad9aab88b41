"""MOPO: Model-based Offline Policy Optimization (Yu et al., arXiv 2005.13239).

The claim: a policy trained in a learned model is safe where the model knows what it does. So each imagined step pays
for the model's uncertainty there, and the return in the model bounds the true one from below:

    r~(s, a) = r(s, a) - beta max_i |sigma_i(s, a)|      sigma_i: the deviations that member i of the ensemble predicts

Soft actor-critic learns from logged and from such imagined steps, half and half; `dyna.py` has what surrounds it.

Differences, as in MAC's comparison: the model may go on learning beside the policy (`dynamics_training: joint`), so the
penalty is taken from the model of today when a step is used, not when it was imagined; imagined walks go on after their
end, which they record. The released goal-conditioned code stops with an error at its first rollout; here it works.
"""

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
    paper="Yu et al. 2020, arXiv 2005.13239",
    parity="law: tests/test_mopo.py; learning: tests/test_learning.py",
    defaults="MAC's comparison, from its released code",
    deviations="the penalty is taken when a step is used, because the model may still learn; goals work; unlike the "
    "released code, the model learns from as many logged steps as the policy from both kinds, and scaling is fitted on "
    "the training data",
)


class Config(DynaSettings):
    """The paper sets `rollout_length` and `beta` per task, for observations of unit variance."""

    beta: float = pydantic.Field(default=0.003, ge=0)
    """price of uncertainty, the paper's lambda; for scaled observations"""


class Mopo(Dyna):
    """Dyna with a price on uncertainty."""

    c: Config

    def policy_losses(self, batch: Batch, random: torch.Generator):
        """Soft actor-critic on logged steps and on imagined ones that have paid."""
        real, imagined = self.draw(batch, random)
        imagined, penalty = self.penalised(imagined)
        steps = Transitions.join([real, imagined])
        losses, metrics = self.sac.losses(steps, self.sac.target(steps, random), random)
        return losses, {**metrics, "model/penalty": penalty.mean()}

    @torch.no_grad()
    def penalised(self, imagined: Transitions) -> tuple[Transitions, Tensor]:
        """Imagined steps with the price of their uncertainty taken off the reward, and the uncertainty [B]."""
        _, log_std = self.model.predict(imagined.obs, imagined.action)  # [M, B, O]
        penalty = uncertainty(log_std)
        return imagined._replace(reward=imagined.reward - self.c.beta * penalty), penalty


def uncertainty(log_std: Tensor) -> Tensor:
    """max_i |sigma_i|: of the members' log-deviations [M, B, O], the largest norm [B]."""
    return log_std.exp().norm(dim=-1).amax(dim=0)


def make(c: Config, data: Dataset, seed: int) -> TorchAgent:
    """An agent for these data; goal-conditioned where they have goals."""
    return make_dyna(Mopo, c, data, seed)
