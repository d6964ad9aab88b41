"""Returns and flow matching by law and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mac_bench.flow import euler, flow_matching_loss
from mac_bench.returns import chunk_reward, lambda_returns


def random_rollout(horizon=7, batch=5):
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, horizon, batch)).astype(np.float32)
    alive = (rng.random((horizon, batch)) > 0.2).astype(np.float32)
    return rewards, alive, values


def test_chunk_reward_by_hand():
    rewards, alive = jnp.array([[1.0, 2.0, 4.0]]), jnp.ones((1, 3))
    assert chunk_reward(rewards, alive, 0.5, "sum") == 1 + 1 + 1
    assert chunk_reward(rewards, alive, 0.5, "mean") == 1
    # the task ends at the second of three steps: that step's reward still counts, the third does not
    assert chunk_reward(rewards, jnp.array([[1.0, 0.0, 0.0]]), 0.5, "sum") == 2


def test_lambda_return_by_hand():
    rewards, alive, values = jnp.array([[1.0], [2.0]]), jnp.ones((2, 1)), jnp.array([[10.0], [20.0]])
    # G_1 = 2 + 0.5 * 20 = 12;  G_0 = 1 + 0.5 (0.75 * 10 + 0.25 * 12) = 6.25
    np.testing.assert_allclose(lambda_returns(rewards, alive, values, 0.5, 0.25)[:, 0], [6.25, 12.0])


def test_lambda_one_is_the_whole_discounted_return():
    rewards, _, values = random_rollout()
    expected = sum(0.9**h * rewards[h] for h in range(7)) + 0.9**7 * values[-1]
    np.testing.assert_allclose(lambda_returns(rewards, np.ones_like(rewards), values, 0.9, 1.0)[0], expected, rtol=1e-5)


def test_lambda_zero_is_one_step():
    rewards, alive, values = random_rollout()
    np.testing.assert_allclose(
        lambda_returns(rewards, alive, values, 0.9, 0.0), rewards + 0.9 * alive * values, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_lambda_return_is_value_plus_generalised_advantage(lam):
    rewards, alive, next_values = random_rollout()
    values = np.random.default_rng(1).normal(size=rewards.shape).astype(np.float32)
    # GAE is over one trajectory of values: V_{h+1} is the next state's value
    next_values[:-1] = values[1:]
    advantage = np.zeros_like(rewards)
    following = np.zeros(rewards.shape[1], np.float32)
    for h in reversed(range(len(rewards))):
        following = rewards[h] + 0.9 * alive[h] * next_values[h] - values[h] + 0.9 * lam * alive[h] * following
        advantage[h] = following
    np.testing.assert_allclose(
        lambda_returns(rewards, alive, next_values, 0.9, lam), values + advantage, rtol=1e-4, atol=1e-5
    )


def test_nothing_after_the_end_counts():
    rewards, _, values = random_rollout()
    alive = np.ones_like(rewards)
    alive[3] = 0
    changed = rewards.copy()
    changed[4:] += 100
    before, after = (lambda_returns(r, alive, values, 0.9, 0.5)[:4] for r in (rewards, changed))
    np.testing.assert_array_equal(before, after)


def test_flow_loss_is_zero_for_the_true_velocity_and_euler_follows_it():
    x0, x1 = jax.random.normal(jax.random.key(0), (2, 16, 3))
    u = jax.random.uniform(jax.random.key(1), (16, 1))
    assert flow_matching_loss(lambda x, u: x1 - x0, x0, x1, u) == 0
    assert flow_matching_loss(lambda x, u: x1 - x0 + 1, x0, x1, u) == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(euler(lambda x, u: x1 - x0, x0, 7), x1, atol=1e-5)


def test_euler_takes_the_time_at_the_start_of_each_step():
    # dx/du = u: Euler with 4 steps gives (0 + 1/4 + 2/4 + 3/4) / 4
    assert euler(lambda x, u: u, jnp.zeros((1, 1)), 4)[0, 0] == pytest.approx(0.375)
