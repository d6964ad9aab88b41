"""How wrong a world model is after k actions: it sees the first state of a held-out piece of trajectory and then only
the logged actions. This is the model-error figure of MAC (Park et al., ICLR 2026), for any agent that forecasts.

    error(k) = mean over pieces and dimensions of ((predicted s_{t+k} - logged s_{t+k}) / scale)^2

`scale` is half the range of each dimension in the training data (the min-max scaling), whatever scaling a method trains
with, so that methods can be compared. The yardstick is `still`, the error of predicting that nothing moves: a model
above it is worse than none. A forecast that diverges has an error of inf or NaN: that is a finding, and is shown.

The pieces are of the validation split, of which `dynamics_training: pretrained` also takes up to 1,000 transitions to
choose parameters and elites by: no model was trained on them, but such a model was chosen by some of them.
"""

import math
from typing import NamedTuple

import numpy as np

from mac_bench.data import Dataset, scaling_of
from mac_bench.errors import UserError
from mac_bench.types import Agent

PIECES = 4
"""purpose number of the random stream that draws the pieces"""

HORIZON = 100
"""actions ahead, as in the paper's figure"""

SHOWN = (10, 50, 100)
"""actions ahead of the numbers that stand for a whole curve"""

RECORDED = 64
"""pieces for each evaluation of a run"""


class Pieces(NamedTuple):
    """N held-out pieces of T actions."""

    states: np.ndarray
    """[N, T+1, O] s_t ... s_{t+T}"""
    actions: np.ndarray
    """[N, T, A]"""
    scale: np.ndarray
    """[O] half the range of each dimension in the training data"""


class Curve(NamedTuple):
    """Errors of one world model on some pieces; K states were predicted of each."""

    steps: np.ndarray
    """[K] int, actions ahead: the multiples of the model's stride"""
    error: np.ndarray
    """[K] of the model; inf or NaN where it diverged"""
    still: np.ndarray
    """[K] of predicting that nothing moves"""


def held_out(data: Dataset, horizon: int = HORIZON, pieces: int = RECORDED, seed: int = 0) -> Pieces | None:
    """So many pieces of the validation split, or fewer where it has not so many; a function of (data, horizon, pieces,
    seed) alone. None without such a split: an error on training data says nothing. Each piece lies inside one episode;
    where all episodes are shorter than `horizon`, pieces are as long as the longest."""
    validation = data.validation
    if validation is None:
        return None
    longest = int(np.diff(validation.ends, prepend=-1).max()) - 1  # an episode of T transitions has T + 1 rows
    horizon = min(horizon, longest)
    # a small split is drawn from more than once, but what is drawn twice is still one piece
    index = np.unique(validation.draw(np.random.default_rng([seed, PIECES]), pieces, horizon))
    batch = validation.pieces(index, horizon, path=True)
    assert batch.path is not None
    return Pieces(batch.path, batch.actions, scaling_of("minmax", data.statistics("observations")).scale)


def forecasts(agent: Agent) -> bool:
    """Whether the agent has a world model."""
    return getattr(agent, "forecast", None) is not None


def errors(agent: Agent, pieces: Pieces) -> Curve:
    """The curve of an agent that forecasts; empty where its model predicts over more actions than the pieces have.

    Raises UserError where what it predicts has another shape than Forecast says.
    """
    start, length = pieces.states[:, 0], pieces.actions.shape[1]
    states, stride = agent.forecast(start, pieces.actions)  # pyright: ignore[reportAttributeAccessIssue] # see Agent
    steps = np.arange(stride, length + 1, stride)
    logged = pieces.states[:, steps].astype(np.float64)  # [N, K, O]
    if states.shape != logged.shape:
        raise UserError(f"forecast with stride {stride} gives states {states.shape}, but {logged.shape} were logged")
    error, still = (_mean_square(guess - logged, pieces.scale) for guess in (states, start[:, None]))
    return Curve(steps, error, still)


def _mean_square(difference: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """[N, K, O] in float64, in which the square of no float32 overflows -> [K]."""
    return np.square(difference / scale).mean(axis=(0, 2))


def shown(steps: np.ndarray, horizon: int = HORIZON) -> list[int]:
    """Places in `steps` [K] of the few that stand for a curve: the last at or before each of SHOWN and `horizon`."""
    last = [int(np.searchsorted(steps, mark, side="right")) - 1 for mark in (*SHOWN, horizon) if mark <= horizon]
    return [place for place in dict.fromkeys(last) if place >= 0]


def recorded(agent: Agent, pieces: Pieces) -> dict[str, float | None]:
    """What a run writes down after an evaluation: `model_error/10` and so on, by actions ahead. What is not finite is
    None, as JSON has no word for it; the database and the charts make NaN of it."""
    curve = errors(agent, pieces)
    values = {f"model_error/{curve.steps[place]}": float(curve.error[place]) for place in shown(curve.steps)}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
