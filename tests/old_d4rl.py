"""A stand-in for gym, mujoco_py and D4RL's package, written as modules into a folder: it keeps to their old calls.

`reset()` takes nothing and gives an observation, `step` four things, `seed` is a call of its own; TimeLimit says
`TimeLimit.truncated` only at the limit; actions outside of the box are refused; a maze draws its goal from NumPy's
global generator at every reset; and the package swallows the errors of its parts.
"""

from pathlib import Path

GYM = """
import numpy as np
__version__ = "0.23.1"
SPECS = {}

class Box:
    def __init__(self, low, high, shape):
        self.low, self.high, self.shape = np.full(shape, low), np.full(shape, high), shape
    def contains(self, x):
        return x.shape == self.shape and (x >= self.low).all() and (x <= self.high).all()
    def seed(self, seed=None):
        assert isinstance(seed, int)

class Env:
    @property
    def unwrapped(self):
        return self
    def seed(self, seed=None):
        self.np_random = np.random.RandomState(seed)
        return [seed]
    def close(self):
        pass

class TimeLimit(Env):
    def __init__(self, env, limit):
        self.env, self.limit, self.elapsed = env, limit, None
        self.action_space = env.action_space
    def seed(self, seed=None):
        return self.env.seed(seed)
    def reset(self):
        self.elapsed = 0
        return self.env.reset()
    def step(self, action):
        assert self.elapsed is not None, "reset first"
        assert self.action_space.contains(action)
        obs, reward, done, info = self.env.step(action)
        self.elapsed += 1
        if self.elapsed >= self.limit:
            info["TimeLimit.truncated"] = not done
            done = True
        return obs, reward, done, info

def register(id, entry_point, max_episode_steps, kwargs):
    SPECS[id] = entry_point, max_episode_steps, kwargs

def make(id):
    entry_point, limit, kwargs = SPECS[id]
    return TimeLimit(entry_point(**kwargs), limit)
"""

D4RL = """
import sys
__version__ = "1.1"
try:
    import d4rl.gym_mujoco, d4rl.locomotion
except ImportError as error:
    print("Warning: Mujoco-based envs failed to import.", error, file=sys.stderr)
"""

ROBOTS = '''
import gym, mujoco_py
import numpy as np

class Hopper(gym.Env):
    """Pays 2 for each step, and falls where its first number, which is drawn, and its actions come to 3."""
    action_space = gym.Box(-1, 1, (3,))
    def __init__(self):
        self.seed(0)
    def reset(self):
        self.fallen = self.np_random.uniform()
        return self._obs()
    def step(self, action):
        self.fallen += action[0]
        return self._obs(), 2.0, bool(self.fallen > 3), {}
    def _obs(self):
        return np.full(11, self.fallen)

gym.register("hopper-medium-v2", Hopper, 1000, {})
'''

MAZES = '''
import gym, mujoco_py
import numpy as np

class AntMaze(gym.Env):
    """Walks as its first two actions say."""
    action_space = gym.Box(-1, 1, (8,))
    def __init__(self, corner):
        self.corner = np.array(corner)
        self.seed(0)
        self.set_target()
    def set_target(self):
        self.target_goal = self.corner + np.random.uniform(0, 1.5, 2)
    def reset(self):
        self.set_target()
        self.xy = self.np_random.uniform(-0.1, 0.1, 2)
        return self._obs()
    def step(self, action):
        self.xy = self.xy + action[:2]
        there = np.linalg.norm(self.xy - self.target_goal) <= 0.5
        return self._obs(), 1.0 if there else 0.0, bool(there), {}
    def _obs(self):
        return np.concatenate([self.xy, self.target_goal, np.zeros(25)])

gym.register("antmaze-umaze-v2", AntMaze, 700, {"corner": (0.0, 8.0)})
'''

FILES = {
    "gym/__init__.py": GYM,
    "mujoco_py/__init__.py": '__version__ = "2.1.2.14"\n',
    "d4rl/__init__.py": D4RL,
    "d4rl/gym_mujoco/__init__.py": ROBOTS,
    "d4rl/locomotion/__init__.py": MAZES,
}


def install(folder: Path, **other: str) -> None:
    """Write all modules; `other` says what is in that of a name (`mujoco_py`) instead."""
    for path, text in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(other.get(path.removesuffix("/__init__.py"), text))
