"""The project's suites against the papers' tables: how many runs each is, and settings as the papers have them."""

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from mac_bench import published, reasons, registry, sources, suite, tasks

LONG = "ogbench-long-horizon"
HEADS = {
    LONG: "MAC's table of long-horizon tasks",
    "ogbench-singletask": "MAC's table of tasks with rewards",
    "ablations": "the ablations of its paper",
    "model-error": "a figure of MAC's paper",
    "d4rl-mujoco": "D4RL locomotion sets of MAC's appendix",
    "d4rl-antmaze": "LEQ's table of D4RL AntMaze",
}


@cache
def expanded(name: str) -> list[suite.Member]:
    return suite.expand(suite.load(Path(name)))


def runs(name: str, label: str, task: str = "") -> list:
    return [member.run for member in expanded(name) if member.label == label and task in member.run.task]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        # 4 seeds x (6 methods and chance on 7 tasks, FBC on 4, the oracle on 5)
        (LONG, 4 * (7 * 7 + 4 + 5)),
        # 4 seeds x (6 methods and chance on 25 tasks, the oracle on 20, 10 more on 5)
        ("ogbench-singletask", 4 * (7 * 25 + 20 + 10 * 5)),
        # 4 seeds x (MAC and 3 other chunk lengths on 6 tasks, 3 policies, 4 numbers of candidates, 3 rollouts on 4)
        ("ablations", 4 * (4 * 6 + 10 * 4)),
        ("model-error", 4 * 4),
        # 4 seeds x 12 sets x (7 methods and chance)
        ("d4rl-mujoco", 4 * 12 * 8),
        # 4 seeds x 6 mazes x (8 methods and chance)
        ("d4rl-antmaze", 4 * 6 * 9),
    ],
)
def test_a_suite_is_as_many_runs_as_its_table_implies(name, number):
    assert len(expanded(name)) == number
    assert {member.run.seed for member in expanded(name)} == {0, 1, 2, 3}


def test_a_hundred_million_transitions_are_never_loaded():
    found = [member for name in HEADS for member in expanded(name) if "-100m-" in member.run.dataset]
    assert len({member.run.dataset for member in found}) == 7
    for member in found:
        assert member.run.resident is not None, member.run.task


def test_runs_may_be_left_out_only_where_data_are_not_to_be_had():
    for name in HEADS:
        for run, optional in ((member.run, member.optional) for member in expanded(name)):
            to_be_had = run.dataset in sources.SOURCES or run.dataset.startswith(tasks.GENERATED)
            assert (optional is None) == to_be_had, run.dataset


def test_the_readme_says_how_many():
    readme = (suite.SUITES.parent / "README.md").read_text()
    for names, numbers in re.findall(r"^\| (`[^|]+`) \| ([\d, ]+) \|", readme, re.M):
        counts = [len(expanded(name)) for name in re.findall(r"`(\S+?)`", names)]
        assert counts == [int(number) for number in numbers.split(",")], names


def test_each_suite_of_a_table_says_which():
    others = {"quickstart", "smoke"}
    assert {*HEADS, *others} == set(suite.names())
    for name, says in HEADS.items():
        assert says in suite.load(Path(name)).about


def test_reproduced_tables_are_there_and_are_of_these_tasks():
    theirs = published.published()
    for name in HEADS:
        loaded = suite.load(Path(name))
        tasks = set(loaded.tasks) | {reasons.over_five(task) for task in loaded.tasks}
        for table, data in loaded.reproduces.items():
            rows = theirs[(theirs["table"] == table) & theirs["task"].isin(tasks)]
            assert len(rows if data is None else rows[rows["data"] == data]), (name, table)


def test_every_task_of_mac_s_tables_is_in_its_suite():
    theirs = published.published()
    for name, table in ((LONG, "mac-goal-conditioned-100m"), ("ogbench-singletask", "mac-singletask-1m")):
        tasks = set(suite.load(Path(name)).tasks)
        for task in theirs[theirs["table"] == table]["task"]:
            assert {task.replace("task*", f"task{i}") for i in range(1, 6)} <= tasks, task


