"""What a page is about: suite, methods and tasks. The state is in the URL, so that a link shows the same page."""

from typing import Any, NamedTuple

import streamlit as st

from dashboard.source import ask
from mac_bench import queries
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
    labels: list[str]
    tasks: list[str]

    def of(self, runs: Any) -> Any:
        """The rows of a frame that belong to it."""
        return runs[runs["label"].isin(self.labels) & runs["task"].isin(self.tasks)].reset_index(drop=True)


def selection(panels: int | None = None) -> Selection:
    """Suite, methods and tasks that the user wants; where no task is named all of them, or the first `panels`."""
    name = suite()
    runs = ask(queries.results, name)
    every = list(dict.fromkeys(runs["label"]))
    tasks = list(dict.fromkeys(runs["task"]))
    return Selection(name, every, chosen("label", "methods", every), chosen("task", "tasks", tasks, panels))


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


def complete(frame: Any) -> Any:
    """What the statistics take: label, task, seed, score in percent, of the complete runs; says what is left out.

    Raises UserError where there is none.
    """
    done = frame[frame["complete"]]
    if len(done) < len(frame):
        st.caption(f"{len(done)} of {len(frame)} runs are complete; the others are not averaged.")
    if done.empty:
        raise UserError("no run of this selection is complete yet; the campaign board says how far they are")
    return done[["label", "task", "seed"]].assign(score=100 * done["score"]).reset_index(drop=True)
