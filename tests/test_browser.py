"""The dashboard as a user sees it: every page in a real browser, on real runs, on a large campaign, and on nothing.

One module, so that a worker of pytest-xdist which gets it alone makes each database and server once.
"""

import io
import os
import re
import signal
import sqlite3
import statistics
import time
import urllib.parse
import urllib.request
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import imageio.v2 as imageio
import numpy as np
import pandas as pd
import pytest
from browser import PAGES, Tab, executable, fresh, launch, served
from campaign import MARKUP, SCRIPT, TASKS, fill
from playwright.sync_api import BrowserContext, sync_playwright
from run_folders import append, ended, planned, started, write_run, write_status, write_suite
from runs import small_run

from mac_bench import store
from mac_bench.train import train

FORMATS = ("CSV", "Parquet", "LaTeX", "Markdown")
REFRESHED_MS = 20_000
"""the board looks every 10 s"""


@pytest.fixture(scope="module")
def browser():
    if executable() is None:
        pytest.skip("no Chromium; on Debian and Ubuntu: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield fresh(browser)
        browser.close()


@pytest.fixture(scope="module")
def empty(browser, tmp_path_factory):
    """The address of a dashboard without any runs."""
    root = tmp_path_factory.mktemp("empty")
    (root / "suites").mkdir()
    store.collect(root, root / "results.db")
    with served(root / "results.db", root) as (address, _):
        yield address


@pytest.fixture(scope="module")
def real(browser, tmp_path_factory, data_root):
    """The address of a dashboard of four runs that were trained for it."""
    root = tmp_path_factory.mktemp("real")
    runs = [(agent, small_run(agent, seed=seed)) for agent in ("bc", "flow_bc") for seed in (0, 1)]
    for _, run in runs:
        assert train(run, root, data_root).state == "finished"
    film = root / runs[0][1].id / "videos" / "update60-task1-episode0.gif"
    film.parent.mkdir()
    imageio.mimwrite(film, [np.full((8, 8, 3), 255 * i, np.uint8) for i in (0, 1)])
    write_suite(root, runs, "real")
    store.collect(root, root / "results.db")
    with served(root / "results.db", root) as (address, _):
        yield address


@pytest.fixture(scope="module")
def database(browser, tmp_path_factory) -> Path:
    """A campaign of 5,000 runs with 100 evaluations and 20 metrics."""
    began = time.monotonic()
    path = tmp_path_factory.mktemp("campaign") / "results.db"
    fill(path)
    print(f"campaign of 5,000 runs: {time.monotonic() - began:.0f} s, {path.stat().st_size / 1e6:.0f} MB")
    return path


@pytest.fixture(scope="module")
def campaign(database):
    """The address of its dashboard."""
    with served(database, database.parent) as (address, _):
        yield address


@pytest.fixture
def opened(browser: BrowserContext):
    """Opens tabs, and holds at the end that nothing was wrong in any."""
    tabs: list[Tab] = []

    def opened(address: str) -> Tab:
        tabs.append(Tab(browser, address))
        return tabs[-1]

    yield opened
    for tab in tabs:
        tab.page.close()
    assert not [wrong for tab in tabs for wrong in tab.wrong]


def asked(database: Path, query: str, *values) -> list[tuple]:
    """The database's own answer."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(query, values).fetchall()


def one_run(database: Path, state: str) -> str:
    return asked(database, "SELECT id FROM runs WHERE state = ? ORDER BY heartbeat DESC, id", state)[0][0]


@pytest.mark.parametrize("name", PAGES)
def test_without_runs_a_page_says_what_to_do(name, empty, opened):
    tab = opened(empty)
    tab.open(name)
    says = "name a run by its id" if name == "run" else "mac-bench run SUITE"
    assert says in shown(tab)


@pytest.mark.parametrize("name", [name for name in PAGES if name != "run"])
@pytest.mark.parametrize("results", ["real", "campaign"])
def test_a_page_of_results(results, name, opened, request, record_property):
    tab = opened(request.getfixturevalue(results))
    tab.open(name)
    record_property("seconds", round(tab.seconds, 2))
    print(f"{results}, {name}: {tab.seconds:.2f} s")
    charts, tables = tab.page.get_by_test_id("stVegaLiteChart").count(), tab.page.get_by_test_id("stDataFrame").count()
    if (results, name) == ("real", "horizon"):  # one task, and methods without a world model
        assert "all tasks are equally long" in shown(tab) and "no world model" in shown(tab)
    else:
        assert tables if name in ("overview", "leaderboard") else charts


def test_a_real_run(real, opened):
    tab = opened(real)
    run = small_run("bc").id
    tab.open("run", run=run)
    assert tab.page.get_by_test_id("stVegaLiteChart").count() == 1
    tab.choose("metrics", "loss/actor")
    assert tab.page.get_by_test_id("stVegaLiteChart").count() == 2
    for part in ("Attempts", "Log", "Videos", "Settings"):
        tab.page.get_by_role("tab", name=part).click()
        tab.ready()
        if part == "Videos":
            tab.page.get_by_test_id("stImage").get_by_role("img").wait_for()
    with tab.acting():
        other = tab.page.get_by_role("textbox", name="compare with run")
        other.fill(small_run("bc", seed=1).id)
        other.press("Enter")
    assert "settings differ from those of" in tab.page.get_by_test_id("stMain").inner_text()
    assert small_run("bc", seed=1).id in tab.page.url


@pytest.mark.parametrize("name", ["leaderboard", "curves"])
def test_a_filter_is_in_the_address_and_shows_the_same_again(name, campaign, opened):
    tab = opened(campaign)
    tab.open(name)
    tab.choose("methods", "LEQ", SCRIPT)
    tab.choose("tags", "model-based")
    tab.choose("tasks", TASKS[2], TASKS[-1])
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(tab.page.url).query)
    assert query == {"label": ["LEQ", SCRIPT], "tag": ["model-based"], "task": [TASKS[2], TASKS[-1]]}
    tab.choose("suite", "small")
    assert "suite=small" in tab.page.url
    again = opened(campaign)
    again.page.goto(tab.page.url)
    again.ready(name)
    assert shown(again) == shown(tab)


def shown(tab: Tab) -> str:
    """All text of a page and its filters."""
    return "\n".join(tab.page.get_by_test_id(part).inner_text() for part in ("stSidebarUserContent", "stMain"))


def test_a_filter_goes_along_from_page_to_page(campaign, opened):
    tab = opened(campaign)
    tab.open("leaderboard")
    tab.choose("methods", "MOPO")
    for name in ("board", "overview", "statistics"):
        tab.go(name)
    assert "label=MOPO" in tab.page.url and "with one method there is nothing to compare" in shown(tab)


def test_what_came_with_a_link_goes_along_too(campaign, opened):
    tab = opened(campaign)
    tab.open("leaderboard", suite="small", label="LEQ")
    for name in ("statistics", "curves"):
        tab.go(name)
        assert "label=LEQ" in tab.page.url and "suite=small" in tab.page.url
    tab.go("statistics")
    assert "with one method there is nothing to compare" in shown(tab)


def test_the_address_is_no_markup(campaign, opened):
    tab = opened(campaign)
    tab.open("run", run="x ![i](http://mac-bench.invalid/a.png) [click](http://mac-bench.invalid)")
    assert "![i](http://mac-bench.invalid/a.png) [click]" in shown(tab)
    tab.open("leaderboard", label="Nobody")
    assert "no label Nobody here" in shown(tab)


@pytest.mark.parametrize(("name", "place"), [("overview", 1), ("board", 0)])
def test_a_row_leads_to_its_run(name, place, campaign, opened, database):
    tab = opened(campaign)
    tab.open(name)
    tab.pick(tab.page.get_by_test_id("stDataFrame").nth(place), 0)
    with tab.acting():
        tab.page.get_by_role("link", name="open run").click()
    tab.ready("run")
    (run,) = urllib.parse.parse_qs(urllib.parse.urlsplit(tab.page.url).query)["run"]
    assert tab.page.get_by_role("textbox", name="run", exact=True).input_value() == run
    assert asked(database, "SELECT state FROM runs WHERE id = ?", run)[0][0] in ("failed", "lost", "stopped")


def test_the_leaderboard_saves_the_numbers_of_the_database(campaign, opened, database):
    tab = opened(campaign)
    tab.open("leaderboard")
    files = {kind: tab.download(tab.page.get_by_role("button", name=kind, exact=True)) for kind in FORMATS}
    runs = asked(
        database,
        "SELECT success FROM evaluations e JOIN runs r ON r.id = e.run WHERE r.agent = 'mac' AND r.task = ? "
        "AND r.state = 'finished' AND e.task = 0 AND e.step > 970000",
        TASKS[0],
    )
    table = pd.read_csv(io.BytesIO(files["CSV"]))
    (cell,) = table[(table["label"] == "MAC") & (table["task"] == TASKS[0])].to_dict("records")
    assert cell["n_seeds"] == len(runs) / 3
    assert cell["mean"] == pytest.approx(100 * statistics.fmean(success for (success,) in runs), abs=1e-5)
    same = pd.read_parquet(io.BytesIO(files["Parquet"]))
    assert list(same["mean"]) == pytest.approx(list(table["mean"]), abs=1e-5, nan_ok=True)
    assert SCRIPT in set(table["label"]) and b"tabular" in files["LaTeX"]
    assert rb"\<script\>alert(1)" in files["Markdown"]


def test_markup_stays_text(campaign, opened, database):
    """A script would ask in a dialog, and an image another host: `opened` sees both."""
    tab = opened(campaign)
    tab.open("board", label=SCRIPT)  # alone: a large chart is a canvas, without text
    assert SCRIPT in shown(tab)
    tab.open("run", run=one_run(database, "failed"))
    assert MARKUP in shown(tab)
    tab.open("leaderboard", label=SCRIPT)
    assert SCRIPT in shown(tab)
    assert tab.page.locator("script", has_text="alert(1)").count() == 0
    assert tab.page.locator("b", has_text="bold").or_(tab.page.get_by_role("img", name="image")).count() == 0


def test_a_chart_is_saved_as_svg_and_png(campaign, opened):
    tab = opened(campaign)
    tab.open("statistics")
    buttons = tab.page.get_by_role("button")
    svg = tab.download(buttons.filter(has_text=re.compile(r"\.svg$")).first)
    assert ElementTree.fromstring(svg).tag.endswith("}svg") and b"MOBILE" in svg
    assert tab.download(buttons.filter(has_text=re.compile(r"\.png$")).first).startswith(b"\x89PNG")


def test_a_database_that_is_none_is_a_line_until_it_is_one(browser, opened, tmp_path):
    """The board is looked at again and again, without anybody doing anything."""
    path, root = tmp_path / "results.db", tmp_path / "runs"
    path.write_bytes(np.random.default_rng(0).bytes(10_000))
    log = write_run(root, planned(), [started()], "running", 0)
    write_suite(root, [("MAC", planned())])
    store.collect(root, tmp_path / "good.db")
    (tmp_path / "other.db").write_bytes((tmp_path / "good.db").read_bytes())
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("PRAGMA user_version = 99")
    with served(path, root) as (address, _):
        tab = opened(address)
        tab.open("overview")
        for name in PAGES:
            if name != "run":
                tab.go(name)
                assert "is not a mac-bench database" in shown(tab)
        os.replace(tmp_path / "other.db", path)
        tab.open("run", run="any")
        assert "has schema 99" in shown(tab)
        os.replace(tmp_path / "good.db", path)
        tab.open("board")
        tab.page.get_by_text("1 running").wait_for()
        append(log, ended(1000, "failed", reason="boom"))
        write_status(root, planned(), "failed", 1000, reason="boom")
        store.collect(root, path)
        tab.page.get_by_text("1 failed").wait_for(timeout=REFRESHED_MS)
        tab.page.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ended_it_leaves_nothing(how, tmp_path):
    with served(tmp_path / "results.db", tmp_path) as (address, process):
        os.kill(process, how)
        with pytest.raises(OSError):  # nobody answers any more
            while True:
                urllib.request.urlopen(address).close()
