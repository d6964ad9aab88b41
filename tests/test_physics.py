"""The pinned MuJoCo moves these environments like the version that made the public data.

`ogbench_physics_fingerprint.npz` holds states, actions and, as MuJoCo 3.1.6 computed it, what one step leads to.
"""

from pathlib import Path

import numpy as np
import pytest

from mac_bench.tasks import GlobalStream, make_env

FINGERPRINT = Path(__file__).parent / "reference" / "ogbench_physics_fingerprint.npz"


def median_error(environment: str, kind: str) -> float:
    """Median over states of the largest error in the next observation (and joint positions, where they are stored)."""
    with np.load(FINGERPRINT, allow_pickle=False) as file:
        start = f"{environment}-v0/"
        stored = {name.removeprefix(start): file[name] for name in file.files if name.startswith(start)}
    env = make_env(f"{environment}-{kind}-v0").unwrapped
    errors = []
    with GlobalStream(0):
        env.reset(seed=0)
        for i, action in enumerate(stored["actions"]):
            state = [stored[name][i].astype(np.float64) for name in ("qpos", "qvel")]
            env.set_state(*state, *([stored["button_states"][i]] if "button_states" in stored else []))
            obs = env.step(action)[0]
            error = np.abs(obs - stored["next_obs"][i]).max()
            if "next_qpos" in stored:
                error = max(error, np.abs(env.data.qpos - stored["next_qpos"][i]).max())
            errors.append(error)
    env.close()
    return float(np.median(errors))


@pytest.mark.parametrize(
    "environment, kind, limit",
    [
        ("cube-single", "play", 1e-8),
        ("cube-double", "play", 1e-8),
        ("scene", "play", 1e-8),
        ("puzzle-3x3", "play", 2e-4),
        ("antmaze-medium", "navigate", 1e-9),
        ("humanoidmaze-medium", "navigate", 5e-7),
    ],
)
def test_one_step_agrees_with_the_version_that_made_the_public_data(environment, kind, limit):
    assert median_error(environment, kind) <= limit