# -- settings, transcribed from what is known of the papers ------------------------------------------------------------

MAC = {"chunk": 10, "rollout_chunks": 10, "rollout_batch": 1024, "train_candidates": 8, "act_candidates": 32}
MAC |= {"execute": 1, "discount": 0.999, "lam": 1.0, "tau": 0.005, "flow_steps": 10, "batch_size": 1024}
MAC |= {"learning_rate": 3e-4, "policy": "distill", "chunk_reward": "mean", "termination": "never", "layer_norm": True}
MAC |= dict.fromkeys(("model_hidden", "value_hidden", "policy_hidden"), [1024] * 4)
MAC |= {"value_goals": {"current": 0.2, "future": 0.5, "random": 0.3, "geometric": False}}
MAC |= {"actor_goals": {"current": 0.0, "future": 0.5, "random": 0.5, "geometric": True}}


@pytest.mark.parametrize(
    ("name", "task", "steps", "data", "other"),
    [
        (LONG, "humanoidmaze-medium-navigate-oraclerep", 5_000_000, "humanoidmaze-medium-navigate-100m-v0", {}),
        (LONG, "humanoidmaze-giant-navigate-oraclerep", 5_000_000, "humanoidmaze-giant-navigate-100m-v0", {}),
        (LONG, "cube-double-play-oraclerep", 5_000_000, "cube-double-play-100m-v0", {}),
        (LONG, "cube-octuple-play-oraclerep", 5_000_000, "cube-octuple-play-100m-v0", {}),
        (LONG, "puzzle-3x3-play-oraclerep", 5_000_000, "puzzle-3x3-play-100m-v0", {}),
        (LONG, "puzzle-4x5-play-oraclerep", 5_000_000, "puzzle-4x5-play-100m-v0", {"train_candidates": 32}),
        (LONG, "puzzle-4x6-play-oraclerep", 5_000_000, "puzzle-4x6-play-100m-v0", {}),
        ("ogbench-singletask", "cube-single-play-singletask-task5", 1_000_000, "cube-single-play-v0", {}),
        ("ogbench-singletask", "scene-play-singletask-task1", 1_000_000, "scene-play-v0", {}),
        ("ogbench-singletask", "puzzle-4x4-play-singletask-task4", 1_000_000, "puzzle-4x4-play-v0", {}),
    ],
)
def test_mac_is_as_its_code_has_it(name, task, steps, data, other):
    for run in runs(name, "MAC", task):
        assert {key: run.settings[key] for key in MAC} == MAC | other
        assert (run.steps, run.dataset) == (steps, data)
        assert (run.evaluation.every, run.evaluation.episodes) == (100_000, 15)
    assert len(runs(name, "MAC", task)) == 4


BOTH_GOALS = {"current": 0.0, "future": 0.5, "random": 0.5, "geometric": True}
AHEAD = {"current": 0.0, "future": 1.0, "random": 0.0, "geometric": True}
HORIZON_REDUCTION = {  # weight of cloning, aggregation of critics, the policy's goals
    "cube-double": (10, "min", AHEAD),
    "cube-octuple": (10, "min", AHEAD),
    "puzzle-3x3": (1, "min", BOTH_GOALS),
    "puzzle-4x5": (1, "min", BOTH_GOALS),
    "puzzle-4x6": (1, "min", BOTH_GOALS),
    "humanoidmaze-medium": (0.3, "mean", AHEAD | {"geometric": False}),
    "humanoidmaze-giant": (0.3, "mean", AHEAD | {"geometric": False}),
}


