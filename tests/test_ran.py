"""What ran under a label, and whether it is what the project's own suite of a table has there."""

import json
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from mac_bench import published, registry, suite
from mac_bench.ran import Run, unlike, what_ran

TASK = "cube-double-play-singletask-task2-v0"
TABLE = "mac-singletask-1m"


@cache
def of(label: str, task: str = TASK, name: str = "ogbench-singletask") -> Run:
    members = suite.expand(suite.load(Path(name)))
    (run,) = [m.run for m in members if (m.label, m.run.task, m.run.seed) == (label, task, 0)]
    return Run(task, run.agent, json.dumps(run.settings), json.dumps(registry.defaults(run.agent)))


def changed(run: Run, **settings) -> Run:
    return run._replace(settings=json.dumps(json.loads(run.settings) | settings))


def test_the_project_s_suites_have_what_they_have():
    """All runs of all suites that repeat a table, read from YAML alone, without their agents."""
    seen = 0
    for name in suite.names():
        loaded = suite.load(Path(name))
        for label, run, *_ in suite.expand(loaded) if loaded.reproduces else ():
            mine = Run(run.task, run.agent, json.dumps(run.settings), json.dumps(registry.defaults(run.agent)))
            for table in loaded.reproduces:
                assert unlike(table, label, mine) == "", (name, label, run.task)
            seen += 1
    assert seen > 1000


def test_a_small_mac_is_not_the_paper_s():
    small = changed(of("MAC"), chunk=2, policy_hidden=[16])
    assert unlike(TABLE, "MAC", small) == (
        "other settings than ogbench-singletask has: chunk 2 (10 there), "
        "policy_hidden [16] ([1024, 1024, 1024, 1024] there)"
    )
    more = changed(of("MAC"), chunk=2, policy_hidden=[16], value_hidden=[16], model_hidden=[16], batch_size=16)
    assert unlike(TABLE, "MAC", more).endswith(" and 2 more")


def test_a_setting_of_the_suite_is_wanted_where_it_is_for_that_task_alone():
    run = of("MAC", "puzzle-4x5-play-oraclerep-v0", "ogbench-long-horizon")
    assert unlike("mac-goal-conditioned-100m", "MAC", changed(run, train_candidates=8)) == (
        "other settings than ogbench-long-horizon has: train_candidates 8 (32 there)"
    )


def test_another_agent_under_a_method_s_name():
    chance = of("random")
    assert unlike(TABLE, "IQL", chance) == "other method: random_actions, where ogbench-singletask has gciql"


def test_names_are_one_however_they_are_written():
    assert unlike(TABLE, "fmpc", of("F-MPC")) == ""


@pytest.mark.parametrize(
    ("table", "label", "task"),
    [
        ("uhm-singletask", "MAC", TASK),
        (TABLE, "MAC with something else", TASK),
        (TABLE, "MAC", "scene-noisy-singletask-task2-v0"),
        (TABLE, "COMBO", "cube-double-play-singletask-task1-v0"),  # it has COMBO on the default tasks alone
    ],
)
def test_what_no_suite_repeats_cannot_be_compared(table, label, task):
    says = unlike(table, label, of("MAC")._replace(task=task))
    assert says == f"no suite here repeats this number with a label {label}: settings cannot be compared"


@pytest.mark.parametrize("defaults", [None, "unknown", "{} + {}"])
def test_defaults_that_are_not_on_record(defaults):
    assert unlike(TABLE, "MAC", of("MAC")._replace(defaults=defaults)) == "unknown defaults of our settings"


def test_what_ran_is_said_for_each_label():
    row = {"label": "MAC", "agent": "mac", "steps": 1000, "defaults": '{"chunk": 10, "hidden": [8]}'}
    rows = [
        row | {"task": "a", "settings": '{"chunk": 2, "hidden": [16]}'},
        row | {"task": "b", "settings": '{"chunk": 2, "hidden": [16]}'},
        row | {"task": "c", "settings": '{"chunk": 3, "hidden": [8]}'},
        row | {"label": "plain", "task": "a", "settings": '{"chunk": 10, "hidden": [8]}'},
        row | {"label": "plain", "task": "b", "settings": '{"chunk": 10, "hidden": [8]}'},
        row | {"label": "old", "task": "a", "settings": '{"chunk": 1}', "defaults": "unknown"},
        row | {"label": "waiting", "task": "a", "settings": '{"chunk": 1}', "defaults": None},
    ]
    assert what_ran(pd.DataFrame(rows)).to_numpy().tolist() == [
        ["MAC", "mac", "1,000", "a, b", "chunk 2, hidden [16]"],
        ["MAC", "mac", "1,000", "c", "chunk 3"],
        ["plain", "mac", "1,000", "all 2", "the defaults"],
        ["old", "mac", "1,000", "a", "the defaults of its time are not on record; chunk 1"],
    ]


def test_the_reasons_of_a_mean_over_five_tasks_are_those_of_its_runs():
    runs = [
        {"label": "MAC", "agent": "mac", "task": task, "seed": 0, "complete": True, "score": 0.5, "steps": 1000}
        | {"dataset": "cube-double-play-v0", "average_last": 3, "every": 100, "data_made_here": "False"}
        | {"data_fetched": "True", "data_rows": "1001000", "mujoco": "3.3.7", "simulator": "ogbench"}
        | {"measure": "success", "settings": run.settings, "defaults": run.defaults}
        for number in range(1, 6)
        for task in [f"cube-double-play-singletask-task{number}-v0"]
        for run in [changed(of("MAC"), chunk=2) if number == 5 else of("MAC")]
    ]
    found = published.beside(published.own_means(pd.DataFrame(runs)))
    (row,) = found[(found["table"] == TABLE)].to_dict("records")
    assert row["not_comparable"].startswith("other settings than ogbench-singletask has: chunk 2 (10 there); ")
