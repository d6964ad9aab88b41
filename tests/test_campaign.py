import json
import time
from collections import Counter

import pytest
from campaign import METHODS, NOW, SCRIPT, TASKS, fill, members, write_folders
from test_store import rows

from mac_bench import queries, report, store

STATED = "id, agent, version, task, dataset, seed, config, state, step, steps, reason, heartbeat, host, updates_per_s"
SIZE = {"runs": 60, "evaluations": 7, "metrics": 6}


def test_folders_and_database_hold_the_same_rows(root, database, tmp_path):
    now = round(time.time(), 3)
    write_folders(root, **SIZE, now=now)
    collected = store.collect(root, database, silence_s=3600)
    assert collected.problems == ()
    fill(tmp_path / "filled.db", **SIZE, now=now)
    for table in ("suites", "members", "metrics", "evaluations", "attempts"):
        assert rows(database, table) == rows(tmp_path / "filled.db", table), table
    assert rows(database, "runs", STATED) == rows(tmp_path / "filled.db", "runs", STATED)
    assert len(rows(database, "metrics")) > 40 * 7 * 6


def test_it_is_the_same_each_time_and_another_with_another_seed(tmp_path):
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        write_folders(tmp_path / name, 12, 5, 5, seed=seed)
    texts = [
        b"".join(p.read_bytes() for p in sorted((tmp_path / n).rglob("*.json*"))) for n in ("one", "same", "other")
    ]
    assert texts[0] == texts[1] != texts[2]


def test_there_is_something_of_everything(database):
    fill(database, 500, 4, 6)
    frame = queries.results(database, "campaign")
    states = Counter(frame["state"])
    assert states["finished"] > 400
    assert set(states) == {"finished", "running", "failed", "lost", "waiting", "stopped"}
    assert frame.groupby(["label", "task"])["complete"].any().all()
    assert (len(set(frame["label"])), len(set(frame["task"]))) == (10, 25)
    assert SCRIPT in set(frame["label"])
    assert {"time limit", "SIGTERM", "no sign of life"} < set(frame["reason"].dropna())
    assert frame["reason"].str.contains("CUDA out of memory <b>", regex=False).any()
    assert len(queries.results(database, "small")) == 3 * 2 * 2
    costs = queries.costs(database, "campaign")
    assert Counter(costs["device"]).most_common(1)[0][0] == "NVIDIA H100"
    assert set(costs["attempts"]) == {0, 1, 2}
    of_models = queries.measured(database, "campaign", [f"model_error/{steps}" for steps in (10, 50, 100)])
    assert len(set(of_models["label"])) == 7
    assert len(set(queries.curves(database, "campaign", every_task=True, task=TASKS[-1])["eval_task"])) == 6


def test_methods_and_tasks_differ_and_one_task_mixes_versions(database):
    fill(database, 500, 10, 2)
    frame = queries.results(database, "campaign")
    done = frame[frame["complete"]]
    means = done.groupby("label")["score"].mean()
    assert means["MAC"] > means["GCIQL"] > means["BC"]
    assert done.groupby("task")["score"].mean().std() > 0.05
    assert done[done["label"] == "MOPO"].groupby("task")["score"].std().max() > 0  # seeds
    curve = queries.curves(database, "campaign", label="MAC").groupby("step")["success"].mean()
    assert curve.iloc[-1] > 2 * curve.iloc[0]
    one_task = queries.results(database, "campaign", task=TASKS[1])
    assert [w for w in report.build(one_task).warnings if w.startswith("mujoco differs")]
    assert report.build(queries.results(database, "campaign", task=TASKS[2])).warnings == ()


@pytest.mark.parametrize("runs", [10, 250, 5000])
def test_the_first_runs_are_whole_seeds(runs):
    planned = members(runs)
    assert len({run.id for _, run in planned}) == runs
    assert {run.seed for _, run in planned} == set(range(-(-runs // 250)))
    assert [label for label, _ in planned[:10]] == list(METHODS)


def test_times_of_a_run_are_in_order(tmp_path):
    write_folders(tmp_path, 20, 6, 3)
    for log in tmp_path.glob("*/events.jsonl"):
        times = [json.loads(line)["time"] for line in log.read_text().splitlines()]
        assert times == sorted(times)
        assert times[-1] <= NOW
