"""MAC's ablations: the policies of `suites/ablations.yaml` train, resume, and differ from MAC where they should."""

from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mac_bench import contract, mac, registry, suite
from mac_bench.dynamics import predict
from mac_bench.files import read_arrays
from mac_bench.nn import apply, scalar

POLICIES = ("MAC", "MAC (Gau)", "MAC (FQL)", "MAC w/o flow teacher (one-step flow only)", "MAC, chunks of 1")
FAMILY = {label: suite.load(Path("ablations")).agents[label].settings for label in POLICIES}
SMALL = {"model_hidden": [16], "value_hidden": [16], "policy_hidden": [16], "layer_norm": False, "flow_steps": 2}
SMALL |= {"chunk": 3, "rollout_chunks": 2, "train_candidates": 3, "act_candidates": 4}
SMALL |= {"batch_size": 16, "rollout_batch": 8}
# what metrics do not depend on is not even compiled
METRICS = jax.jit(lambda *arguments: mac.learn(*arguments)[1], static_argnums=(0, 1))
DREAM = jax.jit(mac.dream, static_argnums=(0, 1))


def made(settings: dict, goals: bool = True):
    """A small agent on the toy."""
    return registry.make("mac", SMALL | settings, contract.toy(goals), 0)


@cache
def learned(label: str):
    """An agent, a batch with different goals for values and policies, draws, the rollout, and the metrics of a step."""
    agent = made(FAMILY[label])
    batch = contract.toy(True).sample(agent.sampling, 0, 1)
    draws = mac.draw(agent.c, 16, agent.nets.flow.net.out, jax.random.key(1))
    metrics = METRICS(agent.c, agent.nets, agent.state, batch, draws)
    rollout = DREAM(agent.c, agent.nets, agent.state, batch.obs[:8], batch.goals.value[:8], draws.candidates)
    return agent, batch, draws, rollout, metrics


@pytest.mark.parametrize("goals", [True, False], ids=["goals", "rewards"])
@pytest.mark.parametrize("label", [label for label in FAMILY if label != "MAC"])  # the contract trains MAC
def test_members_train_and_resume(label, goals, tmp_path):
    data, agents = contract.toy(goals), [made(FAMILY[label], goals) for _ in range(2)]

    def train(agent, *steps):
        return [{k: float(v) for k, v in agent.update(data.sample(agent.sampling, 0, i), i).items()} for i in steps]

    first, *rest = train(agents[0], 1, 2, 3)
    assert train(agents[1], 1) == [first] and np.isfinite(list(first.values())).all()
    agents[1].save(tmp_path / "checkpoint.npz", 1)
    resumed = made(FAMILY[label], goals)
    assert resumed.load(tmp_path / "checkpoint.npz") == 1
    assert train(resumed, 2, 3) == rest
    goal = None if data.goals is None else data.goals[:4]
    actions = [agent.act(data.observations[:4], goal, seed=5) for agent in (agents[0], resumed)]
    assert actions[0].shape == (4, 1, 2) and np.abs(actions[0]).max() <= 1
    np.testing.assert_array_equal(*actions)


# -- a tanh-Gaussian -------------------------------------------------------------------------------------------------


def test_gaussian_learns_the_likelihood_of_the_data_and_needs_no_flow(tmp_path):
    agent, batch, draws, _, metrics = learned("MAC (Gau)")
    each = agent.nets.policy(agent.state.policy.params, batch.obs, batch.goals.actor)
    density = each.log_prob(batch.actions.reshape(16, -1))  # [B]
    assert metrics["loss/gaussian"] == pytest.approx(-float(density.mean()), rel=1e-5)
    agent.save(tmp_path / "checkpoint.npz", 1)
    assert agent.state.flow is None and not any("flow" in name for name in read_arrays(tmp_path / "checkpoint.npz"))
    # of these candidates the best is taken
    policy, critic, goal = agent.state.policy.params, agent.state.critic.params, batch.goals.actor[:8]
    each, noise = agent.nets.policy(policy, batch.obs[:8], goal), draws.candidates[0]
    chunks = jnp.stack([each.sample(z) for z in noise])
    q = jnp.stack([scalar(agent.nets.critic, critic, batch.obs[:8], goal, chunk) for chunk in chunks])
    taken = mac.choose(agent.nets, policy, critic, batch.obs[:8], goal, noise)
    np.testing.assert_allclose(taken, chunks[q.argmax(axis=0), np.arange(8)], rtol=1e-4, atol=1e-5)
    assert len(set(np.asarray(q.argmax(axis=0)).tolist())) > 1


