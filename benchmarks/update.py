"""Updates per second of MAC, the operations of one update, and how much of this machine's matrix rate that is.

    python benchmarks/update.py [--seconds 20]

All rates are measured in one run, one after the other, so that their ratios hold on a busy machine too.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from mac_bench import jax_agent, mac
from mac_bench.data import Dataset
from mac_bench.suite import expand, load

QUICKSTART = Path(__file__).parent.parent / "suites" / "quickstart.yaml"


def sizes() -> dict[str, tuple[mac.Config, tuple[int, int]]]:
    """Name -> settings and (observation, action) sizes: the paper's networks on cube-double, and the quickstart."""
    quick = next(member.run for member in expand(load(QUICKSTART)) if member.run.agent == "mac")
    return {
        "paper": (mac.Config(), (37, 5)),
        "quickstart": (mac.Config.model_validate_json(json.dumps(quick.settings)), (2, 2)),
    }


def data(obs: int, action: int) -> Dataset:
    """Random numbers: the time of an update does not depend on them."""
    rng, rows = np.random.default_rng(0), 20_000
    return Dataset(
        observations=rng.normal(size=(rows, obs)).astype(np.float32),
        actions=rng.uniform(-1, 1, (rows, action)).astype(np.float32),
        ends=np.arange(999, rows, 1000),
        rewards=np.full(rows, -1, np.float32),
        alive=np.ones(rows, np.float32),
    )


def matrix_rate(size: int = 1024, seconds: float = 3.0) -> float:
    """Floating-point operations per second of a [size, size] float32 product."""
    multiply = jax.jit(lambda a, b: a @ b)
    a = jnp.ones((size, size))
    multiply(a, a).block_until_ready()
    began, number = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        multiply(a, a).block_until_ready()
        number += 1
    return number * 2 * size**3 / (time.perf_counter() - began)


def operations(agent: jax_agent.JaxAgent, batch) -> int:
    """Floating-point operations of the matrix products of one update, all steps of its loops counted.

    Counted on the traced program, because XLA's own count takes the body of a loop once.
    """

    def update(state, batch):
        return agent.method.update(agent.c, agent.nets, state, batch, jax.random.key(0))

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
        total += repeats * sum(count(inner) for inner in jax.extend.core.jaxprs_in_params(equation.params))
    return total


def main() -> None:
    """Print one line for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="measuring time for each size")
    seconds = parser.parse_args().seconds
    rate = matrix_rate()
    print(f"{jax.devices()[0].device_kind}: matrix product {rate / 1e9:.1f} GFLOP/s")
    for name, (c, (obs, action)) in sizes().items():
        logged = data(obs, action)
        agent = mac.make(c, logged, 0)
        batch = logged.sample(agent.sampling, 0, 0)
        jax.block_until_ready(agent.update(batch, 0))
        began, number = time.perf_counter(), 0
        while number == 0 or time.perf_counter() - began < seconds:
            jax.block_until_ready(agent.update(batch, number))
            number += 1
        per_s = number / (time.perf_counter() - began)
        flops = operations(agent, batch)
        parameters = sum(x.size for x in jax.tree.leaves(agent.state) if x.dtype == jnp.float32)
        print(
            f"{name:>10}: {per_s:8.2f} updates/s, {flops / 1e9:9.2f} GFLOP each, "
            f"{per_s * flops / rate:5.0%} of the matrix rate, {parameters / 1e6:.2f} M numbers of state"
        )


if __name__ == "__main__":
    main()
