"""The environments of D4RL's own package, for those who have it and mujoco_py working: where a variable asks for it.

The package is older than gymnasium: `reset()` gives an observation, `step` four things, and seeds have a call of their
own. Goals of mazes are drawn from NumPy's global generator, which `tasks.Env` seeds.
"""

import os
from importlib import import_module
from typing import Any

import numpy as np

from mac_bench.errors import UserError

VARIABLE = "MAC_BENCH_D4RL"
"""`package` asks for these environments; without it they are those of d4rl.py"""
SIMULATOR = "d4rl-package"
MODULES = ("d4rl", "gym", "mujoco_py")
"""whose versions decide what they do"""


def wanted() -> bool:
    """Whether the variable asks for them. Raises UserError where it says something else."""
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "package"):
        raise UserError(f"{VARIABLE} is '{value}'; valid: package, or nothing for the simulators of mac-bench")
    return value == "package"


def require() -> None:
    """Raises UserError where they are asked for and cannot be had."""
    if wanted():
        _gym()


def _gym() -> Any:
    """The package's gym, with its environments registered."""
    try:
        # one by one: the package itself only prints which of its parts failed
        for module in (*MODULES, "d4rl.gym_mujoco", "d4rl.locomotion"):
            import_module(module)
    except Exception as error:  # mujoco_py raises whatever comes to its mind
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        raise UserError(
            f"{VARIABLE}=package, but it does not work here ({reason}); without it the simulators of mac-bench are used"
        ) from None
    return import_module("gym")


def simulator() -> str:
    """What results say of their physics."""
    _gym()
    versions = (f"{name} {getattr(import_module(name), '__version__', 'unknown')}" for name in MODULES)
    return f"{SIMULATOR} ({', '.join(versions)})"


class Env:
    """An environment of the package by its own name, with gymnasium's calls. There is nothing in it to be filmed."""

    draws = True
    """it may take NumPy's global generator while stepping"""

    def __init__(self, name: str):
        gym = _gym()
        self._env = gym.make(name)
        self._maze = name.startswith("antmaze")
        self.unwrapped, self.action_space = self, self._env.action_space
        if isinstance(self._env.reset(), tuple):
            raise UserError(f"{VARIABLE}=package: gym {gym.__version__} is too new for d4rl; install gym<0.24")

    def reset(self, *, seed: int, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the episode of a seed: obs [O]. There are no options."""
        self._env.seed(seed)
        return self._env.reset(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """obs [O], reward, over, out of time, and whether it is a success, which robots never have."""
        obs, reward, done, info = self._env.step(action)
        late = bool(info.get("TimeLimit.truncated", False))
        return obs, float(reward), bool(done and not late), late, {"success": self._maze and reward > 0}

    def close(self) -> None:
        self._env.close()
