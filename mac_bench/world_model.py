"""A one-step world model in PyTorch: an ensemble of Gaussians of the next state, a reward model, a success model.

`ensemble.py` has the settings, and the rule of pretraining (`dynamics_training`).
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mac_bench import ensemble
from mac_bench.data import Dataset, Scalings
from mac_bench.ensemble import IMPROVEMENT, LOG_STD_HIGH, LOG_STD_LOW, EnsembleSettings
from mac_bench.ring import Transitions
from mac_bench.torch_agent import Learner, tensors
from mac_bench.torch_nn import MLP, log_density
from mac_bench.types import Batch, Forecast


class Sizes(NamedTuple):
    """What networks are sized by."""

    obs: int
    action: int
    goal: int

    @classmethod
    def of(cls, data: Dataset) -> "Sizes":
        """Goal size 0 where the task has none."""
        return cls(data.observations.shape[1], data.actions.shape[1], 0 if data.goals is None else data.goals.shape[1])


class Holdout(NamedTuple):
    """What no member trains on."""

    transitions: Batch
    """tensors of at most HOLDOUT transitions"""
    first_row: int
    """rows of the training data from here on are held out; beyond the last where a validation split exists"""


def hold_out(data: Dataset, scalings: Scalings, device: torch.device) -> Holdout:
    """The same transitions for every seed."""
    transitions, first = ensemble.hold_out(data)
    return Holdout(tensors(transitions, scalings, device), first)


class WorldModel(nn.Module):
    """Dynamics, reward and end; everything scaled."""

    ready: Tensor
    """whether the policy may use the model: always in joint training; on the CPU, as asking a GPU would be to wait"""
    elites: Tensor
    """[E] their numbers"""
    looks: Tensor
    """at the held-out error, since the last improvement; on the CPU"""
    best: Tensor
    """[M] lowest held-out errors, for pretraining"""

    def __init__(
        self,
        c: EnsembleSettings,
        sizes: Sizes,
        holdout: Holdout,
        random: torch.Generator,
        learning_rate: float,
        layer_norm: bool,
    ):
        super().__init__()
        self.c, self.sizes, self.holdout = c, sizes, holdout

        def network(inputs: list[int], out: int, members: int | None = None) -> Learner:
            net = MLP(inputs, c.model_hidden, out, random, members=members, layer_norm=layer_norm)
            return Learner(net, learning_rate)

        everything = [sizes.obs, sizes.goal, sizes.action]
        self.dynamics = network([sizes.obs, sizes.action], 2 * sizes.obs, c.members)
        self.reward = network(everything, 1) if not sizes.goal else None
        self.success = network(everything, 1) if sizes.goal or c.termination == "learned" else None
        joint = c.dynamics_training == "joint"
        self.register_buffer("ready", torch.tensor(joint, device="cpu"))
        self.register_buffer("elites", torch.arange(c.members if joint else c.elites))
        self.register_buffer("looks", torch.zeros((), dtype=torch.long, device="cpu"))
        self.register_buffer("best", torch.full((c.members,), torch.inf))
        self.kept: Any = None if joint else copy.deepcopy(self.dynamics.network).requires_grad_(False)

    # -- learning ----------------------------------------------------------------------------------------------------

    def losses(self, batch: Batch, random: torch.Generator) -> dict[str, tuple[Learner, Tensor]]:
        """Losses of all networks on one batch; none once pretraining is over."""
        if self.c.dynamics_training == "pretrained" and self.ready:
            return {}
        action = batch.actions[:, 0]
        found = {"dynamics": (self.dynamics, self.dynamics_loss(batch, random))}
        goal = None if batch.goals is None else batch.goals.value
        if self.reward is not None:
            prediction = self.reward(batch.obs, goal, action)[..., 0]
            found["reward"] = self.reward, F.mse_loss(prediction, batch.rewards[:, 0])
        if self.success is not None:
            logit = self.success(batch.obs, goal, action)[..., 0]
            label = batch.goals.reached if batch.goals is not None else 1 - batch.alive[:, 0]
            found["success"] = self.success, F.binary_cross_entropy_with_logits(logit, label)
        return found

    def look(self, step: int) -> dict[str, Tensor]:
        """Pretraining: measure the held-out error every so often, keep what improved, end when nothing does."""
        if self.ready or (step % self.c.holdout_every and step < self.c.model_updates):
            return {}
        error = self.holdout_errors()
        self.judge(error)
        if self.looks >= self.c.patience or step >= self.c.model_updates:
            self.finish()
        return {"model/holdout_error": error.mean(), "model/best_error": self.best.mean()}

    @torch.no_grad()
    def holdout_errors(self) -> Tensor:
        """[M] mean squared error of each member's mean on the held-out transitions."""
        batch = self.holdout.transitions
        mean, _ = self.predict(batch.obs, batch.actions[:, 0])
        return (mean - batch.next_obs).square().mean(dim=(1, 2))

    @torch.no_grad()
    def judge(self, error: Tensor) -> None:
        """Keep the members whose error [M] fell by more than IMPROVEMENT below their best."""
        improved = error < (1 - IMPROVEMENT) * self.best
        for kept, current in zip(self.kept.parameters(), self.dynamics.network.parameters(), strict=True):
            kept[improved] = current[improved]
        self.best.copy_(torch.where(improved, error, self.best))
        self.looks.copy_(torch.zeros_like(self.looks) if improved.any() else self.looks + 1)

    @torch.no_grad()
    def finish(self) -> None:
        """Go back to what was kept, and choose the elites."""
        for kept, current in zip(self.kept.parameters(), self.dynamics.network.parameters(), strict=True):
            current.copy_(kept)
        self.elites.copy_(self.best.argsort()[: self.c.elites])
        self.ready.fill_(True)

    def dynamics_loss(self, batch: Batch, random: torch.Generator) -> Tensor:
        """Negative log-likelihood of the next state, per dimension, summed over members."""
        obs, action, following = batch.obs, batch.actions[:, 0], batch.next_obs
        if self.c.dynamics_training == "joint":
            density = log_density(following, *self.predict(obs, action))  # [M, B]
        else:
            shape = self.c.members, len(obs)
            own = torch.randint(len(obs), shape, generator=random, device=obs.device)  # [M, B]
            output = self.dynamics.network.each(obs[own], action[own])
            weight = (batch.index < self.holdout.first_row).to(obs)
            density = log_density(following[own], *_next_state(obs[own], output)) * weight[own]
        return -density.mean(dim=-1).sum() / obs.shape[-1]

    # -- use ---------------------------------------------------------------------------------------------------------

    def predict(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-deviation [M, ..., O] of the next state, by every member."""
        return _next_state(obs, self.dynamics(obs, action))

    def sample(self, obs: Tensor, action: Tensor, random: torch.Generator) -> Tensor:
        """A next state [B, O], for each row from one elite drawn at random."""
        mean, log_std = self.predict(obs, action)
        number = torch.randint(len(self.elites), obs.shape[:1], generator=random, device=obs.device)
        rows = self.elites[number], torch.arange(len(obs), device=obs.device)
        noise = torch.randn(obs.shape, generator=random, device=obs.device)
        return mean[rows] + log_std[rows].exp() * noise

    def outcome(self, obs: Tensor, goal: Tensor | None, action: Tensor) -> tuple[Tensor, Tensor]:
        """Reward and alive [B] of acting in a state; its end is a hard decision at probability one half."""
        success = torch.zeros(obs.shape[:-1], device=obs.device)
        if self.success is not None:
            success = (self.success(obs, goal, action)[..., 0] > 0).to(obs)
        if self.reward is not None:
            return self.reward(obs, goal, action)[..., 0], 1 - success
        return success - self.c.goal_cost, 1 - success

    @torch.no_grad()
    def imagine(
        self, policy: Callable[[Tensor, Tensor | None], Tensor], start: Batch, length: int, random: torch.Generator
    ) -> Transitions:
        """[length * R] transitions: from each of R states, `length` steps of policy(obs, goal) -> action."""
        obs, found = start.obs, []
        goals = (None, None) if start.goals is None else (start.goals.value, start.goals.actor)
        for _ in range(length):
            action = policy(obs, goals[0])
            reward, alive = self.outcome(obs, goals[0], action)
            following = self.sample(obs, action, random)
            found.append(Transitions(obs, action, reward, alive, following, *goals))
            obs = following
        return Transitions.join(found)

    def real(self, batch: Batch) -> Transitions:
        """Logged steps with the rewards of their goals, where they have goals."""
        if batch.goals is None:
            goals, reward, alive = (None, None), batch.rewards[:, 0], batch.alive[:, 0]
            alive = alive if self.c.termination == "learned" else torch.ones_like(alive)
        else:
            goals, alive = (batch.goals.value, batch.goals.actor), 1 - batch.goals.reached
            reward = batch.goals.reached - self.c.goal_cost
        return Transitions(batch.obs, batch.actions[:, 0], reward, alive, batch.next_obs, *goals)

    def forecast(self, obs: Tensor, actions: Tensor) -> Forecast:
        """Open loop from obs [N, O] under actions [N, T, A]: at each step the mean of the elites' means."""
        states = []
        for action in actions.unbind(dim=1):
            mean, _ = self.predict(obs, action)
            obs = mean[self.elites].mean(dim=0)
            states.append(obs)
        return Forecast(torch.stack(states, dim=1), stride=1)


def _next_state(obs: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-deviation [..., O] that a network's output [..., 2 O] says of the state after obs [..., O]."""
    change, raw = output.chunk(2, dim=-1)
    return obs + change, LOG_STD_LOW + (LOG_STD_HIGH - LOG_STD_LOW) * raw.sigmoid()
