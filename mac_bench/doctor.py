"""What works on this machine, as lines with advice. What could hang or crash is tried in a process of its own."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from rich.console import Console
from rich.markup import escape

from mac_bench import __version__
from mac_bench.overview import plain_table

TIMEOUT_S = 60.0
PHYSICS = "3.3.7"
"""the mujoco whose physics are those of the public data; pyproject.toml pins the same"""
NEEDED = ("numpy", "jax", "flax", "optax", "ogbench", "gymnasium", "dm_control", "h5py", "sqlalchemy", "pandas")

JAX = "import jax; print(jax.__version__, 'on', ', '.join(d.device_kind for d in jax.devices()))"
TORCH = "import torch; print(torch.__version__, 'with CUDA' if torch.cuda.is_available() else 'without CUDA')"
DRAW = """
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><light/><geom size="1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    assert renderer.render().any()
print("draws")
"""


class Finding(NamedTuple):
    """One line of the examination."""

    level: Literal["works", "absent", "broken"]
    what: str
    text: str


def show(console: Console, findings: Iterable[Finding]) -> None:
    """Print each finding as soon as it is there."""
    marks = {"works": "[green]✓[/]", "absent": "[yellow]\N{EN DASH}[/]", "broken": "[red]✗[/]"}
    for finding in findings:
        table = plain_table("", "", "", header=False)
        table.columns[1].width = 9
        table.add_row(marks[finding.level], finding.what, escape(finding.text))
        console.print(table)


def examine(root: Path, data: Path) -> Iterator[Finding]:
    """All findings, one after the other; the slow ones take some seconds each. Raises nothing."""
    yield Finding("works", "mac-bench", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    yield _cores()
    yield _packages()
    yield _mujoco()
    yield jax()
    yield _torch()
    yield _drawing()
    yield _slurm()
    yield from _data(data)
    yield _disk(root)


def _cores() -> Finding:
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("works", "cores", f"{mine} for this process; `mac-bench run --jobs N` shares them among N runs")


def _packages() -> Finding:
    versions = {name: _version(name) for name in NEEDED}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        return Finding("broken", "packages", f"{', '.join(missing)} missing; install the project again")
    return Finding("works", "packages", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _mujoco() -> Finding:
    version = _version("mujoco")
    if version == PHYSICS:
        return Finding("works", "physics", f"mujoco {version}, whose physics are those of the public data")
    found = f"mujoco {version}" if version else "no mujoco"
    return Finding("broken", "physics", f"{found}: results differ; pip install mujoco=={PHYSICS}")


def jax() -> Finding:
    """Whether JAX works here, and on what."""
    ok, text = _try(JAX)
    if not ok:
        return Finding("broken", "jax", text)
    if text.endswith("cpu") and shutil.which("nvidia-smi"):
        return Finding("absent", "jax", f"{text}, although there is an NVIDIA GPU; pip install 'mac-bench[cuda]'")
    return Finding("works", "jax", text)


def _torch() -> Finding:
    if _version("torch") is None:
        return Finding("absent", "torch", "not installed; only agents written in torch need it")
    ok, text = _try(TORCH)
    return Finding("works" if ok else "broken", "torch", text)


def _drawing() -> Finding:
    """EGL or OSMesa, whichever works first; only videos need it."""
    reasons = []
    for backend in ("egl", "osmesa"):
        ok, text = _try(DRAW, MUJOCO_GL=backend)
        if ok:
            return Finding("works", "videos", f"{backend} draws")
        reasons.append(f"{backend}: {text}")
    return Finding("absent", "videos", f"{'; '.join(reasons)}; either will do (system packages libegl1 or libosmesa6)")


def _slurm() -> Finding:
    missing = [name for name in ("sbatch", "squeue", "sinfo") if shutil.which(name) is None]
    if missing:
        return Finding("absent", "slurm", f"no {', '.join(missing)} here; `mac-bench run` needs none")
    return Finding("works", "slurm", "sbatch, squeue and sinfo are here")


def _data(data: Path) -> Iterator[Finding]:
    from mac_bench.errors import UserError
    from mac_bench.inventory import listing

    try:
        found = listing(data)
    except (UserError, OSError) as error:
        yield Finding("broken", "data", str(error))
        return
    if not found:
        yield Finding(
            "absent",
            "data",
            f"none in {data}; `mac-bench data fetch NAME` or `mac-bench data generate NAME`, or name another --data",
        )
    for each in found:
        size = f"{each.episodes:,} episodes, {each.rows:,} rows, {each.bytes / 1e6:,.0f} MB"
        unfinished = f"not complete; see `mac-bench data verify {each.name}`"
        yield Finding(
            "works" if each.complete else "broken", "data", f"{each.name}: {size if each.complete else unfinished}"
        )


def _disk(root: Path) -> Finding:
    place = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free / 1e9
    writable = os.access(place, os.W_OK)
    text = f"{free:,.0f} GB free for runs in {root}" if writable else f"{place} is not writable; name another --runs"
    return Finding("works" if writable and free > 1 else "broken", "disk", text)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _try(code: str, **environment: str) -> tuple[bool, str]:
    """Whether the code runs, and the last line that it prints, or that its error has."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer within {TIMEOUT_S:.0f} s"
    output = done.stdout if done.returncode == 0 else done.stderr
    lines = output.strip().splitlines() or [f"exit code {done.returncode}"]
    return done.returncode == 0, lines[-1]