@pytest.mark.parametrize("environment", HORIZON_REDUCTION)
def test_horizon_reduction_s_methods_are_as_its_commands_have_them(environment):
    alpha, aggregation, goals = HORIZON_REDUCTION[environment]
    for run in runs(LONG, "GCIQL", environment):
        s = run.settings
        assert (s["alpha"], s["q_aggregation"], s["actor_goals"]) == (alpha, aggregation, goals)
        assert (s["batch_size"], s["discount"], s["tau"], s["learning_rate"]) == (1024, 0.999, 0.005, 3e-4)
        assert (s["value_hidden"], s["policy_hidden"], run.steps) == ([1024] * 4, [1024] * 4, 5_000_000)
    cloned = runs(LONG, "FBC", environment)
    assert len(cloned) == (0 if environment in ("cube-double", "puzzle-3x3", "humanoidmaze-medium") else 4)
    for run in cloned:
        assert (run.settings["goals"], run.settings["chunk"], run.settings["flow_steps"]) == (goals, 1, 10)


@pytest.mark.parametrize("name", [LONG, "ogbench-singletask"])
def test_other_methods_are_as_mac_s_code_has_them(name):
    for label in ("MOPO", "MOBILE"):
        for run in runs(name, label):
            s = run.settings
            assert (s["members"], s["rollout_length"], s["beta"], s["real_fraction"]) == (7, 5, 0.003, 0.5)
            assert (s["rollout_batch"], s["rollout_every"], s["retain"]) == (50_000, 1000, 5)
            assert (s["critics"], s["q_aggregation"], s["batch_size"]) == (2, "min", 1024)
    for run in runs(name, "LEQ"):
        s = run.settings
        assert (s["members"], s["rollout_steps"], s["expectile"], s["imagined_weight"]) == (7, 10, 0.5, 0.95)
    for run in runs(name, "F-MPC"):
        assert (run.settings["chunk"], run.settings["candidates"], run.settings["propose"]) == (32, 64, 1)


ABLATIONS = {
    "MAC (Gau)": {"policy": "gaussian"},
    "MAC (FQL)": {"policy": "fql", "chunk": 5, "train_candidates": 1, "act_candidates": 1},
    "MAC w/o flow teacher (one-step flow only)": {"policy": "flow", "flow_steps": 1},
    "MAC, chunks of 1": {"chunk": 1},
    "MAC, chunks of 5": {"chunk": 5},
    "MAC, chunks of 25": {"chunk": 25},
    "MAC, 1 imagined candidate": {"train_candidates": 1},
    "MAC, 32 imagined candidates": {"train_candidates": 32},
    "MAC, 1 candidate to act": {"act_candidates": 1},
    "MAC, 8 candidates to act": {"act_candidates": 8},
    "MAC, rollouts of 1 chunk": {"rollout_chunks": 1},
    "MAC, rollouts of 5 chunks": {"rollout_chunks": 5},
    "MAC, rollouts of 20 chunks": {"rollout_chunks": 20},
}


def test_an_ablation_changes_what_its_label_says_and_nothing_else():
    assert {member.label for member in expanded("ablations")} == {"MAC", *ABLATIONS}
    for member in expanded("ablations"):
        assert {key: member.run.settings[key] for key in MAC} == MAC | ABLATIONS.get(member.label, {}), member.label


def test_runs_that_two_suites_share_are_trained_once():
    shared = {run.id for run in runs("ablations", "MAC")}
    assert len(shared) == 24
    assert shared <= {run.id for name in (LONG, "ogbench-singletask") for run in runs(name, "MAC")}


def test_model_errors_are_of_models_that_differ_in_their_chunk_alone():
    found = {member.label: member.run.settings for member in expanded("model-error")}
    assert [settings.pop("chunk") for settings in found.values()] == [1, 5, 10, 25]
    assert len({str(settings) for settings in found.values()}) == 1
    for settings in found.values():  # what the model itself is made of
        assert (settings["model_hidden"], settings["batch_size"], settings["learning_rate"]) == ([1024] * 4, 1024, 3e-4)


