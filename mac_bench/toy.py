"""A lane: a small long-horizon task whose optimum is known. For tests and for understanding, never a benchmark.

A walker stands at x in [0, length]. The lane winds: its heading turns once in every TURN units, and an action moves the
walker by its component along the heading, at most one unit. From the left end the far end is `length` steps away, with
reward -1 for each, so that the horizon is the length and the best return is known exactly:

    x' = clip(x + clip(a . h(x), -1, 1), 0, length),   h(x) = (cos, sin)(2 pi x / TURN),   obs = (x, h(x))

The logged walkers go forwards or backwards with equal probability and change their mind every SWITCH steps or so:
cloning them leads nowhere, and whoever composes the forward pieces arrives. From 40 on no logged episode leads from end
to end; of a lane of 20 one in eleven does, and of 10 nearly half, which still ask for knowing forwards from backwards.
"""

from typing import NamedTuple

import numpy as np

from mac_bench.data import Dataset
from mac_bench.types import Agent

OBS, ACTION, GOAL = 3, 2, 1
TURN = 20.0
SWITCH = 15
EPISODE = 60
"""transitions of a logged episode, however long the lane is"""
REACHED = 0.5
"""distance from a goal that counts as being there"""
NOISE = 0.2
"""deviation of the logged actions, in each axis"""
PATIENCE = 3
"""an attempt may take so many times the shortest time"""


def observe(x: np.ndarray) -> np.ndarray:
    """Positions [N] -> observations [N, 3]."""
    angle = 2 * np.pi * x / TURN
    return np.stack([x, np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def move(x: np.ndarray, actions: np.ndarray, length: float) -> np.ndarray:
    """Positions [N] and actions [N, 2] -> the next positions [N]."""
    progress = (np.clip(actions, -1, 1) * observe(x)[:, 1:]).sum(axis=1)
    return np.clip(x + np.clip(progress, -1, 1), 0, length)


def best_return(x: np.ndarray, length: float) -> np.ndarray:
    """The highest sum of rewards from positions [N]: -1 for each full step that it takes to be within REACHED."""
    return -np.ceil(np.maximum(length - REACHED - x, 0))


def logged(length: float, goals: bool, episodes: int = 500, seed: int = 0) -> Dataset:
    """Episodes of the undecided walkers from everywhere on the lane; a tenth more for validation."""
    held_out = max(1, episodes // 10)
    return _walk(length, goals, episodes, [seed, 0], _walk(length, goals, held_out, [seed, 1]))


def _walk(length: float, goals: bool, episodes: int, seed: list[int], validation: Dataset | None = None) -> Dataset:
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, length, episodes)
    forward = rng.choice([-1.0, 1.0], episodes)
    positions, actions = [], []
    for _ in range(EPISODE + 1):
        forward = np.where(rng.random(episodes) < 1 / SWITCH, -forward, forward)
        speed = forward * rng.uniform(0.5, 1.0, episodes)
        action = speed[:, None] * observe(x)[:, 1:] + NOISE * rng.normal(size=(episodes, ACTION))
        # no action at +-1 exactly: a tanh policy would give it infinite density
        action = np.clip(action, -0.999, 0.999)
        positions.append(x)
        actions.append(action)
        x = move(x, action, length)
    x = np.stack(positions, axis=1).reshape(-1)  # [N]
    there = x >= length - REACHED
    return Dataset(
        observations=observe(x),
        actions=np.stack(actions, axis=1).reshape(-1, ACTION).astype(np.float32),
        ends=np.arange(1, episodes + 1) * (EPISODE + 1) - 1,
        rewards=None if goals else there.astype(np.float32) - 1,
        alive=None if goals else 1 - there.astype(np.float32),
        goals=x[:, None].astype(np.float32) if goals else None,
        validation=validation,
    )


class Score(NamedTuple):
    """How an agent did on the whole way."""

    success: float
    """fraction of walkers that arrived before their time was up"""
    regret: float
    """mean of (best return - return) / -best return: 0 is optimal, PATIENCE - 1 is not to arrive"""


def evaluate(agent: Agent, length: float, goals: bool, episodes: int = 50, seed: int = 0) -> Score:
    """Let walkers go from the left end to the right one, all at once, each for PATIENCE times the shortest time."""
    x = np.random.default_rng([seed, 2]).uniform(0, 1, episodes)
    best = best_return(x, length)
    goal = np.full((episodes, GOAL), length, np.float32) if goals else None
    returns, there, step = np.zeros(episodes), np.zeros(episodes, bool), 0
    limit = int(-PATIENCE * best.min())
    while step < limit and not there.all():
        for action in agent.act(observe(x), goal, seed=step).swapaxes(0, 1):  # [K, N, A]
            there |= x >= length - REACHED
            going = ~there & (step < -PATIENCE * best)
            returns[going] -= 1
            x = np.where(going, move(x, action, length), x)
            step += 1
    there |= x >= length - REACHED
    return Score(float(there.mean()), float(((best - returns) / -best).mean()))
