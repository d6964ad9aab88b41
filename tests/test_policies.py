"""Policies by law: the tanh-Gaussian against scipy, flows and networks of one step, the choice of the best."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mac_bench.nn import MLP, initial
from mac_bench.policies import EDGE, Flow, Gaussian, OneStep, TanhGaussian, best

MEAN, LOG_STD = np.float32([0.3, -1.2, 0.0]), np.float32([-0.5, 0.4, -2.0])


def test_log_density_is_that_of_a_normal_with_the_tanh_correction():
    actions = np.tanh(np.random.default_rng(0).normal(size=(50, 3)) * 0.8).astype(np.float32)
    before = np.arctanh(actions.astype(np.float64))
    normal = stats.norm.logpdf(before, MEAN, np.exp(LOG_STD))
    expected = (normal - np.log(1 - actions.astype(np.float64) ** 2)).sum(axis=-1)
    np.testing.assert_allclose(TanhGaussian(MEAN[None], LOG_STD[None]).log_prob(actions), expected, rtol=1e-4)


def test_density_has_the_integral_one_and_the_shares_of_the_samples():
    each = TanhGaussian(np.float32([0.5]), np.float32([-0.3]))
    grid = np.linspace(-1, 1, 20_001)[1:-1, None].astype(np.float32)
    density = np.exp(np.asarray(TanhGaussian(each.mean[None], each.log_std[None]).log_prob(grid)))
    assert np.trapezoid(density, grid[:, 0]) == pytest.approx(1, abs=1e-3)
    samples = jax.vmap(each.sample)(np.random.default_rng(0).normal(size=(20_000, 1)).astype(np.float32))
    for edge in (-0.5, 0.2, 0.8):
        below = grid[:, 0] < edge
        assert (samples < edge).mean() == pytest.approx(np.trapezoid(density[below], grid[below, 0]), abs=0.015)


def test_samples_by_hand_and_the_mode_is_the_sample_without_noise():
    each = TanhGaussian(MEAN, LOG_STD)
    np.testing.assert_allclose(each.sample(jnp.full(3, 2.0))[1], np.tanh(-1.2 + 2 * np.exp(0.4)), rtol=1e-6)
    np.testing.assert_array_equal(each.mode(), each.sample(jnp.zeros(3)))
    np.testing.assert_allclose(each.mode(), np.tanh(MEAN), rtol=1e-6)


def test_actions_at_the_edge_have_a_density_and_a_gradient():
    def density(log_std, action):
        return TanhGaussian(jnp.zeros(1), log_std).log_prob(action)

    at, value = jnp.ones(1), jnp.full(1, 1 - EDGE)
    assert density(jnp.zeros(1), at) == density(jnp.zeros(1), value)
    assert np.isfinite(density(jnp.zeros(1), -at)) and np.isfinite(jax.grad(density)(jnp.zeros(1), at)).all()


def test_a_network_gives_means_and_clipped_deviations():
    policy = Gaussian(MLP((8,), 4), lowest=-1.0, highest=0.5)
    obs = jnp.ones((5, 3))
    params = jax.tree.map(jnp.zeros_like, initial(policy.net, jax.random.key(0), obs))
    params["params"]["Dense_1"]["bias"] = jnp.array([0.1, 0.2, -7.0, 7.0])
    each = policy(params, obs, None)
    np.testing.assert_allclose(each.mean, np.tile([0.1, 0.2], (5, 1)), rtol=1e-6)
    np.testing.assert_allclose(each.log_std, np.tile([-1.0, 0.5], (5, 1)), rtol=1e-6)
    actions = jnp.full((5, 2), 0.4)
    assert policy.loss(params, obs, None, actions) == pytest.approx(-float(each.log_prob(actions).mean()))
    noise = jnp.ones((5, 2))
    np.testing.assert_array_equal(policy.sample(params, obs, None, noise), each.sample(noise))


def test_flows_follow_their_velocity_and_one_step_policies_take_one_step():
    obs, noise = jnp.ones((2, 3)), jnp.array([[0.1, -0.2], [0.6, -3.0]])
    net = MLP((8,), 2)
    params = jax.tree.map(jnp.zeros_like, initial(net, jax.random.key(0), obs, noise))
    params["params"]["Dense_1"]["bias"] = jnp.array([0.5, 0.25])
    np.testing.assert_allclose(OneStep(net).sample(params, obs, None, noise), [[0.5, 0.25], [0.5, 0.25]])
    params = jax.tree.map(jnp.zeros_like, initial(net, jax.random.key(0), obs, noise, noise[:, :1]))
    params["params"]["Dense_1"]["bias"] = jnp.array([0.5, 0.25])
    for steps in (1, 4):
        drawn = Flow(net, steps).sample(params, obs, None, noise)
        np.testing.assert_allclose(drawn, [[0.6, 0.05], [1.0, -1.0]], rtol=1e-6)  # noise + velocity, then clipped
    # velocity (0.5, 0.25) where it should be a - z
    loss = Flow(net, 1).loss(params, obs, None, noise + jnp.array([[0.5, 0.75]]), noise, jnp.full((2, 1), 0.3))
    assert loss == pytest.approx(0.5 * 0.25)


def test_the_best_is_taken_for_each_state():
    actions = jnp.arange(12.0).reshape(3, 2, 2)
    np.testing.assert_array_equal(best(actions, jnp.array([[0.0, 5.0], [2.0, 1.0], [1.0, 4.0]])), [[4, 5], [2, 3]])