KIT = {  # OfflineRL-Kit's suggestions: MOPO's penalty and rollout length, COMBO's weight and rollout length
    "halfcheetah-medium-v2": (0.5, 5, 0.5, 5),
    "hopper-medium-v2": (5.0, 5, 5.0, 5),
    "walker2d-medium-v2": (0.5, 5, 5.0, 1),
    "halfcheetah-medium-replay-v2": (0.5, 5, 0.5, 5),
    "hopper-medium-replay-v2": (2.5, 5, 0.5, 5),
    "walker2d-medium-replay-v2": (2.5, 1, 0.5, 1),
    "halfcheetah-medium-expert-v2": (2.5, 5, 5.0, 5),
    "hopper-medium-expert-v2": (5.0, 5, 5.0, 5),
    "walker2d-medium-expert-v2": (2.5, 1, 5.0, 1),
}
KIT_MOBILE = {  # penalty, rollout length
    "halfcheetah-random-v2": (0.5, 5),
    "hopper-random-v2": (5.0, 5),
    "walker2d-random-v2": (2.0, 5),
    "halfcheetah-medium-v2": (0.5, 5),
    "hopper-medium-v2": (1.5, 5),
    "walker2d-medium-v2": (0.5, 5),
    "halfcheetah-medium-replay-v2": (0.1, 5),
    "hopper-medium-replay-v2": (0.1, 5),
    "walker2d-medium-replay-v2": (0.5, 1),
    "halfcheetah-medium-expert-v2": (2.0, 5),
    "hopper-medium-expert-v2": (1.5, 5),
    "walker2d-medium-expert-v2": (1.5, 1),
}
KIT_RAMBO = {  # weight of the adversary, rollout length
    "halfcheetah-medium-v2": (3e-4, 5),
    "hopper-medium-v2": (3e-4, 5),
    "walker2d-medium-v2": (0.0, 5),
    "halfcheetah-medium-replay-v2": (3e-4, 5),
    "hopper-medium-replay-v2": (3e-4, 5),
    "walker2d-medium-replay-v2": (0.0, 5),
    "halfcheetah-medium-expert-v2": (0.0, 5),
    "hopper-medium-expert-v2": (0.0, 5),
    "walker2d-medium-expert-v2": (3e-4, 2),
}


def test_robots_are_trained_as_in_offlinerl_kit():
    by_label = {label: {run.task: run for run in runs("d4rl-mujoco", label)} for label in ("MOPO", "MOBILE", "COMBO")}
    for task, (beta, length, weight, combo_length) in KIT.items():
        mopo, combo = (by_label[label][task].settings for label in ("MOPO", "COMBO"))
        assert (mopo["beta"], mopo["rollout_length"]) == (beta, length), task
        assert (combo["beta"], combo["rollout_length"]) == (weight, combo_length), task
        assert (combo["real_fraction"], mopo["real_fraction"]) == (0.5, 0.05)
    for task, (beta, length) in KIT_MOBILE.items():
        mobile = by_label["MOBILE"][task].settings
        assert (mobile["beta"], mobile["rollout_length"], mobile["samples"]) == (beta, length, 10), task
    for run in runs("d4rl-mujoco", "RAMBO"):
        if run.task in KIT_RAMBO:
            found = (run.settings["adversary_weight"], run.settings["rollout_length"])
            assert found == KIT_RAMBO[run.task], run.task
    steps = Counter((member.label, member.run.steps) for member in expanded("d4rl-mujoco"))
    assert {("MOPO", 3_000_000), ("MOBILE", 3_000_000), ("COMBO", 1_000_000), ("RAMBO", 2_000_000)} <= set(steps)
    for by_task in by_label.values():
        for run in by_task.values():
            s = run.settings
            assert (s["batch_size"], s["discount"], s["model_hidden"], s["scaling"]) == (
                256,
                0.99,
                [200] * 4,
                "meanstd",
            )


def test_smoke_has_every_agent_on_goals_and_on_rewards():
    found = Counter(member.run.agent for member in expanded("smoke"))
    assert found == dict.fromkeys(registry.names(), 2)
    assert max(member.run.steps for member in expanded("smoke")) <= 50
