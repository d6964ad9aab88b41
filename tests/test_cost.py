"""What a suite will take: hand numbers, and what is not known."""

import json
import math
from pathlib import Path

import pytest
from rich.console import Console
from run_folders import ended, evaluated, measured, planned, started, write_run, write_suite

from mac_bench import cost, registry
from mac_bench.config import EvalConfig
from mac_bench.errors import UserError
from mac_bench.store import collect
from mac_bench.suite import Member

CUBE, SCENE = "cube-single-play", "scene-play"


def run(agent: str = "bc", task: str = CUBE, steps: int = 3600, seed: int = 0, **settings):
    """Evaluated four times."""
    resolved = registry.settings(agent, settings, "test").model_dump(mode="json")
    protocol = EvalConfig(every=steps // 4, episodes=20)
    return planned(seed, task, agent, steps).model_copy(update={"settings": resolved, "evaluation": protocol})


def table(folder: Path, *rows: dict) -> Path:
    path = folder / "rates.csv"
    row = {"agent": "bc", "settings": "{}", "observations": "37", "actions": "5", "goals": "0", "device": "H100"}
    row |= {"updates_per_s": "50", "command": "x", "date": "2026-11-26", "note": ""}
    lines = [",".join(cost.COLUMNS)]
    for other in rows:
        quoted = ('"' + str((row | other)[name]).replace('"', '""') + '"' for name in cost.COLUMNS)
        lines.append(",".join(quoted))
    path.write_text("\n".join(lines) + "\n")
    return path


def collected(root: Path, database: Path, *runs) -> Path:
    """Run folders that ended at 30 updates/s, on a device, with an evaluation of 1.5 s."""
    for each in runs:
        lines = [started(device="H100"), measured(100), evaluated(250, 0.5), ended(each.steps)]
        write_run(root, each, lines, step=each.steps)
    write_suite(root, [("BC", each) for each in runs])
    collect(root, database)
    return database


def test_hours_by_hand(tmp_path):
    known = cost.Known(table=table(tmp_path, {}))
    members = [Member("BC", run(steps=3600 * 50, seed=seed)) for seed in range(3)]
    (line,) = cost.lines(members, known, "H100")
    assert (line.runs, line.updates, line.unknown) == (3, 3 * 3600 * 50, 0)
    assert line.hours == pytest.approx(3.0)
    assert line.rates == (cost.Rate("H100", 50.0, "rates.csv, 37+0 inputs, 2026-11-26"),)
    assert math.isnan(line.evaluating), "nobody has measured an evaluation"


def test_what_is_not_known_is_not_guessed(tmp_path):
    known = cost.Known(table=table(tmp_path, {}))
    members = [Member("BC", run()), Member("BC", run(hidden=[512])), Member("flow", run("flow_bc"))]
    bc, flow = cost.lines(members, known, "H100")
    assert (bc.runs, bc.unknown, bc.hours) == (2, 1, pytest.approx(3600 / 50 / 3600))
    assert (flow.unknown, flow.rates, flow.hours) == (1, (), 0)
    assert known.devices(member.run for member in members) == ["H100"]
    assert cost.lines(members, known, "A100")[0].unknown == 2, "a rate is of one device"
    console = Console(width=200, record=True)
    cost.show(console, members, known)
    text = console.export_text()
    assert "(1 of 2 unknown)" in text and "not in the sum: 2 runs" in text
    assert [row.split()[:4] for row in text.splitlines() if row.startswith("flow")] == [
        ["flow", "1", "3,600", "unknown"]
    ]


def test_settings_are_the_same_where_they_ask_for_the_same_work(tmp_path):
    def same(agent, **settings):
        return cost.work(agent, run(agent, **settings).settings) == cost.work(agent, run(agent).settings)

    assert same("mac", discount=0.9, learning_rate=1e-3, act_candidates=1, execute=5)
    assert same("bc", goals={"current": 0, "future": 1, "random": 0})
    for settings in ({"chunk": 5}, {"train_candidates": 9}, {"value_hidden": [1024]}, {"policy": "gaussian"}):
        assert not same("mac", **settings)
    assert not same("mac", batch_size=2048)
    rows = table(tmp_path, {"agent": "mac", "settings": json.dumps({"chunk": 5, "tau": 0.1})})
    assert cost.Known(table=rows).rate(run("mac", chunk=5), "H100") is not None


def test_runs_of_our_own_come_first_and_those_of_the_same_task_before(root, database, tmp_path):
    own = [run(seed=0), run(seed=1), run(task=SCENE)]
    known = cost.Known(collected(root, database, *own), table(tmp_path, {}))
    assert known.rate(run(seed=7), "H100") == cost.Rate("H100", 30.0, "2 own runs")
    assert known.rate(run(task="puzzle-3x3-play"), "H100") == cost.Rate("H100", 30.0, "3 own runs on other tasks")
    assert known.rate(run(chunk=2), "H100") == cost.Rate("H100", 30.0, "2 own runs", ("chunk",)), "an estimate"
    # four evaluations of 1.5 s each, of the same protocol
    assert known.evaluating(run(seed=7)) == pytest.approx(6.0)
    other = EvalConfig(every=900, episodes=21)
    assert math.isnan(known.evaluating(run().model_copy(update={"evaluation": other})))
    (line,) = cost.lines([Member("BC", run()), Member("BC", run(seed=9))], known, "H100")
    assert (line.hours, line.evaluating) == (pytest.approx(2 * 120 / 3600), pytest.approx(2 * 6 / 3600))


def test_the_nearest_settings_are_an_estimate_that_says_so(tmp_path):
    def row(per_s, **settings):
        return {"agent": "mac", "settings": json.dumps(settings), "updates_per_s": per_s}

    rows = [row(10, chunk=1, flow_steps=1), row(20, chunk=1), row(30, value_hidden=[64]), row(40, chunk=7)]
    known = cost.Known(table=table(tmp_path, *rows, {"agent": "random_actions", "device": cost.ANY}))

    def rate(**settings):
        found = known.rate(run("mac", **settings), "H100")
        return found and (found.updates_per_s, found.unlike)

    assert rate(chunk=1) == (20, ())
    assert rate(chunk=1, flow_steps=2) == (10, ("flow_steps",)), "the first of several that are as near"
    assert rate(flow_steps=1) == (10, ("chunk",)), "fewer differences than any other"
    assert rate(value_hidden=[64]) == (30, ()) and rate(value_hidden=[32]) is None, (
        "networks of other sizes say nothing"
    )
    assert known.rate(run("mac"), "A100") is None
    assert known.rate(run("random_actions"), "A100") == cost.Rate("A100", 50, "rates.csv, 37+0 inputs, 2026-11-26")
    members = [Member("MAC", run("mac", chunk=1)), Member("MAC 2", run("mac", flow_steps=1))]
    console = Console(width=200, record=True)
    cost.show(console, members, known)
    rows = [line.split() for line in console.export_text().splitlines()]
    assert [row[:6] for row in rows if row[:1] == ["MAC"]] == [
        ["MAC", "1", "3,600", "20.0", "0.05", "unknown"],
        ["MAC", "2", "1", "3,600", "≈", "10.0"],
    ]
    assert next(row for row in rows if row[:1] == ["sum"])[3:5] == ["≈", "0.15"]


def test_a_later_row_of_the_table_counts(tmp_path):
    known = cost.Known(table=table(tmp_path, {}, {"updates_per_s": "60"}, {"device": "A100"}))
    found = known.rate(run(), "H100")
    assert found is not None and found.updates_per_s == 60
    assert known.devices([run()]) == ["A100", "H100"]


def test_a_damaged_table_is_refused_with_its_line(tmp_path):
    with pytest.raises(UserError, match=r"rates.csv, line 3: updates_per_s is 'fast', not a rate"):
        cost.Known(table=table(tmp_path, {}, {"updates_per_s": "fast"}))
    with pytest.raises(UserError, match=r"rates.csv: bc: no setting 'width'"):
        cost.Known(table=table(tmp_path, {"settings": '{"width": 3}'}))
    (tmp_path / "rates.csv").write_text("agent,rate\n")
    with pytest.raises(UserError, match=r"rates.csv: its columns must be agent, settings"):
        cost.Known(table=tmp_path / "rates.csv")


def test_the_benchmark_s_rows_can_be_read_back_and_replace_their_like(tmp_path):
    import update

    cases = update.sizes_of(["smoke"])
    agents = [name for name, _, _ in cases.values()]
    assert sorted(agents) == sorted(set(registry.names()) - {"oracle", "random_actions"}), "tasks change no size"
    assert cases[next(title for title in cases if title.startswith("bc "))][1] == {"hidden": [16], "batch_size": 16}
    for per_s in (3.0, 4.0):
        row = {"agent": "bc", "settings": '{"chunk": 3}', "observations": 37, "actions": 5, "goals": 0, "note": ""}
        update.add(tmp_path / "rates.csv", row | {"device": "cpu", "updates_per_s": per_s, "command": "", "date": "d"})
    update.add(tmp_path / "rates.csv", row | {"device": "gpu", "updates_per_s": 9, "command": "", "date": "d"})
    known = cost.Known(table=tmp_path / "rates.csv")
    assert len(cost.read(tmp_path / "rates.csv")) == 2
    assert known.rate(run(chunk=3), "cpu") == cost.Rate("cpu", 4.0, "rates.csv, 37+0 inputs, d")


def test_the_project_s_own_table_can_be_read():
    assert cost.Known().table