# -- a policy that raises Q ------------------------------------------------------------------------------------------


def fql(weight: float):
    """Loss and gradient of MAC (FQL)'s policy at states of the data, and the plain distillation there."""
    agent, batch, draws, _, _ = learned("MAC (FQL)")
    state, at = agent.state, (batch.obs[:8], batch.goals.value[:8], draws.distill[0])
    c = agent.c.model_copy(update={"bc_weight": weight})
    flow, critic = state.flow.params, state.critic.params
    losses = (
        lambda p: mac.fql_loss(c, agent.nets, p, flow, critic, *at),
        lambda p: mac.distill_loss(agent.nets, p, flow, *at),
    )
    return jax.jit(lambda p: [jax.value_and_grad(loss)(p) for loss in losses])(state.policy.params)


def test_with_a_huge_weight_fql_is_distillation():
    (_, gradient), (_, distill) = fql(1e6)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(distill)) > 1e-3
    for x, y in zip(jax.tree.leaves(gradient), jax.tree.leaves(distill), strict=True):
        np.testing.assert_allclose(x / 1e6, y, rtol=1e-3, atol=1e-5)


def test_without_imitation_fql_raises_q_whatever_its_scale():
    agent, batch, draws, _, _ = learned("MAC (FQL)")
    obs, goal, noise = batch.obs[:8], batch.goals.value[:8], draws.distill[0]
    (loss, gradient), _ = fql(0.0)

    def q(params, critic):
        return scalar(agent.nets.critic, critic, obs, goal, agent.nets.policy.sample(params, obs, goal, noise))

    before, critic = agent.state.policy.params, agent.state.critic.params
    plain = jax.grad(lambda p: -q(p, critic).mean())(before)
    for x, y in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(plain), strict=True
    ):  # the scale itself is no way to win
        np.testing.assert_allclose(x, y / jnp.abs(q(before, critic)).mean(), rtol=1e-3, atol=1e-5)
    after = jax.tree.map(lambda p, g: p - 0.01 * g, before, gradient)
    assert q(after, critic).mean() > q(before, critic).mean()
    assert loss == pytest.approx(float(-q(before, critic).mean() / jnp.abs(q(before, critic)).mean()), rel=1e-4)
    larger = jax.tree.map(jnp.copy, critic)
    larger["params"]["Dense_1"] = {key: 100 * x for key, x in critic["params"]["Dense_1"].items()}
    c = agent.c.model_copy(update={"bc_weight": 0.0})
    scaled = jax.grad(lambda p: mac.fql_loss(c, agent.nets, p, agent.state.flow.params, larger, obs, goal, noise))
    for x, y in zip(jax.tree.leaves(scaled(before)), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4 * float(jnp.abs(y).max()))


def test_fql_learns_at_imagined_states_for_the_goals_of_values():
    agent, batch, draws, rollout, metrics = learned("MAC (FQL)")
    assert agent.c.bc_weight == 0.3 and draws.distill.shape == (2, 8, 10) and draws.candidates.shape == (2, 1, 8, 10)
    flow, critic = agent.state.flow.params, agent.state.critic.params
    states = rollout.states[:-1].reshape(16, -1)
    goal, noise = jnp.concatenate([batch.goals.value[:8]] * 2), draws.distill.reshape(16, -1)
    loss = mac.fql_loss(agent.c, agent.nets, agent.state.policy.params, flow, critic, states, goal, noise)
    assert metrics["loss/fql"] == pytest.approx(float(loss), rel=1e-4)


# -- no teacher ------------------------------------------------------------------------------------------------------


