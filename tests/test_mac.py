"""MAC against the official implementation: every loss, every gradient, the parameters after one update, the actions."""

from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden, assert_close

from mac_bench import mac, returns
from mac_bench.dynamics import prediction_loss, reward_loss, success_loss
from mac_bench.jax_agent import descend, learner
from mac_bench.nn import scalar
from mac_bench.types import Batch, Goals

LEARNED = ["dynamics", "value", "critic", "flow", "policy", "success", "reward"]
THEIRS = {"flow": "actor_flow", "policy": "actor_onestep_flow"}


class Case:
    """One golden file in our types."""

    def __init__(self, name: str):
        self.golden = golden = Golden(name)
        lam, execute = (0.8, 2) if name == "mac_goal_lam" else (1.0, 1)
        self.c = c = mac.Config(
            chunk=3,
            rollout_chunks=4,
            rollout_batch=8,
            train_candidates=5,
            act_candidates=6,
            execute=execute,
            discount=0.97,
            lam=lam,
            flow_steps=4,
            model_hidden=(16, 16),
            value_hidden=(16, 16),
            policy_hidden=(16, 16),
            batch_size=8,
            termination="learned",
        )
        self.nets = mac.networks(c, 5, 2)
        theirs = golden.group("batch")
        self.rewards = theirs["rewards"]
        self.goals = None
        if "value_goals" in theirs:
            self.goals = Goals(theirs["value_goals"], theirs["actor_goals"], 1 - theirs["masks"], np.full(8, np.inf))
        self.batch = Batch(
            obs=theirs["observations"],
            actions=theirs["actions"].reshape(8, 3, 2),
            # the reference keeps the finished chunk reward: with the mean over 3 steps, 3 times it at the first step
            rewards=np.stack([3 * self.rewards, 0 * self.rewards, 0 * self.rewards], axis=1),
            next_obs=theirs["next_observations"],
            alive=np.ones((8, 3), np.float32),
            index=np.arange(8),
            goals=self.goals,
        )
        draws = list(golden.group("draws").values())
        self.draws = mac.Draws(draws[0], draws[1], draws[2], jnp.stack(draws[3:]))

    def network(self, group: str, name: str) -> dict:
        return self.golden.network(group, THEIRS.get(name, name))

    def learner(self, name: str):
        return learner(self.network("params", name), self.c.learning_rate)

    @cached_property
    def state(self) -> mac.State:
        goal = self.goals is not None
        learners = {name: self.learner(name) for name in LEARNED}
        if goal:
            learners["reward"] = None
        return mac.State(value_target=self.golden.network("params", "target_value"), **learners)

    @cached_property
    def dream(self):
        """The imagined rollout with rewards, alive and both value targets, in one compilation."""

        @jax.jit
        def all_of_it(state, obs, goal, noise):
            rollout = mac.dream(self.c, self.nets, state, obs, goal, noise)
            rewards, alive = mac.outcome(self.c, self.nets, state, rollout, goal)
            v = mac.value_targets(self.c, self.nets, state, rollout, rewards, alive, goal)
            return (
                rollout,
                rewards,
                alive,
                v,
                mac.critic_target(self.c, self.nets, state, rollout, rewards, alive, goal),
            )

        goal = self.goals.value if self.goals else None
        return all_of_it(self.state, self.batch.obs, goal, self.draws.candidates)

    @cached_property
    def losses(self) -> dict:
        """name -> (loss of its parameters, golden loss)."""
        c, nets, state, b, info = self.c, self.nets, self.state, self.batch, self.golden.group("info")
        value_goal, actor_goal = (self.goals.value, self.goals.actor) if self.goals else (None, None)
        chunk, label = b.actions.reshape(8, -1), self.goals.reached if self.goals else np.zeros(8, np.float32)
        rollout, _, _, v, q = self.dream
        distill = self.draws.distill
        return {
            "dynamics": (
                lambda p: prediction_loss(nets.dynamics, p, b.obs, chunk, b.next_obs),
                info["dynamics/dynamics_loss"],
            ),
            "flow": (
                lambda p: nets.flow.loss(p, b.obs, actor_goal, chunk, self.draws.noise, self.draws.time),
                info["bc_actor/flow_loss"],
            ),
            "policy": (
                lambda p: mac.distill_loss(nets, p, state.flow.params, b.obs, actor_goal, distill),
                info["bc_actor/distill_loss"],
            ),
            "success": (
                lambda p: success_loss(nets.outcome, p, b.obs, value_goal, chunk, label),
                info["success/success_loss"],
            ),
            "reward": (
                lambda p: reward_loss(nets.outcome, p, b.obs, value_goal, chunk, self.rewards),
                info["reward/reward_loss"],
            ),
            "value": (lambda p: mac.value_loss(c, nets, p, rollout, value_goal, v), info["value/value_loss"]),
            "critic": (lambda p: mac.critic_loss(c, nets, p, rollout, value_goal, q), info["critic/critic_loss"]),
        }


