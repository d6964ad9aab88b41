"""Short films of episodes, drawn from stored states in a process of its own: no graphics driver can hurt a run."""

import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from mac_bench import tasks
from mac_bench.files import read_arrays, write_arrays

SIZE = 200
"""pixels, width and height"""
FRAMES_PER_SECOND = 20
BACKENDS = ("egl", "osmesa")
"""ways to draw without a display, tried in this order"""


def render(task_name: str, states: list[dict[str, np.ndarray]], path: Path, timeout_s: float = 120.0) -> str | None:
    """Write `path` (.gif or .mp4), one frame for each of `Env.state()`; the frames are a function of the states alone.

    Returns None when it is written, else one line that says why not; raises nothing that drawing can cause.
    """
    if path.suffix not in (".gif", ".mp4"):
        return f"{path.name}: videos are .gif or .mp4"
    if path.suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        return "no mp4 without the package imageio-ffmpeg; .gif needs nothing"
    if not states or not states[0]:
        return "no states, so nothing to draw"
    deadline, reasons = time.monotonic() + timeout_s, []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            stored = Path(folder) / "states.npz"
            write_arrays(stored, {name: np.stack([state[name] for state in states]) for name in states[0]})
            for backend in BACKENDS:
                reason = _draw_aside(task_name, stored, path, backend, deadline - time.monotonic())
                if reason is None:
                    return None
                reasons.append(f"{backend}: {reason}")
                if time.monotonic() >= deadline:
                    break
    except (OSError, ValueError, KeyError) as error:
        reasons.append(f"{type(error).__name__}: {error}")
    return f"no video, {'; '.join(reasons)}"


def _draw_aside(task_name: str, stored: Path, path: Path, backend: str, timeout_s: float) -> str | None:
    """One attempt in another process: None, or why it failed."""
    aside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    command = [sys.executable, "-m", "mac_bench.video", task_name, str(stored), str(aside)]
    try:
        done = subprocess.run(
            command, env=os.environ | {"MUJOCO_GL": backend}, capture_output=True, text=True, timeout=timeout_s
        )
        # An EGL context may complain while the interpreter ends: what counts is the exit code and the file.
        if done.returncode == 0 and aside.exists():
            os.replace(aside, path)
            return None
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        return f"not done after {timeout_s:.1f} s"
    finally:
        aside.unlink(missing_ok=True)


def draw(task_name: str, states: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Frames [SIZE, SIZE, 3] uint8 of states, each array [F, ...]. Needs MUJOCO_GL to name a backend that works."""
    mujoco: Any = importlib.import_module("mujoco")  # its native half has no types
    env = tasks.Env(tasks.find(task_name))
    raw = env.raw
    # full shadows and multisampling cost ten times as much as all else
    raw.model.vis.quality.offsamples = 0
    camera = raw.custom_camera if hasattr(raw, "custom_camera") else "front"
    frames = []
    with mujoco.Renderer(raw.model, SIZE, SIZE) as renderer:
        for index in range(len(states["qpos"])):
            _pose(raw, {name: column[index] for name, column in states.items()})
            mujoco.mj_forward(raw.model, raw.data)
            renderer.update_scene(raw.data, camera=camera)
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
            frames.append(renderer.render())
    env.close()
    return frames


def _pose(raw: Any, state: dict[str, np.ndarray]) -> None:
    """Put an unwrapped environment into a state."""
    raw.data.qpos[:], raw.data.qvel[:] = state["qpos"], state["qvel"]
    if "mocap_pos" in state:
        raw.data.mocap_pos[:], raw.data.mocap_quat[:] = state["mocap_pos"], state["mocap_quat"]
    if "goal_xy" in state:
        raw.model.geom("target").pos[:2] = state["goal_xy"]
    if "button_states" in state:
        raw._cur_button_states = state["button_states"]
        raw._apply_button_states()


def main(task_name: str, stored: str, path: str) -> None:
    import imageio.v2 as imageio

    frames: list[Any] = draw(task_name, read_arrays(Path(stored)))
    if path.endswith(".gif"):
        imageio.mimsave(path, frames, duration=1000 / FRAMES_PER_SECOND, loop=0)
    else:
        imageio.mimsave(path, frames, fps=FRAMES_PER_SECOND, macro_block_size=8)


if __name__ == "__main__":
    main(*sys.argv[1:])
