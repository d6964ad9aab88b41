"""The nouns that data, agents, trainer and evaluator share. NumPy only.

Sizes, in brackets, are the same letters everywhere: B batch, H horizon (actions in a piece), O observation,
A action, G goal, N candidates or environments, K actions that are executed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from mac_bench.config import GoalMix

Array = Any
"""A NumPy array on the data side, a traced JAX array inside a jitted function."""

Metrics = Mapping[str, Array]
"""Name -> scalar, which may stay on the device; the recorder turns it into a float at log steps only."""


class Goals(NamedTuple):
    """Relabelled goals of B pieces."""

    value: Array
    """[B, G] goals that values are trained for"""
    actor: Array
    """[B, G] goals that policies are trained for"""
    reached: Array
    """[B] 1 where the value goal lies inside the piece, t <= t_goal < t + H, else 0"""
    distance: Array
    """[B] actions from s_t to the value goal where that lies ahead in the same episode, t_goal - t, else inf"""


class Batch(NamedTuple):
    """B pieces of trajectory with H actions each; one-step methods use H = 1. No piece crosses an episode's end."""

    obs: Array
    """[B, O] s_t"""
    actions: Array
    """[B, H, A] a_t ... a_{t+H-1}"""
    rewards: Array
    """[B, H] r_t ... r_{t+H-1}; zeros where the task has no rewards"""
    next_obs: Array
    """[B, O] s_{t+H}"""
    alive: Array
    """[B, H] 1 while the task has not ended: alive[:, i] = 0 says that it ended at or before s_{t+i}"""
    index: Array
    """[B] row t of the dataset, for agents with tables of their own"""
    goals: Goals | None = None
    """only in goal-conditioned tasks"""
    path: Array | None = None
    """[B, H+1, O] s_t ... s_{t+H}, only where Sampling asks for it"""


class GoalSampling(NamedTuple):
    """Goal mixes for values and policies, and the discount that sets the geometric distance."""

    value: GoalMix
    actor: GoalMix
    discount: float


class Sampling(NamedTuple):
    """What an agent wants to be fed."""

    batch_size: int
    horizon: int = 1
    goals: GoalSampling | None = None
    path: bool = False


class Forecast(NamedTuple):
    """What a world model says will follow when T given actions are taken without looking at the world again."""

    states: Array
    """[N, T // stride, O] after `stride`, 2 `stride`, ... actions, in the units of the data"""
    stride: int
    """actions that the model predicts over at once: 1 for one-step models, n for chunks"""


class About(NamedTuple):
    """What stands beside a method in the table of `baselines/README.md`; its module calls it ABOUT."""

    paper: str
    """authors, year, arXiv number"""
    parity: str
    """what shows that this is the method: golden numbers, laws, learning, and in which test file"""
    defaults: str
    """where the default settings come from"""
    deviations: str = ""
    """from the reference, and why; empty where there are none"""


class Agent(Protocol):
    """All that the trainer and the evaluator know of an algorithm.

    One with a world model may also have `forecast(obs [N, O], actions [N, T, A]) -> Forecast`, in the units of the
    data; then its errors are recorded (model_error.py). Where it is None or missing, there is no world model.
    """

    sampling: Sampling

    def update(self, batch: Batch, step: int) -> Metrics:
        """One training step; everything random in it is a function of (the agent's seed, step)."""
        ...

    def act(self, obs: np.ndarray, goal: np.ndarray | None, *, seed: int) -> np.ndarray:
        """[N, O], [N, G] -> [N, K, A] in [-1, 1]: the K next actions of each of N environments."""
        ...

    def save(self, path: Path, step: int) -> None:
        """Write everything that `load` needs to one file of plain arrays, under its final name only when complete."""
        ...

    def load(self, path: Path) -> int:
        """Restore what `save` wrote and return its step. Raises UserError where it does not fit this agent."""
        ...
