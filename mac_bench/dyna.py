"""What the Dyna-style methods share (Sutton 1991): a world model makes steps, and a model-free method learns from them.

Every `rollout_every` updates the policy takes `rollout_length` steps in the model from each of `rollout_batch` logged
states; a ring keeps the last `retain` such rounds. Soft actor-critic learns from logged and imagined steps. In
goal-conditioned tasks an imagined walk keeps the value goal that its first state was drawn with.

A method derives from `Dyna` and says in `policy_losses` what it does with the two kinds of steps.
"""

from typing import Any

import pydantic
import torch
from torch import Tensor, nn

from mac_bench.config import GoalMix
from mac_bench.data import Dataset, ScalingKind, Scalings, fit
from mac_bench.ensemble import EnsembleSettings
from mac_bench.ring import Ring, Transitions
from mac_bench.sac import Sac, SacSettings, goal_bounds
from mac_bench.torch_agent import INIT, Learner, TorchAgent, choose_device, descend, generator, tensors
from mac_bench.types import Batch, Forecast, GoalSampling, Metrics, Sampling
from mac_bench.world_model import Sizes, WorldModel, hold_out

STARTS = 5
"""purpose number of the random stream that draws the states where imagined walks begin"""


class DynaSettings(EnsembleSettings, SacSettings):
    """Settings of all these methods; the defaults are those of MAC's comparison."""

    rollout_length: int = pydantic.Field(default=5, gt=0)
    """imagined steps in a row"""
    rollout_batch: int = pydantic.Field(default=50_000, gt=0)
    """logged states that one round of imagination starts from"""
    rollout_every: int = pydantic.Field(default=1000, gt=0)
    """updates between two rounds"""
    retain: int = pydantic.Field(default=5, gt=0)
    """rounds that the ring keeps; it is in every checkpoint: 405 MB at the defaults on cube-double"""
    real_fraction: float = pydantic.Field(default=0.5, gt=0, lt=1)
    """of logged steps in what the policy learns from; the rest is imagined"""
    batch_size: int = pydantic.Field(default=1024, gt=1)
    """steps that the policy learns from in one update; the model learns from as many logged ones"""
    value_goals: GoalMix = GoalMix(current=0.2, future=0.5, random=0.3)
    actor_goals: GoalMix = GoalMix(current=0.0, future=0.5, random=0.5, geometric=True)
    scaling: ScalingKind = "minmax"


class Starts:
    """Logged states, with goals, where imagined walks begin: a function of the step."""

    def __init__(self, data: Dataset, sampling: Sampling, scalings: Scalings, seed: int, device: torch.device):
        self.data, self.sampling, self.scalings, self.seed, self.device = data, sampling, scalings, seed, device

    def __call__(self, step: int) -> Batch:
        """Tensors of `rollout_batch` pieces of length 1."""
        return tensors(self.data.sample(self.sampling, self.seed, step, STARTS), self.scalings, self.device)


class Dyna(nn.Module):
    """World model, policy, and the imagined steps between them."""

    def __init__(self, c: Any, model: WorldModel, sac: Sac, starts: Starts):
        super().__init__()
        self.c, self.model, self.sac, self.starts = c, model, sac, starts
        self.ring = Ring(c.rollout_batch * c.rollout_length * c.retain, model.real(starts(0)))

    def policy_losses(
        self, batch: Batch, random: torch.Generator
    ) -> tuple[dict[str, tuple[Learner, Tensor]], dict[str, Tensor]]:
        """What makes the method: losses of the policy's side, and what to record."""
        raise NotImplementedError

    def update(self, batch: Batch, step: int, random: torch.Generator) -> Metrics:
        """One step of everything, all from the same old parameters; of the model alone while it is pretrained."""
        losses, metrics = self.model.losses(batch, random), {}
        if self.model.ready:
            if step % self.c.rollout_every == 0 or not len(self.ring):
                self.ring.add(self.imagine(step, random))
            more, metrics = self.policy_losses(batch, random)
            losses |= more
            # the slow copy follows the parameters of before this step, as in all methods here
            self.sac.follow()
        return descend(losses) | metrics | self.model.look(step)

    def imagine(self, step: int, random: torch.Generator) -> Transitions:
        """One round of imagination."""
        return self.model.imagine(
            lambda obs, goal: self.sac.sample(obs, goal, random)[0], self.starts(step), self.c.rollout_length, random
        )

    def draw(self, batch: Batch, random: torch.Generator) -> tuple[Transitions, Transitions]:
        """Logged and imagined steps, together as many as the batch has."""
        number = min(max(round(self.c.real_fraction * len(batch.obs)), 1), len(batch.obs) - 1)
        return self.model.real(batch).rows(slice(number)), self.ring.draw(len(batch.obs) - number, random)

    def act(self, obs: Tensor, goal: Tensor | None, random: torch.Generator) -> Tensor:
        """The policy's mode: [N, O] -> [N, 1, A]."""
        return self.sac.best(obs, goal)[:, None]

    def forecast(self, obs: Tensor, actions: Tensor) -> Forecast:
        """Of the world model."""
        return self.model.forecast(obs, actions)


def make_dyna(method: type[Dyna], c: DynaSettings, data: Dataset, seed: int) -> TorchAgent:
    """An agent for these data; goal-conditioned where they have goals."""
    device, scalings, sizes = choose_device(), fit(c.scaling, "train", data), Sizes.of(data)
    goals = None if data.goals is None else GoalSampling(c.value_goals, c.actor_goals, c.discount)
    bounds = None if goals is None else goal_bounds(c.discount, c.goal_reward)
    sampling, random = Sampling(c.batch_size, 1, goals), generator(seed, INIT, 0, device)
    starts = Starts(data, sampling._replace(batch_size=c.rollout_batch), scalings, seed, device)
    with device:
        model = WorldModel(c, sizes, hold_out(data, scalings, device), random, c.learning_rate, c.layer_norm)
        module = method(c, model, Sac(c, sizes, random, bounds), starts)
    return TorchAgent(module, sampling=sampling, scalings=scalings, seed=seed, device=device)
