"""What a result was made with: recorded with every attempt, so that no two worlds are compared unawares."""

import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

from mac_bench import __version__, tasks

MANIFEST = "snapshot.json"
"""beside the package where that is a copy (slurm/snapshot.py): what it was copied from"""


def describe() -> dict[str, str]:
    """Versions, commit and device of this process. Frameworks that are not loaded are not mentioned."""
    found = {
        "python": platform.python_version(),
        "mac_bench": __version__,
        "numpy": importlib.metadata.version("numpy"),
    }
    found |= tasks.versions() | {"cores": str(_cores())}
    jax, torch = sys.modules.get("jax"), sys.modules.get("torch")
    if jax is not None:
        found |= {"jax": jax.__version__, "device": jax.devices()[0].device_kind}
    if torch is not None:
        found |= {"torch": torch.__version__}
        if jax is None:
            found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    git = commit()
    return found | ({"git": git} if git else {})


def peak_memory() -> dict[str, float]:
    """Most memory that this process has used so far, in MB; on a GPU also the device's (`device_memory_mb`)."""
    found = {"memory_mb": round(_peak_bytes() / 1024**2, 1)}
    jax, torch = sys.modules.get("jax"), sys.modules.get("torch")
    device = 0
    if jax is not None:
        device += (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    if torch is not None and torch.cuda.is_available():
        device += torch.cuda.max_memory_allocated()
    return found | ({"device_memory_mb": round(device / 1024**2, 1)} if device else {})


def _peak_bytes() -> int:
    """Linux's ru_maxrss would count what the parent had used when it started this process."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1])


def _cores() -> int:
    """Cores that this process may use: results on a CPU are the same bits only for the same number."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def commit() -> str | None:
    """Commit of the source tree, marked where it has changes, or of the one it was copied from; None where neither is
    known."""
    source = Path(__file__).parent
    if (source.parent / MANIFEST).exists():
        return json.loads((source.parent / MANIFEST).read_text())["git"]
    if not (source.parent / ".git").exists():  # installed, perhaps inside somebody else's checkout
        return None
    try:
        output = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=source,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return output.stdout.strip() if output.returncode == 0 else None
