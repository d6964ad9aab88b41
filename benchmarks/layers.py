"""What the time of MAC's update is made of on a GPU: what the host adds, and the parts of one pass of one network.

    python benchmarks/layers.py [--seconds 2] [--rows 8192]

The rows are those of an imagined step: 8 candidates for each of 1,024 states. One update makes 20 such passes, one of
the policy and one of the critic in each of 10 steps. The network is that of `mac_bench/nn.py`, with parts left out.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import update

from mac_bench import registry


class Layers(nn.Module):
    """Four layers of 1,024, with or without what follows a product."""

    gelu: bool = True
    norm: bool = True
    fast_variance: bool = True
    """in one pass over the numbers, as flax has it unless told otherwise"""

    @nn.compact
    def __call__(self, x):
        """[B, 1024] -> [B, 1]."""
        for _ in range(4):
            x = nn.Dense(1024)(x)
            x = nn.gelu(x) if self.gelu else x
            x = nn.LayerNorm(use_fast_variance=self.fast_variance)(x) if self.norm else x
        return nn.Dense(1)(x)


CASES = {
    "as it is": (Layers(), None),
    "variance in two passes": (Layers(fast_variance=False), None),
    "without LayerNorm": (Layers(norm=False), None),
    "products alone": (Layers(gelu=False, norm=False), None),
    "as it is, products of bfloat16": (Layers(), "bfloat16"),
}
"""title -> network, and JAX's precision of products"""


def per_second(call: Callable[[], Any], seconds: float) -> float:
    """Calls per second that nobody waits for, but for the last."""
    jax.block_until_ready(call())
    number, took, last = 1, 0.0, None
    while took < seconds / 2:
        number *= 2
        began = time.perf_counter()
        for _ in range(number):
            last = call()
        jax.block_until_ready(last)
        took = time.perf_counter() - began
    return number / took


def main() -> None:
    """Print two rates, then a line for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="measuring time for each")
    parser.add_argument("--rows", type=int, default=8192)
    options = parser.parse_args()
    x = jax.random.normal(jax.random.key(0), (options.rows, 1024))
    for title, (net, precision) in CASES.items():
        with jax.default_matmul_precision(precision):
            params, apply = net.init(jax.random.key(1), x), jax.jit(net.apply)
            rate = per_second(lambda apply=apply, params=params: apply(params, x), options.seconds)
        print(f"{1e3 / rate:8.3f} ms  {title}", flush=True)
    logged = update.data(*update.CUBE_DOUBLE)
    agent = registry.make("mac", {}, logged, 0)
    batch = logged.sample(agent.sampling, 0, 0)
    for place, used in (("host", batch), ("device", jax.device_put(batch))):
        rate = per_second(lambda used=used: agent.update(used, 1), options.seconds)
        print(f"{rate:8.1f} updates/s of one batch in the {place}'s memory", flush=True)


if __name__ == "__main__":
    main()
