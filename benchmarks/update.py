"""Updates per second of a method, its parameters, the operations of one update, and how much of this machine's matrix
rate that is.

    python benchmarks/update.py [--seconds 20] [--all | --only mopo leq | --suite mac-family] [--rounds] [--csv FILE]

Without --all: MAC, at the paper's size and at the quickstart's. With it: every agent at its default size, on data like
cube-double's. All rates are measured in one run, one after the other, so that their ratios hold on a busy machine too.
Batches are drawn beside the updates, and nobody waits for an update, as in training. A Dyna-style method's round of
imagination, one in a thousand updates, is made small and not measured, but with --rounds, which is for GPUs.
"""

import argparse
import csv
import datetime
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from mac_bench import registry
from mac_bench.data import Dataset, prefetch
from mac_bench.jax_agent import JaxAgent, Learner
from mac_bench.provenance import describe, peak_memory
from mac_bench.suite import expand, load

QUICKSTART = Path(__file__).parent.parent / "suites" / "quickstart.yaml"
CUBE_DOUBLE = (37, 5)
"""observation and action sizes"""
COLUMNS = ("agent", "settings", "device", "updates_per_s", "command", "date")
"""of --csv; settings are those that are not the agent's defaults"""


def quickstart() -> dict[str, Any]:
    """MAC's settings in the quickstart."""
    return next(member.run for member in expand(load(QUICKSTART)) if member.run.agent == "mac").settings


def data(obs: int, action: int) -> Dataset:
    """Random numbers: the time of an update does not depend on them."""
    rng, rows = np.random.default_rng(0), 200_000
    return Dataset(
        observations=rng.normal(size=(rows, obs)).astype(np.float32),
        actions=rng.uniform(-1, 1, (rows, action)).astype(np.float32),
        ends=np.arange(999, rows, 1000),
        rewards=np.full(rows, -1, np.float32),
        alive=np.ones(rows, np.float32),
    )


def matrix_rate(seconds: float) -> float:
    """Floating-point operations per second of a float32 product as JAX makes it, on a GPU from tf32."""
    size = 1024 if jax.default_backend() == "cpu" else 8192
    multiply = jax.jit(lambda a, b: a @ b)
    a = jnp.ones((size, size))
    multiply(a, a).block_until_ready()
    began, number = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        multiply(a, a).block_until_ready()
        number += 1
    return number * 2 * size**3 / (time.perf_counter() - began)


def operations(agent: Any, batch: Any) -> int:
    """Floating-point operations of the matrix products of one update, all steps of its loops counted."""
    if not isinstance(agent, JaxAgent):
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            agent.update(batch, 1)
        return counter.get_total_flops()

    if with_returns := getattr(agent, "with_returns", None):  # F-MPC looks them up before it updates
        batch = with_returns(batch)

    def update(state, batch):
        return agent.method.update(agent.c, agent.nets, state, batch, jax.random.key(0))

    # on the traced program, because XLA's own count takes the body of a loop once
    return count(jax.make_jaxpr(update)(agent.state, batch).jaxpr)


def count(program: Any) -> int:  # a jaxpr, whose types say little
    """2 m n k for each product of [m, k] and [k, n] in a program and in the programs within it."""
    total = 0
    for equation in program.eqns:
        if equation.primitive.name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            left, product = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += 2 * math.prod(product) * math.prod(left[axis] for axis in contracted)
        repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        inner = [count(program) for program in jax.extend.core.jaxprs_in_params(equation.params)]
        # of two branches the later one is taken where the condition holds: here, that the model is ready
        total += inner[-1] if equation.primitive.name == "cond" else repeats * sum(inner)
    return total


def parameters(agent: Any) -> int:
    """How many numbers are trained."""
    if isinstance(agent, JaxAgent):
        learners = jax.tree.leaves(agent.state, is_leaf=lambda x: isinstance(x, Learner))
        return sum(x.size for each in learners if isinstance(each, Learner) for x in jax.tree.leaves(each.params))
    return sum(p.numel() for p in agent.method.parameters() if p.requires_grad)


def finish_pretraining(agent: Any) -> None:
    """The policy's training is what is measured, not the model's before it."""
    if isinstance(agent, JaxAgent):
        world = getattr(agent.state, "world", None)
        if world is not None and world.fitting is not None:
            done = world.fitting._replace(done=jnp.array(True))
            agent.state = agent.state._replace(world=world._replace(fitting=done))
    elif (model := getattr(getattr(agent, "method", None), "model", None)) is not None and not model.ready:
        model.finish()


