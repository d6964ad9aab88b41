"""What a page is about: suite, methods and tasks. The state is in the URL, so that a link shows the same page."""

from typing import Any

import streamlit as st

from dashboard.source import ask, suites
from mac_bench import queries
from mac_bench.errors import UserError


def suite() -> str:
    """The suite that all pages are about. Raises UserError where there is none."""
    names = suites()["name"].tolist()
    if not names:
        raise UserError("the database holds no suite yet; start one with `mac-bench run SUITE`, then this page fills")
    return st.sidebar.selectbox("suite", names, key="suite", bind="query-params", persist_state="session")


def link(run: str) -> None:
    """A link to a run's page; `app.py` says where that is."""
    page = st.session_state["run page"]
    st.page_link(page, label=f"open run {run}", icon=":material/directions_run:", query_params={"run": run})


def chosen(frame: Any, name: str, label: str, most: int | None = None) -> list[str]:
    """The values of a column that the user wants; all, or the first `most`, where none is named."""
    values = list(dict.fromkeys(frame[name]))
    wanted = st.sidebar.multiselect(
        label,
        values,
        key=name,
        bind="query-params",
        persist_state="session",
        placeholder="all" if most is None or len(values) <= most else f"the first {most} of {len(values)}",
    )
    return wanted or values[:most]


def results(name: str) -> Any:
    """The runs of a suite, as `queries.results` gives them, of the methods and tasks that the user wants."""
    frame = ask(queries.results, name)
    labels, tasks = chosen(frame, "label", "methods"), chosen(frame, "task", "tasks")
    return frame[frame["label"].isin(labels) & frame["task"].isin(tasks)].reset_index(drop=True)


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
