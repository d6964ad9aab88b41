"""Every page on a campaign, on an empty database and without one; and that what it shows is what the database says."""

import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from campaign import SCRIPT, fill
from run_folders import a_whole_run, ended, evaluated, measured, planned, started, write_run, write_status, write_suite
from streamlit.testing.v1 import AppTest

from mac_bench import browse, queries, store
from mac_bench.errors import UserError

PAGES = ["overview", "board", "run", "leaderboard", "curves", "statistics", "horizon", "cost"]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory) -> Path:
    database = tmp_path_factory.mktemp("campaign") / "results.db"
    fill(database, runs=1000, evaluations=10, metrics=8)
    return database


def opened(page: str, database: Path, monkeypatch, **query: str) -> AppTest:
    """A page as the navigation shows it."""
    monkeypatch.setattr("sys.argv", ["app.py", "--db", str(database), "--runs", str(database.parent)])
    # Streamlit leaves its page there as the main module, which every process that is spawned later would run
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    app = AppTest.from_string(
        "from dashboard.source import guarded, source\n"
        f"from dashboard.views import {page}\n"
        f"source.clear()\nguarded({page}.show)()",
        default_timeout=60,
    )
    for name, value in query.items():
        app.query_params[name] = value
    return app.run()


@pytest.mark.parametrize("page", PAGES)
def test_a_campaign_is_shown(page, campaign, monkeypatch):
    run = queries.results(campaign, "campaign")["run"][0]
    app = opened(page, campaign, monkeypatch, **({"run": run} if page == "run" else {}))
    assert not app.exception and not app.info, (app.exception, app.info)
    assert app.title[0].value
    assert len(app.dataframe) + len(app.get("vega_lite_chart")) > 0
    # a label that is a script stays text: no element is told to take its text for HTML
    assert not [element for element in app.markdown if SCRIPT in element.value or element.proto.allow_html]


@pytest.mark.parametrize("page", [page for page in PAGES if page != "run"])
@pytest.mark.parametrize("there", [False, True])
def test_without_results_a_page_says_what_to_do(page, there, root, tmp_path, monkeypatch):
    if there:
        (root / "suites").mkdir()
        store.collect(root, tmp_path / "results.db")
    app = opened(page, tmp_path / "results.db", monkeypatch)
    assert not app.exception
    assert re.search("mac-bench run SUITE" if there else "mac-bench collect", app.info[0].value)


def test_a_run_that_is_not_there_is_a_line(campaign, monkeypatch):
    app = opened("run", campaign, monkeypatch, run="nothing")
    assert not app.exception and "no run 'nothing'" in app.info[0].value


def test_the_leaderboard_shows_what_the_database_says(campaign, monkeypatch):
    task = "cube-single-play-singletask-v0"
    app = opened("leaderboard", campaign, monkeypatch, label="MAC", task=task)
    table = app.dataframe[0].value
    assert list(table["method"]) == ["MAC"] and task in table and "scene-play-singletask-v0" not in table
    scores = queries.results(campaign, "campaign", label="MAC", task=task, state="finished")["score"]
    assert table[task][0].startswith(f"{100 * scores.mean():.0f} [") and f"n={len(scores)}" in table[task][0]


def test_the_only_tag_of_a_suite_filters_too(root, database, monkeypatch):
    write_suite(root, [("MAC", planned()), ("BC", planned(1))], tags={"MAC": ["model-based"]})
    for seed in (0, 1):
        write_run(root, planned(seed), a_whole_run())
    store.collect(root, database)
    tagged = opened("leaderboard", database, monkeypatch, tag="model-based")
    assert tagged.dataframe[0].value["method"].tolist() == ["MAC"]
    assert opened("leaderboard", database, monkeypatch).dataframe[0].value["method"].tolist() == ["MAC", "BC"]


@pytest.mark.parametrize("key", ["suite", "label", "task", "tag"])
def test_what_a_link_names_in_vain_is_said(key, campaign, monkeypatch):
    app = opened("leaderboard", campaign, monkeypatch, **{key: "no_such *one*"})
    assert any(f"no {key} no" in warning.value and r"\*one\*" in warning.value for warning in app.warning)


def test_lines_of_errors_are_no_markup(campaign, monkeypatch):
    app = opened("run", campaign, monkeypatch, run="x ![i](http://mac-bench.invalid/a.png) <b>")
    assert r"\!\[i\]\(http\://mac-bench.invalid" in app.info[0].value and r"\<b\>" in app.info[0].value


def test_pages_write_nothing(campaign, monkeypatch):
    before = campaign.read_bytes()
    for page in PAGES:
        opened(page, campaign, monkeypatch)
    assert campaign.read_bytes() == before and [path.name for path in campaign.parent.iterdir()] == ["results.db"]


