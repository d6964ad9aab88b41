"""Films are a function of the states, and what goes wrong with them is one line and never an exception."""

import importlib.util
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest

from mac_bench import tasks, video

POINT, CUBE = "pointmaze-medium-navigate-singletask-v0", "cube-single-play-singletask-v0"


def states_of(task_name: str) -> list[dict[str, np.ndarray]]:
    """Two states of an episode."""
    env = tasks.Env(tasks.find(task_name))
    env.reset(env.task.eval_tasks[0], 0)
    states = [env.state()]
    for _ in range(5):
        env.step(np.ones(env.action_size))
    return [*states, env.state()]


def film(task_name: str, states: list[dict[str, np.ndarray]], path: Path) -> np.ndarray:
    """[F, H, W, 3] frames as they were written."""
    reason = video.render(task_name, states, path)
    if reason is not None and "no video" in reason:
        pytest.skip(reason)
    assert reason is None
    return np.array([frame[..., :3] for frame in imageio.mimread(path)])


@pytest.mark.parametrize("task_name", [POINT, CUBE])
def test_frames_are_a_function_of_the_states(tmp_path, task_name):
    first, later = states_of(task_name)
    frames = film(task_name, [first, later, first], tmp_path / "new" / "film.gif")
    assert frames.shape == (3, video.SIZE, video.SIZE, 3)
    np.testing.assert_array_equal(frames[0], frames[2])
    assert (frames[0] != frames[1]).any()
    assert frames[0].std() > 10.0  # there is something to see
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["film.gif"]


def test_the_goal_is_in_the_picture(tmp_path):
    first = states_of(POINT)[0]
    moved = first | {"goal_xy": first["goal_xy"] - 8.0}
    frames = film(POINT, [first, moved], tmp_path / "film.gif")
    assert (frames[0] != frames[1]).any()


def test_failures_are_one_line(tmp_path, monkeypatch):
    states = states_of(POINT)
    assert video.render(POINT, states, tmp_path / "film.avi") == "film.avi: videos are .gif or .mp4"
    assert video.render(POINT, [], tmp_path / "film.gif") == "no states, so nothing to draw"
    late = video.render(POINT, states, tmp_path / "film.gif", timeout_s=0.05)
    assert late is not None and "not done after" in late
    monkeypatch.setattr(video, "BACKENDS", ("nonsense",))
    broken = video.render(POINT, states, tmp_path / "film.gif")
    assert broken is not None and "nonsense" in broken and "\n" not in broken
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "imageio-ffmpeg" in str(video.render(POINT, states, tmp_path / "film.mp4"))
    assert list(tmp_path.iterdir()) == []