def finished(metrics: Any) -> None:
    """Wait for the device."""
    for value in metrics.values():
        float(value)


def measure(
    name: str, settings: dict[str, Any], sizes: tuple[int, int], seconds: float, whole: int = 1
) -> tuple[Any, float, Any]:
    """An agent, its updates per second over a multiple of `whole` updates, and a batch."""
    logged = data(*sizes)
    agent = registry.make(name, settings, logged, 0)
    finish_pretraining(agent)
    batch = logged.sample(agent.sampling, 0, 0)
    finished(agent.update(batch, 1))

    def rate(number: int) -> float:
        began, metrics = time.perf_counter(), {}
        for step, drawn in enumerate(prefetch(lambda step: logged.sample(agent.sampling, 0, step), 1, 1 + number), 1):
            metrics = agent.update(drawn, step)
        finished(metrics)
        return number / (time.perf_counter() - began)

    number = seconds * rate(3)  # few to begin with, then as many as take the time
    return agent, rate(max(1, math.ceil(number / whole)) * whole), batch


def main() -> None:
    """Print one line for each size or agent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="measuring time for each")
    parser.add_argument("--all", action="store_true", help="every agent at its default size")
    parser.add_argument("--only", nargs="+", help="these agents at their default size, or these of the suite")
    parser.add_argument("--suite", help="the agents of a suite with its settings")
    parser.add_argument("--rounds", action="store_true", help="whole rounds of imagination, at their full size")
    parser.add_argument("--csv", type=Path, help="add a line for each to this file")
    options = parser.parse_args()
    rate = None
    for title, (name, settings, sizes) in cases(options).items():
        whole = 1
        if "rollout_every" in (full := registry.settings(name, settings, title).model_dump()):
            whole = full["rollout_every"] if options.rounds else 1
            settings = settings if options.rounds else {**settings, "rollout_batch": 1024}
        agent, per_s, batch = measure(name, settings, sizes, options.seconds, whole)
        flops, memory = operations(agent, batch), peak_memory()
        if rate is None:  # not earlier: its matrices would count as memory of the first agent
            rate = matrix_rate(min(3.0, options.seconds))
            print(f"{jax.devices()[0].device_kind}: matrix product {rate / 1e9:.1f} GFLOP/s")
        print(
            f"{title:>20}: {per_s:8.2f} updates/s, {flops / 1e9:9.2f} GFLOP each, "
            f"{per_s * flops / rate:5.0%} of the matrix rate, {parameters(agent) / 1e6:6.2f} M parameters, "
            f"{memory.get('device_memory_mb', memory['memory_mb']):.0f} MB at most so far",
            flush=True,
        )
        if options.csv:
            write(options.csv, name, settings, per_s)


def cases(options: argparse.Namespace) -> dict[str, tuple[str, dict[str, Any], tuple[int, int]]]:
    """Title -> agent, settings, and sizes of the data."""
    if options.suite:
        found = {member.label: member.run for member in expand(load(Path(options.suite)))}
        labels = options.only or list(found)
        if unknown := [label for label in labels if label not in found]:
            raise SystemExit(f"{options.suite} has no {', '.join(unknown)}; there are: {', '.join(found)}")
        return {label: (found[label].agent, found[label].settings, CUBE_DOUBLE) for label in labels}
    if options.all or options.only:
        names = [name for name in options.only or registry.names() if name != "random_actions"]
        return {name: (name, {}, CUBE_DOUBLE) for name in names}
    return {"paper": ("mac", {}, CUBE_DOUBLE), "quickstart": ("mac", quickstart(), (2, 2))}


def write(path: Path, name: str, settings: dict[str, Any], per_s: float) -> None:
    """Add a line to the table of rates."""
    usual = registry.defaults(name)
    other = {key: value for key, value in settings.items() if value != usual.get(key)}
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        command = " ".join(["python", *sys.argv])
        today = datetime.datetime.now(datetime.UTC).date()
        writer.writerow([name, json.dumps(other), describe()["device"], f"{per_s:.1f}", command, today])


if __name__ == "__main__":
    main()
