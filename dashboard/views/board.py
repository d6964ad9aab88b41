"""Campaign board: every run of a suite by its state, refreshed as it goes; why one died is a click away."""

import pandas as pd
import streamlit as st

from dashboard import figure, filters
from dashboard.source import guarded, log_tail
from mac_bench import charts

REFRESH_S = 10
PANELS = 12
"""tasks that are drawn where none is named"""


def show() -> None:
    """The page."""
    st.title("Campaign board")
    board(filters.selection())


@st.fragment(run_every=REFRESH_S)
@guarded  # here too: it is run again without the page around it
def board(selection: filters.Selection) -> None:
    """The live part."""
    runs = selection.runs()
    counts = runs["state"].value_counts()
    st.caption(", ".join(f"{number} {state}" for state, number in counts.items()) + f". Looked at every {REFRESH_S} s.")
    drawn = runs[runs["task"].isin(selection.drawn(PANELS))].reset_index(drop=True)
    cells = drawn[["label", "task", "seed", "state", "reason", "run"]].assign(progress=drawn["step"] / drawn["steps"])
    figure.show(charts.board(cells), "board")
    st.subheader("Why")
    ended = runs[runs["state"].isin((*filters.ATTENTION, *filters.ORDERED))]
    if ended.empty:
        st.caption("No run of this selection is failed, lost, stopped, held or cancelled.")
        return
    st.caption(f"{len(ended)} runs that do not go on by themselves. Click a row to see the end of its log.")
    reasons(ended.reset_index(drop=True))


def reasons(ended: pd.DataFrame) -> None:
    """A row for each, and the chosen one's log."""
    columns = ["label", "task", "seed", "state", "reason", "step", "host", "run"]
    run = filters.pick(ended[columns], "ended", reason=st.column_config.TextColumn(width="medium"))
    if run is not None:
        filters.link(run["run"])
        st.code(run["reason"] or "no reason on record", language=None, wrap_lines=True)
        st.code(log_tail(run["run"]) or "no log", language=None, height=300)