def test_without_a_teacher_the_policy_is_one_euler_step_of_a_flow_that_learns_from_data_alone(tmp_path):
    agent, batch, draws, _, metrics = learned("MAC w/o flow teacher (one-step flow only)")
    agent.save(tmp_path / "checkpoint.npz", 1)
    assert agent.state.flow is None and not any("flow" in name for name in read_arrays(tmp_path / "checkpoint.npz"))
    params, net, noise, u = agent.state.policy.params, agent.nets.policy.net, draws.noise, draws.time
    chunk, goal = batch.actions.reshape(16, -1), batch.goals.actor
    velocity = apply(net, params, batch.obs, goal, (1 - u) * noise + u * chunk, u)
    assert metrics["loss/flow"] == pytest.approx(float(jnp.square(velocity - (chunk - noise)).mean()), rel=1e-5)
    step = noise + apply(net, params, batch.obs, goal, noise, jnp.zeros((16, 1)))
    taken = mac.choose(agent.nets, params, agent.state.critic.params, batch.obs, goal, noise[None])
    np.testing.assert_allclose(taken, jnp.clip(step, -1, 1), rtol=1e-4, atol=1e-5)


def test_the_teacher_is_not_differentiated_and_learns_by_flow_matching():
    agent, batch, draws, _, metrics = learned("MAC")
    state, at = agent.state, (batch.obs, batch.goals.actor, draws.distill)
    loss = mac.distill_loss(agent.nets, state.policy.params, state.flow.params, *at)
    assert metrics["loss/distill"] == pytest.approx(float(loss), rel=1e-5)
    matched = agent.nets.flow.loss(state.flow.params, *at[:2], batch.actions.reshape(16, -1), draws.noise, draws.time)
    assert metrics["loss/flow"] == pytest.approx(float(matched), rel=1e-5)


# -- the model, alone ------------------------------------------------------------------------------------------------


def test_a_forecast_is_the_model_applied_chunk_by_chunk():
    agent, data = made({}), contract.toy(True)
    obs, actions = jnp.asarray(data.observations[:4]), jnp.asarray(data.actions[:32].reshape(4, 8, 2))
    states, stride = mac.forecast(agent.c, agent.nets, agent.state, obs, actions)
    assert stride == 3 and states.shape == (4, 2, 4)
    net, params = agent.nets.dynamics, agent.state.dynamics.params
    after = predict(net, params, obs, jnp.concatenate([actions[:, 0], actions[:, 1], actions[:, 2]], axis=-1))
    np.testing.assert_allclose(states[:, 0], after, rtol=1e-5, atol=1e-6)
    after = predict(net, params, after, jnp.concatenate([actions[:, 3], actions[:, 4], actions[:, 5]], axis=-1))
    np.testing.assert_allclose(states[:, 1], after, rtol=1e-5, atol=1e-6)
    dropped = mac.forecast(agent.c, agent.nets, agent.state, obs, actions.at[:, 6:].set(0.0))
    np.testing.assert_array_equal(dropped.states, states)
    assert mac.forecast(agent.c, agent.nets, agent.state, obs, actions[:, :2]).states.shape == (4, 0, 4)
    assert agent.forecast is not None and agent.forecast(np.asarray(obs), np.asarray(actions)).stride == 3


def test_with_chunk_one_the_model_makes_one_step_at_a_time():
    agent, batch, _, rollout, _ = learned("MAC, chunks of 1")
    assert agent.sampling.horizon == 1 and agent.c.chunk_discount == agent.c.discount
    net, params, data = agent.nets.dynamics, agent.state.dynamics.params, contract.toy(True)
    assert rollout.chunks.shape == (2, 8, 2)
    for now, action, after in zip(rollout.states[:-1], rollout.chunks, rollout.states[1:], strict=True):
        np.testing.assert_allclose(predict(net, params, now, action), after, rtol=1e-5, atol=1e-6)
    obs, actions = jnp.asarray(data.observations[:4]), jnp.asarray(data.actions[:20].reshape(4, 5, 2))
    states, stride = mac.forecast(agent.c, agent.nets, agent.state, obs, actions)
    assert stride == 1 and states.shape == (4, 5, 4)
    for i in range(5):
        obs = predict(net, params, obs, actions[:, i])
        np.testing.assert_allclose(states[:, i], obs, rtol=1e-4, atol=1e-5)
    # the target of Q is r + gamma (1 - end) V(s'), with what is said of one step
    goal = batch.goals.value[:8]
    rewards, alive = mac.outcome(agent.c, agent.nets, agent.state, rollout, goal)
    following = scalar(agent.nets.value, agent.state.value.params, rollout.states[1], goal)
    target = mac.critic_target(agent.c, agent.nets, agent.state, rollout, rewards, alive, goal)
    np.testing.assert_allclose(target, rewards[0] + 0.999 * alive[0] * following, rtol=1e-5)
