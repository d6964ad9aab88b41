"""GCIQL against the official implementation, and IQL's expectile by law."""

from functools import cached_property

import jax
import numpy as np
import pytest
from golden import Golden, assert_close

from baselines import gciql
from mac_bench.jax_agent import descend, learner
from mac_bench.nn import MLP, scalar
from mac_bench.types import Batch, Goals

LEARNED = ["value", "critic", "actor"]


class Case:
    """The golden file in our types."""

    c = gciql.Config(discount=0.97, value_hidden=(16, 16), policy_hidden=(16, 16), batch_size=8)
    nets = gciql.Networks(MLP((16, 16), 1), MLP((16, 16), 1), MLP((16, 16), 2))

    def __init__(self):
        self.golden = golden = Golden("gciql_goal")
        theirs = golden.group("batch")
        self.batch = Batch(
            obs=theirs["observations"],
            actions=theirs["actions"][:, None],
            rewards=np.zeros((8, 1), np.float32),
            next_obs=theirs["next_observations"],
            alive=np.ones((8, 1), np.float32),
            index=np.arange(8),
            goals=Goals(theirs["value_goals"], theirs["actor_goals"], 1 - theirs["masks"], np.full(8, np.inf)),
        )

    @cached_property
    def state(self) -> gciql.State:
        learners = {name: learner(self.golden.network("params", name), self.c.learning_rate) for name in LEARNED}
        return gciql.State(critic_target=self.golden.network("params", "target_critic"), **learners)

    @cached_property
    def losses(self) -> dict:
        """name -> (loss of its parameters, golden loss)."""
        c, nets, state, b, info = self.c, self.nets, self.state, self.batch, self.golden.group("info")
        action, goals = b.actions[:, 0], b.goals
        following = scalar(nets.value, state.value.params, b.next_obs, goals.value)
        target = goals.reached - 1 + c.discount * (1 - goals.reached) * following
        return {
            "value": (
                lambda p: gciql.value_loss(c, nets, p, state.critic_target, b.obs, goals.value, action),
                info["value/value_loss"],
            ),
            "critic": (
                lambda p: gciql.critic_loss(nets, p, b.obs, goals.value, action, target),
                info["critic/critic_loss"],
            ),
            "actor": (
                lambda p: gciql.actor_loss(
                    c, nets, p, state.value.params, state.critic.params, b.obs, goals.actor, action
                ),
                info["actor/actor_loss"],
            ),
        }


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


@pytest.mark.parametrize("name", LEARNED)
def test_loss_gradient_and_step_equal_the_reference(case, name):
    loss, expected = case.losses[name]
    old = getattr(case.state, name)
    value, gradient = jax.jit(jax.value_and_grad(loss))(old.params)
    assert_close(value, expected, f"{name} loss")
    assert_close(gradient, case.golden.network("grads", name), f"{name} gradient")
    new, _ = jax.jit(descend, static_argnums=(1, 2))(old, case.c.learning_rate, loss)
    assert_close(new.params, case.golden.network("params_after_one_update", name), f"{name} after one update")


def test_one_update_of_everything_equals_the_reference(case):
    update = jax.jit(gciql.update, static_argnums=(0, 1))
    state, metrics = update(case.c, case.nets, case.state, case.batch, jax.random.key(0))
    for name in LEARNED:
        after = case.golden.network("params_after_one_update", name)
        assert_close(getattr(state, name).params, after, f"{name} after one update")
    target = case.golden.network("params_after_one_update", "target_critic")
    assert_close(state.critic_target, target, "slow critic after one update")
    total = sum(value for name, value in metrics.items() if name.startswith("loss/"))
    assert_close(total, case.golden["loss/total"], "sum of all losses")


def test_actions_equal_the_reference(case):
    obs, goal = case.golden["act/observations"], case.golden["act/goals"]
    actions = gciql.act(case.c, case.nets, case.state, obs, goal, jax.random.key(0))
    assert_close(actions[:, 0], case.golden["act/actions"], "actions")


def test_the_minimum_of_the_expectile_loss_is_the_expectile():
    sample = np.random.default_rng(0).normal(size=2001).astype(np.float32)
    grid = np.linspace(-2, 2, 4001, dtype=np.float32)
    best = grid[np.argmin([gciql.expectile_loss(sample - v, 0.9) for v in grid[::10]]) * 10]
    # the expectile balances the weighted distances on its two sides
    above, below = np.clip(sample - best, 0, None).sum(), np.clip(best - sample, 0, None).sum()
    assert 0.9 * above == pytest.approx(0.1 * below, rel=0.05)
    assert gciql.expectile_loss(sample, 0.5) == pytest.approx(0.5 * float((sample**2).mean()), rel=1e-5)
