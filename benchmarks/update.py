"""Updates per second of a method, its parameters, the operations of one update, and how much of this machine's matrix
rate that is.

    python benchmarks/update.py [--seconds 20] [--all | --only mopo leq | --suite ablations d4rl-mujoco] [--csv FILE]

Without --all: MAC, at the paper's size and at the quickstart's. With it: every agent at its default size. With --suite:
each size of each agent in these suites once. Data are like cube-double's. All rates are measured in one run, one after
the other, so that their ratios hold on a busy machine too. Batches are drawn beside the updates, and nobody waits for
an update, as in training. A Dyna-style method's round of imagination, one in a thousand updates, is made small and not
measured; but with --csv it is measured, and its share is part of the rate.

--csv adds the rates to a table that `mac-bench plan --cost` reads, `suites/rates.csv`: a row of the same agent,
settings, sizes and device is replaced. It says the device and its matrix rate, which shows how busy it was; --note says
what else should be known of the machine.
"""

import argparse
import csv
import datetime
import io
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

from mac_bench import cost, registry
from mac_bench.data import Dataset, prefetch
from mac_bench.files import write_text
from mac_bench.jax_agent import JaxAgent, Learner
from mac_bench.provenance import peak_memory
from mac_bench.suite import expand, load

QUICKSTART = Path(__file__).parent.parent / "suites" / "quickstart.yaml"
CUBE_DOUBLE = (37, 5)
"""observation and action sizes"""
NOT_TRAINED = ("oracle", "random_actions")


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


def measure(name: str, settings: dict[str, Any], sizes: tuple[int, int], seconds: float) -> tuple[Any, float, Any]:
    """An agent, its updates per second, and the batch."""
    logged = data(*sizes)
    agent = registry.make(name, settings, logged, 0)
    finish_pretraining(agent)
    batch = logged.sample(agent.sampling, 0, 0)
    finished(agent.update(batch, 1))

    def rate(number: int) -> float:
        began, metrics = time.perf_counter(), {}
        for drawn in prefetch(lambda step: logged.sample(agent.sampling, 0, step), 1, 1 + number):
            metrics = agent.update(drawn, 2)  # a step without a round of imagination
        finished(metrics)
        return number / (time.perf_counter() - began)

    number = seconds * rate(3)  # few to begin with, then as many as take the time
    return agent, rate(max(1, math.ceil(number))), batch


def with_rounds(agent: Any, batch: Any, per_s: float, every: int) -> float:
    """The rate, with the share of a round of imagination, which the update of each `every`-th step begins with."""
    began = time.perf_counter()
    finished(agent.update(batch, every))
    extra = max(0.0, time.perf_counter() - began - 1 / per_s)
    return 1 / (1 / per_s + extra / every)


def device_of(agent: Any) -> str:
    """As runs record it."""
    if isinstance(agent, JaxAgent):
        return jax.devices()[0].device_kind
    import torch

    on_gpu = next(agent.method.parameters()).device.type == "cuda"
    return torch.cuda.get_device_name() if on_gpu else "cpu"


def sizes_of(suites: list[str]) -> dict[str, tuple[str, dict[str, Any], tuple[int, int]]]:
    """One case for each size of an agent: its settings but for the defaults, and for those that change no work."""
    found = {}
    for run in (member.run for name in suites for member in expand(load(Path(name)))):
        if run.agent not in NOT_TRAINED:
            default = registry.defaults(run.agent)
            other = {key: value for key, value in run.settings.items() if value != default.get(key)}
            found.setdefault(cost.work(run.agent, run.settings), (run.agent, other, CUBE_DOUBLE))
    return {f"{name} {json.dumps(other)}": case for case in found.values() for name, other, _ in [case]}


def add(path: Path, row: dict[str, Any]) -> None:
    """Put a row into a table of rates, in the place of one of the same case."""
    same = cost.COLUMNS[: cost.COLUMNS.index("updates_per_s")]
    kept = [old for old in (cost.read(path) if path.exists() else []) if any(old[k] != str(row[k]) for k in same)]
    text = io.StringIO()
    writer = csv.DictWriter(text, cost.COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted([*kept, row], key=lambda one: [str(one[k]) for k in ("device", *same)]))
    write_text(path, text.getvalue())


def main() -> None:
    """Print one line for each size or agent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="measuring time for each")
    parser.add_argument("--all", action="store_true", help="every agent at its default size")
    parser.add_argument("--only", nargs="+", help="these agents at their default size")
    parser.add_argument("--suite", nargs="+", help="every size of every agent in these suites")
    parser.add_argument("--csv", type=Path, help="table of rates to add to")
    parser.add_argument("--note", default="", help="with --csv: what else should be known of the machine")
    options = parser.parse_args()
    if options.suite:
        cases = sizes_of(options.suite)
    elif options.all or options.only:
        names = [name for name in options.only or registry.names() if name not in NOT_TRAINED]
        cases = {name: (name, {}, CUBE_DOUBLE) for name in names}
    else:
        cases = {"paper": ("mac", {}, CUBE_DOUBLE), "quickstart": ("mac", quickstart(), (2, 2))}
    rate = None
    for title, (name, settings, sizes) in cases.items():
        rounds = "rollout_every" in registry.module(name).Config.model_fields
        small = {"rollout_batch": 1024} if rounds and not options.csv else {}
        agent, per_s, batch = measure(name, small | settings, sizes, options.seconds)
        flops, memory = operations(agent, batch), peak_memory()
        if rate is None:  # not earlier: its matrices would count as memory of the first agent
            rate = matrix_rate(min(3.0, options.seconds))
            print(f"{jax.devices()[0].device_kind}: matrix product {rate / 1e9:.1f} GFLOP/s")
        print(
            f"{title:>10}: {per_s:8.2f} updates/s, {flops / 1e9:9.2f} GFLOP each, "
            f"{per_s * flops / rate:5.0%} of the matrix rate, {parameters(agent) / 1e6:6.2f} M parameters, "
            f"{memory.get('device_memory_mb', memory['memory_mb']):.0f} MB at most so far",
            flush=True,
        )
        if options.csv:
            if rounds:
                every = registry.settings(name, settings, title).model_dump()["rollout_every"]
                per_s = with_rounds(agent, batch, per_s, every)
            row = {"agent": name, "settings": json.dumps(settings, sort_keys=True), "goals": 0}
            row |= {"note": "; ".join(filter(None, [options.note, f"matrix product {rate / 1e9:.0f} GFLOP/s"]))}
            row |= {"observations": sizes[0], "actions": sizes[1], "device": device_of(agent)}
            row |= {"updates_per_s": f"{per_s:.4g}", "command": " ".join(["benchmarks/update.py", *sys.argv[1:]])}
            add(options.csv, row | {"date": datetime.date.today().isoformat()})


if __name__ == "__main__":
    main()
