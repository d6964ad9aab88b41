"""Curves: success against updates and against hours, with bands over seeds."""

import pandas as pd
import streamlit as st

from dashboard import filters
from dashboard.source import ask, derive
from mac_bench import charts, compare, queries
from mac_bench.errors import UserError

PANELS = 6
"""tasks that are shown where none is named: all of a campaign would not be readable"""


def show() -> None:
    """The page."""
    st.title("Curves")
    chosen = filters.selection(PANELS)
    with st.container(horizontal=True):
        x = st.segmented_control("against", ["updates", "hours"], default="updates", key="x", bind="query-params")
        single = st.toggle("single seeds", key="seeds", bind="query-params")
        smooth = st.number_input(
            "mean of so many evaluations", min_value=1, max_value=20, key="smooth", bind="query-params"
        )
    found = ask(queries.curves, chosen.suite, label=chosen.labels, task=chosen.tasks)
    if found.empty:
        raise UserError("no run of this selection has been evaluated yet")
    rows = evaluations(found, int(smooth))
    bands = derive(compare.curve, rows)
    if x == "hours":
        bands = bands.merge(hours(found), on=["label", "task", "step"])
        st.caption("Hours are counted from each run's first evaluation, with the time between its attempts.")
    if smooth > 1:
        st.caption(f"Smoothed: each point is the mean of a run's last {smooth} evaluations.")
    seeds = rows.assign(seed=rows["run"]) if single and x != "hours" else None
    st.altair_chart(charts.curves(bands, "hours" if x == "hours" else "step", seeds=seeds, labels=chosen.every))
    st.caption(
        f"{found['run'].nunique()} runs. Bands: 95 % interval over seeds. A curve ends where its shortest run does."
    )
    with st.expander("the numbers"):
        st.dataframe(bands, hide_index=True)


def evaluations(found: pd.DataFrame, smooth: int) -> pd.DataFrame:
    """label, task, run, step, value in percent; averaged over a run's last `smooth` evaluations."""
    rows = found[["label", "task", "run", "step"]].assign(value=100 * found["success"].astype(float))
    rows = rows[found["success"].notna()]
    if smooth > 1:
        mean = rows.groupby(["label", "run"], sort=False)["value"].rolling(smooth, min_periods=1).mean()
        rows = rows.assign(value=mean.droplevel([0, 1]))
    return rows.reset_index(drop=True)


def hours(found: pd.DataFrame) -> pd.DataFrame:
    """Mean hours of wall-clock since each run's first evaluation: label, task, step, hours."""
    began = found.groupby(["label", "run"])["time"].transform("min")
    rows = found[["label", "task", "step"]].assign(hours=(found["time"] - began) / 3600)
    return rows.groupby(["label", "task", "step"], sort=False, as_index=False)["hours"].mean()
