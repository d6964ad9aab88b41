"""Overview: how far each suite is, and what needs a person."""

import time

import streamlit as st

from dashboard import filters
from dashboard.source import ask
from mac_bench import queries

SHOWN = 100
"""runs that are listed, of those that need attention"""
ORDER = ("finished", "running", "waiting", *filters.ATTENTION, *filters.ORDERED)


def show() -> None:
    """The page."""
    st.title("Overview")
    progress()
    attention()


def progress() -> None:
    """A row for each suite."""
    known, counted = filters.suites().set_index("name"), ask(queries.states)
    by_state = counted.pivot_table(index="suite", columns="state", values="runs", aggfunc="sum", fill_value=0)
    states = [state for state in ORDER if state in by_state]
    updates = counted.groupby("suite")[["done", "updates"]].sum()
    table = by_state[states].join(known["about"])
    table.insert(0, "progress", updates["done"].div(updates["updates"]))
    table.insert(0, "runs", by_state.sum(axis=1))
    st.dataframe(
        table.rename_axis("suite").reset_index(),
        hide_index=True,
        column_config={
            "progress": st.column_config.ProgressColumn("updates made", format="percent", min_value=0, max_value=1),
            "about": st.column_config.TextColumn(width="medium"),
        },
    )


def attention() -> None:
    """The runs that will not end by themselves, and why."""
    st.subheader("Needs attention")
    counted = ask(queries.states)
    number = int(counted.loc[counted["state"].isin(filters.ATTENTION), "runs"].sum())
    if not number:
        st.success("Nothing: no run is failed, lost or stopped.", icon=":material/check:")
        return
    found = ask(queries.in_state, filters.ATTENTION, SHOWN)
    st.caption(f"{number} runs; the latest {len(found)} here. The board has all of them. Click a row to see the run.")
    ago = (time.time() - found["heartbeat"].astype(float)) / 3600
    table = found.assign(progress=found["step"] / found["steps"], seen=ago.round(1))
    run = filters.pick(
        table[["suite", "label", "task", "seed", "state", "progress", "seen", "reason", "host", "run"]],
        "attention",
        progress=st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1),
        seen=st.column_config.NumberColumn("seen, hours ago"),
        reason=st.column_config.TextColumn(width="large"),
    )
    if run is not None:
        filters.link(run["run"])