def test_costs_by_hand(root, database):
    """Two attempts of 100 and 80 s; the target is reached 30 s into the second. A second run never reaches it."""
    write_suite(root, [("MAC", planned()), ("MAC", planned(1))])
    lines = [
        *(started(time=1000.0, device="H100"), evaluated(250, 0.2) | {"time": 1090.0}),
        ended(250, "stopped") | {"time": 1100.0},
        *(started(2, 250, 2000.0, device="H100"), evaluated(500, 0.6, attempt=2) | {"time": 2030.0}),
        *(evaluated(1000, 0.9, attempt=2) | {"time": 2070.0}, ended(1000, attempt=2) | {"time": 2080.0}),
    ]
    lines[1]["memory"], lines[4]["memory"] = {"memory_mb": 500.0}, {"memory_mb": 700.0, "device_memory_mb": 9.0}
    write_run(root, planned(), lines)
    write_run(root, planned(1), [started(time=1.0), *a_whole_run((0.1, 0.2, 0.3, 0.4))[1:]])
    store.collect(root, database)
    first, second = queries.costs(database, "first").to_dict("records")
    assert (first["attempts"], first["seconds"], first["evaluating"]) == (2, 180, 4.5)
    assert (first["to_target"], first["device"]) == (130, "H100")
    assert (first["memory_mb"], first["device_memory_mb"]) == (700, 9)
    assert (second["seconds"], second["attempts"]) == (8, 1)
    assert math.isnan(second["to_target"]) and math.isnan(second["memory_mb"])


def test_states_of_all_suites(root, database):
    write_suite(root, [("MAC", planned()), ("MAC", planned(1)), ("BC", planned(2))])
    write_run(root, planned(), a_whole_run())
    write_run(root, planned(1), [started(), measured(100), ended(100, "failed", reason="boom")], "failed", 100)
    write_status(root, planned(1), "failed", 100, reason="boom")
    store.collect(root, database)
    found = queries.states(database).set_index("state")
    assert found["runs"].to_dict() == {"finished": 1, "failed": 1, "waiting": 1}
    assert (found["done"].to_dict(), set(found["updates"])) == ({"finished": 1000, "failed": 100, "waiting": 0}, {1000})
    row = queries.in_state(database, ["failed", "lost"]).to_dict("records")
    assert [(r["suite"], r["seed"], r["reason"], r["step"]) for r in row] == [("first", 1, "boom", 100)]


def test_what_was_ordered_is_shown_with_who_ordered_it(root, database, monkeypatch):
    """In the overview's columns, among the board's reasons, and not among what needs attention."""
    write_suite(root, [("mac", planned()), ("mac", planned(1))])
    write_run(root, planned(), [started(job="7_1"), ended(100, "held", cause="ordered")], "held", 100)
    write_status(root, planned(), "held", 100, reason="held by me")
    write_run(root, planned(1), [started(), ended(100, "stopped")], "stopped", 100)
    (root / planned(1).id / "order.json").write_text('{"wish": "cancel", "time": 9, "reason": "cancelled by me"}')
    store.collect(root, database)
    page = opened("overview", database, monkeypatch)
    assert page.dataframe[0].value[["held", "cancelled"]].to_numpy().tolist() == [[1, 1]]
    assert "Nothing: no run is failed" in page.success[0].value
    ended_runs = opened("board", database, monkeypatch).dataframe[-1].value
    assert set(zip(ended_runs["state"], ended_runs["reason"], strict=True)) == {
        ("held", "held by me"),
        ("cancelled", "cancelled by me"),
    }
    tried = opened("run", database, monkeypatch, run=planned().id).dataframe
    shown = next(table.value for table in tried if "cause" in table.value)
    assert shown[["job", "cause"]].to_numpy().tolist() == [["7_1", "ordered"]]


def test_the_server_listens_here_only_and_takes_paths_as_they_are():
    command = browse.command(Path("a b;c/results.db"), Path("runs"), 8599)
    assert "--server.address=127.0.0.1" in command and "--browser.gatherUsageStats=false" in command
    assert command[command.index("--db") + 1] == str(Path("a b;c/results.db").resolve())


def test_whoever_ends_it_ends_the_server_too(tmp_path, monkeypatch):
    (tmp_path / "pid").touch()
    served = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = (
        "import sys; from pathlib import Path; from mac_bench import browse\n"
        f"browse.command = lambda *_: [sys.executable, '-c', {served!r}]\n"
        f"sys.exit(browse.serve(Path('no.db'), Path({str(tmp_path)!r}), {free_port()}, 0, print))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline().startswith("http://127.0.0.1:")
    wait_for(lambda: (tmp_path / "pid").read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    process.stdout.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_port_that_is_taken_is_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind((browse.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is taken; choose another with --port"):
            browse.serve(tmp_path / "no.db", tmp_path, port, 0, print)


def test_it_collects_as_it_goes_and_an_error_does_not_end_it(tmp_path, monkeypatch, capsys):
    calls = []

    def collect():
        calls.append(1)
        raise UserError("the disk is full")

    monkeypatch.setattr(browse, "command", lambda *_: [sys.executable, "-c", "import time; time.sleep(2.5)"])
    assert browse.serve(tmp_path / "no.db", tmp_path, free_port(), 1, collect) == 0
    assert len(calls) >= 2 and capsys.readouterr().err.count("mac-bench: the disk is full") == len(calls)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((browse.HOST, 0))
        return probe.getsockname()[1]


def wait_for(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.05)


def test_no_runs_are_one_line(tmp_path):
    with pytest.raises(UserError, match="mac-bench run SUITE"):
        browse.serve(tmp_path / "no.db", tmp_path / "none", 8599, 0, print)
