"""Curves: success against updates and against hours, with bands over seeds."""

import streamlit as st

from dashboard import figure, filters
from dashboard.source import ask, derive
from mac_bench import charts, compare, figures, queries
from mac_bench.errors import UserError
from mac_bench.stats import unit_of

PANELS = 6
"""tasks that are drawn where none is named: all of a campaign would not be readable"""


def show() -> None:
    """The page."""
    st.title("Curves")
    chosen = filters.selection()
    with st.container(horizontal=True):
        x = st.segmented_control("against", ["updates", "hours"], default="updates", key="x", bind="query-params")
        single = st.toggle("single seeds", key="seeds", bind="query-params", disabled=x == "hours")
        begun = st.toggle("unfinished runs too", key="unfinished", bind="query-params")
        smooth = st.number_input("mean of so many evaluations", 1, 20, key="smooth", bind="query-params", width=220)
    runs = chosen.runs()
    filters.warn(runs)
    found = ask(queries.curves, chosen.suite, **chosen.where | {"task": chosen.drawn(PANELS)})
    if found.empty:
        raise UserError("no run of this selection has been evaluated yet")
    shown = found if begun else figures.settled(found, runs)
    rows = figures.learning(shown, int(smooth))
    bands = derive(compare.curve, rows)
    if x == "hours":
        bands = bands.merge(figures.hours(shown), on=["label", "task", "step"])
        st.caption("Hours of all attempts of a run until then, evaluations among them, averaged over its seeds.")
    if smooth > 1:
        st.caption(f"Smoothed: each point is the mean of a run's last {smooth} evaluations.")
    seeds = rows.assign(seed=rows["run"]) if single and x != "hours" else None
    against, unit = "hours" if x == "hours" else "step", unit_of(runs["measure"])
    figure.show(charts.curves(bands, against, seeds=seeds, labels=chosen.every, unit=unit), "curves")
    number, every = shown["run"].nunique(), found["run"].nunique()
    left_out = f" The other {every - number} that were evaluated are not complete." if number < every else ""
    st.caption(f"{number} runs.{left_out} Bands: 95 % interval over seeds. A curve ends where its shortest run does.")
    with st.expander("the numbers"):
        st.dataframe(bands, hide_index=True)
