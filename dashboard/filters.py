"""What a page is about: suite, methods and tasks. The state is in the URL, so that a link shows the same page."""

from typing import Any, NamedTuple

import streamlit as st

from dashboard.source import ask, derive, plain
from mac_bench import figures, queries, report
from mac_bench.errors import UserError

ATTENTION = ("failed", "lost", "stopped")
"""states that do not end by themselves"""
ORDERED = ("held", "cancelled")
"""states that the user asked for"""


def suites() -> Any:
    """See `queries.suites`. Raises UserError where there is none."""
    found = ask(queries.suites)
    if found.empty:
        raise UserError("the database holds no suite yet; start one with `mac-bench run SUITE`, then this page fills")
    return found


def suite() -> str:
    """The suite that the page is about."""
    names = suites()["name"].tolist()
    _told("suite", names)
    return st.sidebar.selectbox("suite", names, key="suite", bind="query-params", persist_state="session")


def link(run: str) -> None:
    """A link to a run's page; `app.py` says where that is."""
    page = st.session_state["run page"]
    st.page_link(page, label=f"open run {run}", icon=":material/directions_run:", query_params={"run": run})


def pick(frame: Any, key: str, **columns: Any) -> Any:
    """A table of which the user may choose a row; that row of the frame, or None. `columns`: how they look."""
    picked = st.dataframe(
        frame, hide_index=True, key=key, on_select="rerun", selection_mode="single-row", column_config=columns
    )
    rows = picked["selection"]["rows"]
    return frame.iloc[rows[0]] if rows else None


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

    def drawn(self, most: int) -> list[str]:
        """The tasks that are drawn one by one: those that are named, or, as a note then says, the first `most`."""
        tasks = self.where["task"] or []
        if not self.every_task or len(tasks) <= most:
            return tasks
        st.caption(f"Drawn: the first {most} of {len(tasks)} tasks. Name tasks to see others.")
        return tasks[:most]


def selection() -> Selection:
    """Suite, methods, tags and tasks that the user wants; where none is named, all."""
    name = suite()
    runs = ask(queries.results, name)
    every = list(dict.fromkeys(runs["label"]))
    labels = _named("label", "methods", every)
    known = sorted({tag for tags in runs["tags"] for tag in tags})
    tags = _named("tag", "tags", known) if known else []
    tasks = list(dict.fromkeys((runs[_tagged(runs, tags)] if tags else runs)["task"]))
    named = _named("task", "tasks", tasks)
    return Selection(name, every, {"label": labels or every, "task": named or tasks, "tag": tags or None}, not named)


def _tagged(runs: Any, tags: list[str]) -> Any:
    """Which runs have one of the tags."""
    return runs["tags"].map(lambda own: not set(tags).isdisjoint(own))


def _named(key: str, label: str, values: list[str]) -> list[str]:
    """Those of the values that the user names."""
    _told(key, values)
    return st.sidebar.multiselect(
        label, values, key=key, bind="query-params", persist_state="session", placeholder="all"
    )


def _told(key: str, values: list[str]) -> None:
    """Say so where the URL names what is not there: the page then shows something else."""
    if unknown := [name for name in st.query_params.get_all(key) if name not in values]:
        st.warning(plain(f"no {key} {', '.join(unknown)} here; what is shown is without it"), icon=":material/warning:")


def warn(runs: Any) -> None:
    """Say why these runs may not be compared with each other."""
    for warning in derive(report.warnings, runs):
        st.warning(plain(warning), icon=":material/warning:")


def complete(runs: Any) -> Any:
    """See `figures.complete`; says what is left out, and why the rest may not be compared."""
    done = figures.complete(runs)
    warn(runs)
    if len(done) < len(runs):
        st.caption(f"{len(done)} of {len(runs)} runs are complete; the others are not averaged.")
    return done
