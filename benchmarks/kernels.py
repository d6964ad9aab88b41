"""Where an update's time goes on a GPU: what the host adds, what precision costs, and the kernels by kind.

    python benchmarks/kernels.py [--agent mac] [--seconds 3] [--out FOLDER]

Kernels are timed by JAX's profiler, whose file is left in FOLDER.
"""

import argparse
import collections
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import update

from mac_bench import registry

KINDS = {"gemm": "matrix products", "cutlass": "matrix products", "nvjet": "matrix products", "memcpy": "copies"}
"""part of a kernel's name -> what it is; all others are element by element"""


def rate(agent: Any, batch: Any, seconds: float) -> float:
    """Updates per second of one batch, over and over."""
    update.finished(agent.update(batch, 1))
    number, metrics = 10, {}
    while True:
        began = time.perf_counter()
        for _ in range(number):
            metrics = agent.update(batch, 1)
        update.finished(metrics)
        if (took := time.perf_counter() - began) > seconds / 2:
            return number / took
        number = max(number + 1, round(number * seconds / took))


def kernels(agent: Any, batch: Any, folder: Path, updates: int = 5) -> dict[str, float]:
    """Seconds of each kernel in one update, by name."""
    with jax.profiler.trace(str(folder)):
        for _ in range(updates):
            update.finished(agent.update(batch, 1))
    found: dict[str, float] = collections.defaultdict(float)
    path = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        if plane.name.startswith("/device:GPU"):
            for line in plane.lines:
                if line.name.startswith("Stream"):
                    for event in line.events:
                        found[event.name] += event.duration_ns / 1e9 / updates
    return dict(found)


def kind(name: str) -> str:
    """What a kernel does."""
    return next((kind for part, kind in KINDS.items() if part in name.lower()), "element by element")


def main() -> None:
    """Print rates, then kinds of kernels, then the longest of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", default="mac")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    logged = update.data(*update.CUBE_DOUBLE)
    agent = registry.make(options.agent, {}, logged, 0)
    batch = logged.sample(agent.sampling, 0, 0)
    print(f"one batch in the host's memory: {rate(agent, batch, options.seconds):.1f} updates/s", flush=True)
    resident = jax.device_put(batch)
    print(f"one batch in the GPU's: {rate(agent, resident, options.seconds):.1f} updates/s", flush=True)
    for precision in ("highest", "bfloat16"):
        with jax.default_matmul_precision(precision):
            per_s = rate(agent, resident, options.seconds)
            product = update.matrix_rate(1.0) / 1e12
        print(f"precision {precision}: {per_s:.1f} updates/s, matrix product {product:.0f} TFLOP/s", flush=True)
    with tempfile.TemporaryDirectory() as aside:
        found = kernels(agent, resident, options.out or Path(aside))
    total, sums = sum(found.values()), collections.defaultdict(float)
    if not found:
        raise SystemExit("the profiler has seen no GPU")
    for name, seconds in found.items():
        sums[kind(name)] += seconds
    print(f"kernels of one update: {1e3 * total:.2f} ms")
    for name, seconds in sorted(sums.items(), key=lambda item: -item[1]):
        print(f"{1e3 * seconds:8.2f} ms {seconds / total:4.0%} {name}")
    for name, seconds in sorted(found.items(), key=lambda item: -item[1])[:15]:
        print(f"{1e3 * seconds:8.3f} ms {name[:110]}")


if __name__ == "__main__":
    main()
