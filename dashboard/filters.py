"""What a page is about: suite, methods and tasks. The state is in the URL, so that a link shows the same page."""

from typing import Any, NamedTuple

import streamlit as st

from dashboard.source import ask
from mac_bench import figures, queries
from mac_bench.errors import UserError

ATTENTION = ("failed", "lost", "stopped")
"""states that do not end by themselves"""


def suites() -> Any:
    """See `queries.suites`. Raises UserError where there is none."""
    found = ask(queries.suites)
    if found.empty:
        raise UserError("the database holds no suite yet; start one with `mac-bench run SUITE`, then this page fills")
    return found


def suite() -> str:
    """The suite that the page is about."""
    names = suites()["name"].tolist()
    return st.sidebar.selectbox("suite", names, key="suite", bind="query-params", persist_state="session")


def link(run: str) -> None:
    """A link to a run's page; `app.py` says where that is."""
    page = st.session_state["run page"]
    st.page_link(page, label=f"open run {run}", icon=":material/directions_run:", query_params={"run": run})


class Selection(NamedTuple):
    """What a page shows."""

    suite: str
    every: list[str]
    """all methods of the suite, in its order: a method keeps its colour whatever is left out"""
    where: dict[str, list[str] | None]
    """labels, tasks and tags, as queries take them"""
    every_task: bool
    """no task is named"""

    def runs(self) -> Any:
        """`queries.results` of it. Raises UserError where it is empty."""
        # of the whole suite, which all pages and selections share
        runs = ask(queries.results, self.suite)
        kept = runs["label"].isin(self.where["label"]) & runs["task"].isin(self.where["task"])
        if tags := self.where["tag"]:
            kept &= _tagged(runs, tags)
        if not kept.any():
            raise UserError("this selection has no runs; choose other methods, tasks or tags")
        return runs[kept].reset_index(drop=True)


def selection(panels: int | None = None) -> Selection:
    """Suite, methods, tags and tasks that the user wants; where no task is named all of them, or the first `panels`."""
    name = suite()
    runs = ask(queries.results, name)
    every = list(dict.fromkeys(runs["label"]))
    labels = chosen("label", "methods", every)
    known = sorted({tag for tags in runs["tags"] for tag in tags})
    tags = chosen("tag", "tags", known) if known else []
    if set(tags) != set(known):
        runs = runs[_tagged(runs, tags)]
    tasks = chosen("task", "tasks", list(dict.fromkeys(runs["task"])), panels)
    return Selection(
        name, every, {"label": labels, "task": tasks, "tag": None if tags == known else tags}, not st.session_state.task
    )


def _tagged(runs: Any, tags: list[str]) -> Any:
    """Which runs have one of the tags."""
    return runs["tags"].map(lambda own: not set(tags).isdisjoint(own))


def chosen(key: str, label: str, values: list[str], most: int | None = None) -> list[str]:
    """Some of the values; all, or the first `most`, where none is named."""
    wanted = st.sidebar.multiselect(
        label,
        values,
        key=key,
        bind="query-params",
        persist_state="session",
        placeholder="all" if most is None or len(values) <= most else f"the first {most} of {len(values)}",
    )
    return wanted or values[:most]


def complete(runs: Any) -> Any:
    """See `figures.complete`; says what is left out."""
    done = figures.complete(runs)
    if len(done) < len(runs):
        st.caption(f"{len(done)} of {len(runs)} runs are complete; the others are not averaged.")
    return done
