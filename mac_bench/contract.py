"""What every agent must pass, ours or a user's own: run by `tests/test_agents.py` and by `mac-bench check-agent`.

The checks use small networks (every setting with `hidden` in its name becomes (32, 32)), small batches, and a toy whose
optimal behaviour is known: points on a square that were walked towards a corner by a noisy but sensible policy. An
agent that can act in certain environments alone also has `toy(goals) -> Dataset` in its module: data of one of them.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mac_bench import registry
from mac_bench.data import Dataset
from mac_bench.errors import UserError
from mac_bench.files import read_arrays
from mac_bench.types import Agent

OBS, ACTION, GOAL = 4, 2, 3
LONG = 300
"""updates of the learning check"""


class Check(NamedTuple):
    """One check of one agent in one mode."""

    name: str
    run: Callable[[], None]
    """raises AssertionError with the reason where the agent fails"""
    goals: bool | None = None
    """its mode: data with goals, or with rewards; None where that plays no part"""


def toy(goals: bool, episodes: int = 30, length: int = 60) -> Dataset:
    """Walks on a square: obs is (x, y) and their squares, actions step to a corner with noise, reward is -distance."""
    rng = np.random.default_rng(0)
    position = rng.uniform(-1, 1, (episodes, 2))
    obs, actions = [], []
    for _ in range(length + 1):
        action = np.clip(np.sign(1 - position) * 0.5 + rng.normal(size=position.shape) * 0.3, -0.99, 0.99)
        obs.append(np.concatenate([position, position**2], axis=1))
        actions.append(action)
        position = np.clip(position + 0.1 * action, -1, 1)
    rows = np.stack(obs, axis=1).reshape(-1, OBS).astype(np.float32)
    distance = np.linalg.norm(rows[:, :2] - 1, axis=1).astype(np.float32)
    return Dataset(
        observations=rows,
        actions=np.stack(actions, axis=1).reshape(-1, ACTION).astype(np.float32),
        ends=np.arange(1, episodes + 1) * (length + 1) - 1,
        rewards=None if goals else -distance,
        alive=None if goals else (distance > 0.1).astype(np.float32),
        goals=rows[:, :GOAL] if goals else None,
    )


def small(name: str) -> dict[str, Any]:
    """Settings that make an agent of this name small enough to be checked in seconds."""
    fields = registry.module(name).Config.model_fields
    sizes = {key: [32, 32] for key in fields if "hidden" in key}
    return sizes | {key: 32 for key in ("batch_size", "rollout_batch") if key in fields}


def checks(name: str, only: Iterable[bool] | None = None) -> Iterator[Check]:
    """All checks of an agent, in these modes, or in all that its `make` does not refuse. UserError: no such agent."""
    registry.module(name)
    yield Check("unknown setting refused with the valid names", lambda: _refuses(name))
    for goals in modes(name) if only is None else only:
        mode = "goals" if goals else "rewards"
        for title, check in _CHECKS.items():
            yield Check(f"{mode}: {title}", lambda check=check, goals=goals: check(name, goals), goals)


@cache
def modes(name: str) -> list[bool]:
    """Whether data have goals, for each kind that the agent takes; it refuses the other by a UserError from `make`."""
    found, reasons = [], []
    for goals in (False, True):
        try:
            _make(name, goals)
            found.append(goals)
        except UserError as error:
            reasons.append(str(error))
    if not found:
        raise UserError(f"agent {name} can be made neither for rewards nor for goals: {'; '.join(reasons)}")
    return found


@cache
def _data(name: str, goals: bool) -> Dataset:
    return getattr(registry.module(name), "toy", toy)(goals)


def _make(name: str, goals: bool, seed: int = 0) -> Agent:
    return registry.make(name, small(name), _data(name, goals), seed)


def _train(name: str, agent: Agent, goals: bool, first: int, last: int) -> list[dict[str, float]]:
    data = _data(name, goals)
    return [
        {key: float(value) for key, value in agent.update(data.sample(agent.sampling, 0, step), step).items()}
        for step in range(first, last + 1)
    ]


def _ask(name: str, agent: Agent, goals: bool, number: int = 5, seed: int = 7) -> np.ndarray:
    data = _data(name, goals)
    goal = data.goals[100 : 100 + number] if data.goals is not None else None
    return agent.act(data.observations[:number], goal, seed=seed)


def _acts(name: str, goals: bool) -> None:
    actions = _ask(name, _make(name, goals), goals)
    assert isinstance(actions, np.ndarray), f"act returns {type(actions).__name__}, not a NumPy array"
    size = _data(name, goals).actions.shape[1]
    assert actions.ndim == 3 and actions.shape[0] == 5 and actions.shape[2] == size, (
        f"act returns shape {actions.shape} for 5 environments and {size} actions; it must be [5, K, {size}]"
    )
    assert actions.shape[1] >= 1 and np.abs(actions).max() <= 1, "actions must lie in [-1, 1]"


def _repeats(name: str, goals: bool) -> None:
    first, again, other = (_make(name, goals, seed) for seed in (0, 0, 1))
    histories = [_train(name, agent, goals, 1, 3) for agent in (first, again, other)]
    np.testing.assert_array_equal(
        _ask(name, first, goals), _ask(name, again, goals), "the same seed gives other actions"
    )
    np.testing.assert_array_equal(_ask(name, first, goals), _ask(name, first, goals), "asked twice, other actions")
    if histories[0][0]:
        assert (_ask(name, first, goals) != _ask(name, other, goals)).any(), "another seed gives the same agent"


def _resumes(name: str, goals: bool) -> None:
    whole, before, after = (_make(name, goals) for _ in range(3))
    expected = _train(name, whole, goals, 1, 6)[3:]
    _train(name, before, goals, 1, 3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.npz"
        before.save(path, 3)
        assert after.load(path) == 3, "load must return the step that was saved"
        assert _train(name, after, goals, 4, 6) == expected, "metrics after save, load and continue differ"
        ends = []
        for number, agent in enumerate((whole, after)):
            agent.save(Path(folder) / f"{number}.npz", 6)
            ends.append(read_arrays(Path(folder) / f"{number}.npz"))
        for key, value in ends[0].items():
            np.testing.assert_array_equal(ends[1][key], value, f"{key} after save, load and continue differs")


def _improves(name: str, goals: bool) -> None:
    history = _train(name, _make(name, goals), goals, 1, LONG)
    if not history[0]:  # an agent that learns nothing reports nothing
        return
    losses = [sum(value for key, value in m.items() if key.startswith("loss/")) for m in history]
    assert any(key.startswith("loss/") for key in history[0]), "an agent that learns reports its losses as 'loss/…'"
    begin, end = np.mean(losses[:20]), np.mean(losses[-20:])
    assert end < 0.9 * begin, f"the losses do not fall on the toy: {begin:.3g} at first, {end:.3g} after {LONG} updates"


def _is_single(name: str, goals: bool) -> None:
    agent = _make(name, goals)
    _train(name, agent, goals, 1, 2)
    assert _ask(name, agent, goals).dtype == np.float32, "actions must be float32"
    with tempfile.TemporaryDirectory() as folder:
        agent.save(Path(folder) / "checkpoint.npz", 2)
        arrays = read_arrays(Path(folder) / "checkpoint.npz")
    double = [key for key, value in arrays.items() if value.dtype in (np.float64, np.float16)]
    assert not double, f"not float32: {', '.join(double)}"


def _fits_only(name: str, goals: bool) -> None:
    agent, data = _make(name, goals), _data(name, goals)
    wide = replace(
        data, observations=np.repeat(data.observations, 2, axis=1), actions=np.repeat(data.actions, 2, axis=1)
    )
    with tempfile.TemporaryDirectory() as folder:
        agent.save(Path(folder) / "checkpoint.npz", 1)
        try:
            registry.make(name, small(name), wide, 0).load(Path(folder) / "checkpoint.npz")
        except UserError:
            return
    raise AssertionError("load accepts a checkpoint of data with other dimensions; it must raise UserError")


def _refuses(name: str) -> None:
    try:
        registry.settings(name, {"no_such_setting": 1}, "settings")
    except UserError as error:
        valid = registry.module(name).Config.model_fields
        assert all(key in str(error) for key in valid), f"the error does not name the valid settings: {error}"
        return
    raise AssertionError("an unknown setting is accepted; derive Config from mac_bench.config.Settings")


_CHECKS: dict[str, Callable[[str, bool], None]] = {
    "actions are [N, K, A] in [-1, 1]": _acts,
    "same seed, same actions; other seed, other actions": _repeats,
    "save, load and continue equals uninterrupted, bit for bit": _resumes,
    "losses fall on the toy": _improves,
    "float32 only": _is_single,
    "a checkpoint for other dimensions is refused": _fits_only,
}
