"""Each method learns what it claims to, on two toys whose optimum is known.

The contract's: walks to a corner by steps of 0.5, with noise of 0.3, in each axis. Cloning gives the data's steps; a
value prefers longer ones, as the reward is the nearness of the corner.

The lane of `mac_bench/toy.py`, 20 steps long, with settings of `benchmarks/horizon.yaml`: the logged walkers go back
as often as forth, so that cloning leads nowhere, and whoever plans or values arrives.
"""

import numpy as np
import pytest
from horizon import Run, train

from mac_bench import contract, registry
from mac_bench.jax_agent import JaxAgent
from mac_bench.nn import ensemble

STEP, NOISE = 0.5, 0.3
"""of the toy's policy, in each axis"""


def trained(name: str, updates: int, **settings) -> JaxAgent:
    """An agent after so many updates on the toy."""
    data = contract.toy(False)
    agent = registry.make(name, contract.small(name) | settings, data, 0)
    for step in range(1, updates + 1):
        agent.update(data.sample(agent.sampling, 0, step), step)
    return agent


def inner_states() -> np.ndarray:
    """[N, O] states that are away from the walls."""
    obs = contract.toy(False).observations
    return obs[np.abs(obs[:, :2]).max(axis=1) < 0.7]


def first_actions(agent: JaxAgent) -> np.ndarray:
    return agent.act(inner_states(), None, seed=0)[:, 0]


def test_bc_gives_the_mean_of_the_data():
    actions = first_actions(trained("bc", 500, learning_rate=1e-3))
    np.testing.assert_allclose(actions.mean(axis=0), STEP, atol=0.06)
    assert actions.std(axis=0).max() < NOISE / 2


def test_flow_bc_gives_their_distribution():
    actions = first_actions(trained("flow_bc", 1500, learning_rate=1e-3, batch_size=128))
    np.testing.assert_allclose(actions.mean(axis=0), STEP, atol=0.1)
    np.testing.assert_allclose(actions.std(axis=0), NOISE, atol=0.1)


def test_gciql_values_longer_steps_more():
    agent = trained("gciql", 1000, discount=0.9, learning_rate=1e-3, batch_size=128)
    states = agent.scalings.obs(inner_states())
    # within the noise of the data: beyond it a critic has seen nothing
    short, long = (np.full((len(states), 2), step, np.float32) for step in (STEP - NOISE, STEP + NOISE))
    q = [ensemble(agent.nets.critic, agent.state.critic.params, states, None, action) for action in (short, long)]
    assert (np.asarray(q[1]) > np.asarray(q[0])).mean() > 0.9


def test_mac_takes_longer_steps_than_the_data():
    actions = first_actions(trained("mac", 800, chunk=4, rollout_chunks=4, discount=0.95, learning_rate=3e-3))
    assert (actions.mean(axis=0) > STEP + NOISE / 4).all(), actions.mean(axis=0)


# method -> length of the lane, updates
WALKS = {
    "MAC": (20, 1500),
    "MAC, chunk 1": (20, 1500),
    "MOPO": (20, 3000),
    "MOBILE": (20, 3000),
    "COMBO": (20, 3000),
    "RAMBO": (20, 3000),
    "LEQ": (20, 1000),
    "MOReL": (20, 1500),
    # its values are returns of the logged walkers, most of whom never see an end 20 steps away
    "F-MPC": (10, 1000),
    "GCIQL": (20, 1500),
}


@pytest.mark.parametrize("length", [10, 20])
def test_cloning_the_lane_leads_nowhere(length):
    assert train(Run("BC", length, 0, 1000))["success"] < 0.1


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=[pytest.mark.slow] * (name not in ("MAC", "GCIQL"))) for name in WALKS]
)
def test_a_method_walks_the_lane_that_cloning_does_not(method):
    length, updates = WALKS[method]
    assert train(Run(method, length, 0, updates))["success"] > 0.5
