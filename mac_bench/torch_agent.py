"""From PyTorch modules to an Agent: the shell that all torch methods share, the twin of `jax_agent.py`.

A method is a module with

    update(batch, step, random) -> metrics      one training step
    act(obs, goal, random) -> actions [N, K, A]
    forecast(obs, actions) -> Forecast          only with a world model

which see scaled tensors on one device. Everything it learns, optimiser and buffers included, is in its `state_dict`:
that is the checkpoint. `random` is made anew for each call from (seed, purpose, step), so no generator has a state.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mac_bench.data import Scaling, Scalings
from mac_bench.errors import UserError
from mac_bench.files import read_checkpoint, write_checkpoint
from mac_bench.types import Batch, Forecast, Goals, Metrics, Sampling

INIT, UPDATE, ACT = 11, 12, 13
"""purpose numbers of the random streams"""


def choose_device() -> torch.device:
    """The first GPU, else the CPU; MAC_BENCH_TORCH_DEVICE says otherwise. Never part of what makes a run."""
    wanted = os.environ.get("MAC_BENCH_TORCH_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        probe = torch.zeros(1, device=wanted)
        probe.cpu()  # of the device 'meta', which has no numbers, only this fails
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"torch cannot use '{wanted}' ({reason}); set MAC_BENCH_TORCH_DEVICE, e.g. to 'cpu'") from None
    return probe.device


def generator(seed: int, purpose: int, step: int, device: torch.device) -> torch.Generator:
    """A fresh stream, a function of its arguments alone."""
    words = np.random.SeedSequence([seed, purpose, step]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(words[0] >> np.uint64(1)))


class Learner(nn.Module):
    """One network with its own Adam, whose moments are buffers, so that `state_dict` has all there is.

    Make it on its device: moved later, the optimiser would keep the old tensors.
    """

    def __init__(self, network: nn.Module, learning_rate: float):
        super().__init__()
        self.network: Any = network
        self.optimizer = torch.optim.Adam(network.parameters(), learning_rate, fused=True)
        for number, p in enumerate(network.parameters()):
            moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            self.optimizer.state[p] = state = {"step": torch.zeros((), device=p.device), **moments}
            for name, value in state.items():
                self.register_buffer(f"adam_{number}_{name}", value)

    def forward(self, *inputs: Any) -> Any:
        """The network's output."""
        return self.network(*inputs)


def descend(losses: dict[str, tuple[Learner, Tensor]]) -> dict[str, Tensor]:
    """One Adam step of each learner on its own loss, all gradients taken at the old parameters; returns the losses."""
    for learner, loss in losses.values():
        parameters = list(learner.network.parameters())
        for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.grad = gradient
    for learner, _ in losses.values():
        learner.optimizer.step()
        learner.optimizer.zero_grad()
    return {f"loss/{name}": loss.detach() for name, (_, loss) in losses.items()}


@torch.no_grad()
def follow(target: nn.Module, source: nn.Module, rate: float) -> None:
    """Exponential moving average of parameters, in place: rate source + (1 - rate) target."""
    for old, new in zip(target.parameters(), source.parameters(), strict=True):
        old.lerp_(new, rate)


def tensors(batch: Batch, scalings: Scalings, device: torch.device) -> Batch:
    """A batch as scaled tensors on the device."""
    moved = {name: _move(x, device) for name, x in batch._asdict().items() if name != "goals"}
    for name in ("obs", "next_obs", "path"):
        moved[name] = _scaled(scalings.obs, moved[name])
    goals = None
    if batch.goals is not None:
        goals = Goals(*(_move(x, device) for x in batch.goals))
        goals = goals._replace(value=_scaled(scalings.goal, goals.value), actor=_scaled(scalings.goal, goals.actor))
    return Batch(**moved, goals=goals)


class TorchAgent:
    """An Agent around a method; see the top of this file."""

    def __init__(self, method: Any, *, sampling: Sampling, scalings: Scalings, seed: int, device: torch.device):
        self.method, self.sampling, self.scalings = method, sampling, scalings
        self.seed, self.device = seed, device

    def update(self, batch: Batch, step: int) -> Metrics:
        """One step; the metrics stay on the device."""
        random = generator(self.seed, UPDATE, step, self.device)
        return self.method.update(tensors(batch, self.scalings, self.device), step, random)

    @torch.no_grad()
    def act(self, obs: np.ndarray, goal: np.ndarray | None, *, seed: int) -> np.ndarray:
        """[N, O], [N, G] -> [N, K, A]."""
        inputs = self._input(self.scalings.obs, obs), self._input(self.scalings.goal, goal)
        return self.method.act(*inputs, generator(seed, ACT, 0, self.device)).cpu().numpy()

    @property
    def forecast(self) -> Callable[[np.ndarray, np.ndarray], Forecast] | None:
        """(obs [N, O], actions [N, T, A]) -> Forecast, in the units of the data; None without a world model."""
        return self._forecast if hasattr(self.method, "forecast") else None

    @torch.no_grad()
    def _forecast(self, obs: np.ndarray, actions: np.ndarray) -> Forecast:
        found = self.method.forecast(self._input(self.scalings.obs, obs), self._input(None, actions))
        return found._replace(states=self.scalings.obs.inverse(found.states.cpu().numpy()))

    def save(self, path: Path, step: int) -> None:
        """Plain arrays under their names in the method's `state_dict`."""
        write_checkpoint(path, self._saved(), step)

    def load(self, path: Path) -> int:
        """Raises UserError where names or shapes differ from this agent's."""
        arrays, step = read_checkpoint(path, self._saved())
        kept = self.scalings._asdict().items()
        self.scalings = Scalings(**{part: s and Scaling(*(arrays.pop(n) for n in _names(part))) for part, s in kept})
        self.method.load_state_dict({name: torch.from_numpy(x) for name, x in arrays.items()})
        return step

    def _saved(self) -> dict[str, np.ndarray]:
        arrays = {name: x.cpu().numpy() for name, x in self.method.state_dict().items()}
        for part, scaling in self.scalings._asdict().items():
            arrays |= dict(zip(_names(part), scaling, strict=True)) if scaling is not None else {}
        return arrays

    def _input(self, scaling: Scaling | None, x: np.ndarray | None) -> Any:
        return _scaled(scaling, _move(x, self.device))


def _names(part: str) -> list[str]:
    """What the two arrays of a scaling are called in a checkpoint."""
    return [f"scalings/{part}/{name}" for name in Scaling._fields]


def _move(x: Any, device: torch.device) -> Any:
    # torch has no read-only tensors, and a memory-mapped array is read-only
    return None if x is None else torch.from_numpy(np.require(x, requirements=("C", "W"))).to(device, non_blocking=True)


def _scaled(scaling: Scaling | None, x: Any) -> Any:
    if x is None or scaling is None:
        return x
    shift, scale = (_move(part, x.device) for part in scaling)
    return (x - shift) / scale