@pytest.fixture(scope="module", params=["mac_goal", "mac_goal_lam", "mac_reward"])
def case(request) -> Case:
    return Case(request.param)


def test_imagined_rollout_equals_the_reference(case):
    rollout, rewards, alive, v, _ = case.dream
    theirs = case.golden.group("imagined")
    # rounding grows along a rollout: states and chunks of the fourth step agree to five parts in 1e5
    assert_close(rollout.states[:-1], theirs["rollout_observations"], "states", 5e-5)
    assert_close(rollout.states[1:], theirs["rollout_next_observations"], "next states", 5e-5)
    assert_close(rollout.chunks, theirs["rollout_actions"], "chunks", 5e-5)
    assert_close(rewards, theirs["rollout_rewards"], "rewards")
    assert_close(alive, theirs["rollout_masks"], "alive")
    assert_close(v, theirs["rollout_returns"], "returns")


@pytest.mark.parametrize("name", LEARNED)
def test_loss_gradient_and_step_equal_the_reference(case, name):
    loss, expected = case.losses[name]
    old = case.learner(name)
    value, gradient = jax.jit(jax.value_and_grad(loss))(old.params)
    assert_close(value, expected, f"{name} loss")
    assert_close(gradient, case.network("grads", name), f"{name} gradient")
    new, _ = jax.jit(descend, static_argnums=(1, 2))(old, case.c.learning_rate, loss)
    assert_close(new.params, case.network("params_after_one_update", name), f"{name} after one update")


def test_one_update_of_everything_equals_the_reference(case):
    state, metrics = jax.jit(mac.learn, static_argnums=(0, 1))(case.c, case.nets, case.state, case.batch, case.draws)
    learned = [name for name in LEARNED if getattr(state, name) is not None]
    assert learned == [name for name in LEARNED if case.goals is None or name != "reward"]
    for name in learned:
        after = case.network("params_after_one_update", name)
        assert_close(getattr(state, name).params, after, f"{name} after one update")
    target = case.golden.network("params_after_one_update", "target_value")
    assert_close(state.value_target, target, "slow value after one update")
    total = sum(value for name, value in metrics.items() if name.startswith("loss/"))
    unused = case.losses["reward"][1] if case.goals is not None else 0.0
    assert_close(total + unused, case.golden["loss/total"], "sum of all losses")


def test_actions_equal_the_reference(case):
    noise = next(iter(case.golden.group("act_draws").values()))
    goal = case.golden["act/goals"] if case.goals else None
    actions = mac.best_actions(case.c, case.nets, case.state, case.golden["act/observations"], goal, noise)
    assert actions.shape == (4, case.c.execute, 2)
    assert_close(actions.reshape(4, -1), case.golden["act/actions"], "actions")


def test_choose_takes_the_candidate_with_the_highest_q():
    case = Case("mac_goal")
    noise = case.draws.candidates[0]
    state, obs, goal = case.state, case.batch.obs, case.goals.value
    policy, critic = state.policy.params, state.critic.params
    each = np.stack([mac.choose(case.nets, policy, critic, obs, goal, z[None]) for z in noise])
    q = np.stack([scalar(case.nets.critic, critic, obs, goal, chunk) for chunk in each])
    best = each[q.argmax(axis=0), np.arange(8)]
    np.testing.assert_allclose(mac.choose(case.nets, policy, critic, obs, goal, noise), best, rtol=1e-5, atol=1e-6)


def test_learned_end_cuts_the_label_and_the_rewards_after_it():
    # the task ends at the second of three steps: that step's reward still counts, the third does not
    alive, rewards = jnp.array([[1.0, 0.0, 0.0]]), jnp.array([[-2.0, -1.0, -4.0]])
    assert returns.chunk_reward(rewards, alive, 0.5, "sum") == -2.5
    assert returns.chunk_reward(rewards, alive, 0.5, "mean") == pytest.approx(-2.5 / 3)
    assert returns.chunk_reward(rewards, jnp.ones((1, 3)), 0.5, "sum") == -3.5


def test_settings_that_contradict_each_other_are_refused():
    for wrong, words in [
        ({"execute": 11}, "execute is 11, but a chunk has 10 actions"),
        ({"batch_size": 64}, "rollout_batch is 1024, more than batch_size 64"),
        ({"value_loss": "bce"}, "value_loss 'bce' needs goal_reward '0/1'"),
    ]:
        with pytest.raises(ValueError, match=words):
            mac.Config(**wrong)
