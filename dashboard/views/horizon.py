"""Long horizon: success against how long a task is, and model error against how far ahead. Where chunks pay."""

import streamlit as st

from dashboard import figure, filters
from dashboard.source import ask, derive, plain
from mac_bench import charts, figures, queries
from mac_bench.errors import UserError

PANELS = 6
"""tasks whose model error is drawn where none is named"""


def show() -> None:
    """The page."""
    st.title("Long horizon")
    chosen = filters.selection()
    st.subheader("Success against the task's length")
    by_length(chosen)
    st.subheader("Model error against actions ahead")
    model_error(chosen)


def by_length(chosen: filters.Selection) -> None:
    """A point for each method and task."""
    length = st.segmented_control(
        "length", list(charts.LENGTHS), default="episode_limit", format_func=charts.LENGTHS.get, key="length",
        bind="query-params", label_visibility="collapsed",
    ) or "episode_limit"  # fmt: skip
    scores = filters.complete(chosen.runs())
    found = derive(figures.by_length, scores, length)
    unknown = sorted(set(scores["task"]) - set(found["task"]))
    if unknown:
        st.caption(f"Not drawn, as suites/horizons.csv does not have their length: {plain(', '.join(unknown))}.")
    try:
        figure.show(charts.horizon(found, chosen.every, length=length), "horizon")
    except UserError as error:  # the model's error below is there all the same
        st.caption(plain(f"No chart: {error}."))


def model_error(chosen: filters.Selection) -> None:
    """A panel for each task, a line for each method with a world model."""
    found = ask(queries.last_measured, chosen.suite, figures.AHEAD, **chosen.where)
    if found.empty:
        raise UserError("no run of this selection has recorded a model error: its method has no world model")
    found = found[found["task"].isin(chosen.drawn(PANELS))].reset_index(drop=True)
    last = figures.settled(found, chosen.runs())
    if len(last) < len(found):
        st.caption(f"{last['run'].nunique()} of {found['run'].nunique()} runs are complete; the others are left out.")
    figure.show(charts.model_error(derive(figures.model_errors, last), labels=chosen.every), "model-error")
    st.caption(
        "Mean squared error of the state that the model predicts, at each run's last evaluation, on held-out episodes. "
        "Unit: half the range of each dimension in the training data."
    )
