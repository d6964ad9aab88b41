"""The networks of the methods in PyTorch: the twin of `nn.py`, with ensembles stacked into one product."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOG_STD_LOW, LOG_STD_HIGH = -5.0, 2.0
"""bounds of a policy's log-deviation before the tanh; those of MAC's comparison"""
LOG_2PI = math.log(2 * math.pi)


class MLP(nn.Module):
    """Dense, GELU (tanh form), LayerNorm after each activation, and a plain last layer, for `members` at once.

    `inputs` are the widths of what it is called with. Weights are [members, in, out], so that an ensemble is one
    batched product; `members=None` is one network without that axis.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        hidden: Sequence[int],
        out: int,
        random: torch.Generator,
        *,
        members: int | None = None,
        layer_norm: bool = True,
        last_scale: float = 1.0,
    ):
        super().__init__()
        self.members, self.layer_norm = members, layer_norm
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self.gains, self.shifts = nn.ParameterList(), nn.ParameterList()
        sizes = [sum(inputs), *hidden, out]
        for layer, (above, below) in enumerate(pairwise(sizes)):
            scale = last_scale if layer == len(hidden) else 1.0
            bound = math.sqrt(6 * scale / (above + below))  # flax's variance_scaling(scale, "fan_avg", "uniform")
            drawn = torch.rand((members or 1, above, below), generator=random, device=random.device)
            self.weights.append(nn.Parameter((2 * drawn - 1) * bound))
            self.biases.append(nn.Parameter(torch.zeros((members or 1, 1, below), device=random.device)))
            if layer_norm and layer < len(hidden):
                self.gains.append(nn.Parameter(torch.ones((members or 1, 1, below), device=random.device)))
                self.shifts.append(nn.Parameter(torch.zeros((members or 1, 1, below), device=random.device)))

    def forward(self, *inputs: Tensor | None) -> Tensor:
        """The same inputs [..., D_i] for all members, None left out -> [members, ..., out], or [..., out] for one."""
        x = torch.cat([x for x in inputs if x is not None], dim=-1)
        rows = x.reshape(1, -1, x.shape[-1]).expand(self.members or 1, -1, -1)
        out = self._layers(rows).unflatten(1, x.shape[:-1])
        return out[0] if self.members is None else out

    def each(self, *inputs: Tensor | None) -> Tensor:
        """To each member its own inputs [members, B, D_i] -> [members, B, out]."""
        return self._layers(torch.cat([x for x in inputs if x is not None], dim=-1))

    def _layers(self, x: Tensor) -> Tensor:
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if layer < last:
                x = F.gelu(x, approximate="tanh")
                if self.layer_norm:
                    x = F.layer_norm(x, x.shape[-1:], eps=1e-6) * self.gains[layer] + self.shifts[layer]
        return x


def gaussian(output: Tensor) -> tuple[Tensor, Tensor]:
    """A policy's output [..., 2 D] as mean and log-deviation [..., D], the latter within its bounds."""
    mean, log_std = output.chunk(2, dim=-1)
    return mean, log_std.clamp(LOG_STD_LOW, LOG_STD_HIGH)


def log_density(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of a diagonal Gaussian, summed over the last axis."""
    return (-0.5 * ((x - mean) / log_std.exp()).square() - log_std - 0.5 * LOG_2PI).sum(dim=-1)


def tanh_sample(output: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Actions in (-1, 1) of a tanh-Gaussian policy with this network output [..., 2 A], and their log-density [...].

    The gradient passes through the actions (reparameterised).
    """
    mean, log_std = gaussian(output)
    noise = torch.randn(mean.shape, generator=random, device=mean.device)
    raw = mean + log_std.exp() * noise
    # log(1 - tanh(x)^2) in a form that does not round to log(0)
    squash = 2 * (math.log(2) - raw - F.softplus(-2 * raw))
    return raw.tanh(), log_density(raw, mean, log_std) - squash.sum(dim=-1)
