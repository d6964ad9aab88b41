"""What the ensembles of one-step models in JAX (`gaussian.py`) and PyTorch (`world_model.py`) share.

Two ways to train a model (`dynamics_training`):

    joint        on every batch, beside the policy, as in MAC's comparison; every member is an elite
    pretrained   first and alone, as in MBPO and its descendants. Each member sees its own resampling, with replacement,
                 of each batch. Every `holdout_every` updates each member's squared error on held-out transitions is
                 measured; a member whose error is more than 1 % below that of its last kept parameters is kept anew.
                 When none was for `patience` measurements in a row, or after `model_updates` updates, each member goes
                 back to what was kept, the `elites` with the lowest error of those serve from then on, nothing of the
                 model learns any more, and the policy's training begins.
"""

from typing import Literal

import numpy as np
import pydantic

from mac_bench.config import Settings
from mac_bench.data import Dataset
from mac_bench.types import Batch

IMPROVEMENT = 0.01
"""relative fall of the held-out error that counts; the rule of MBPO and its descendants"""
HOLDOUT = 1000
"""held-out transitions at most"""
LOG_STD_LOW, LOG_STD_HIGH = -5.0, 1.0
"""between which a sigmoid takes the log-deviation of the next scaled state; those of MAC's comparison"""


class EnsembleSettings(Settings):
    """Settings of the world model; the defaults are those of MAC's comparison."""

    dynamics_training: Literal["joint", "pretrained"] = "joint"
    """together with the policy, or first and until the held-out error stops falling"""
    members: int = pydantic.Field(default=7, gt=0)
    """models in the ensemble"""
    elites: int = pydantic.Field(default=5, gt=0)
    """of them in use after pretraining; in joint training all are"""
    model_updates: int = pydantic.Field(default=100_000, gt=0)
    """pretraining: at most so many updates; they are part of the run's, which must be longer"""
    holdout_every: int = pydantic.Field(default=1000, gt=0)
    """pretraining: updates between two looks at the held-out error"""
    patience: int = pydantic.Field(default=5, gt=0)
    """pretraining: looks without improvement before it ends"""
    termination: Literal["never", "learned"] = "learned"
    """reward-based: whether a task's end is learned from the data's masks, or tasks never end"""
    goal_reward: Literal["-1/0", "0/1"] = "-1/0"
    """goal-conditioned: reward before / on reaching the goal"""
    model_hidden: tuple[int, ...] = (1024, 1024, 1024, 1024)
    """dynamics, reward and success"""

    @property
    def goal_cost(self) -> float:
        """What each step costs in goal-conditioned tasks."""
        return 1.0 if self.goal_reward == "-1/0" else 0.0

    @pydantic.model_validator(mode="after")
    def _has_elites(self):
        if self.dynamics_training == "pretrained" and self.elites > self.members:
            raise ValueError(f"elites is {self.elites}, but the ensemble has {self.members} members; set both")
        return self


def hold_out(data: Dataset) -> tuple[Batch, int]:
    """Transitions that no member trains on, the same for every seed, and the row of the training data from which on all
    are held out: beyond the last where there is a validation split to draw from, else where the last tenth of the
    episodes begins, or of a single episode the last tenth."""
    random, number = np.random.default_rng(0), len(data.observations)
    if data.validation is not None:
        return data.validation.pieces(np.unique(data.validation.draw(random, HOLDOUT, 1)), 1), number
    kept = len(data.ends) - max(1, len(data.ends) // 10)
    first = int(data.ends[kept - 1]) + 1 if kept else number * 9 // 10
    rows = np.setdiff1d(np.arange(first, number), data.ends)
    return data.pieces(np.sort(random.choice(rows, min(HOLDOUT, len(rows)), replace=False)), 1), first
