"""Long horizon: success against how long a task is, and model error against how far ahead. Where chunks pay."""

import pandas as pd
import streamlit as st

from dashboard import filters
from dashboard.source import ask, derive
from mac_bench import charts, published, queries
from mac_bench.errors import UserError
from mac_bench.stats import bootstrap_interval, task_mean

AHEAD = ("model_error/10", "model_error/50", "model_error/100")
"""what runs record: see mac_bench/model_error.py"""


def show() -> None:
    """The page."""
    st.title("Long horizon")
    chosen = filters.selection()
    st.subheader("Success against the task's length")
    scores = filters.complete(chosen.of(ask(queries.results, chosen.suite)))
    found = derive(by_length, scores)
    unknown = sorted(set(scores["task"]) - set(found["task"]))
    if unknown:
        st.caption(f"Not drawn, as suites/horizons.csv does not have their length: {', '.join(unknown)}.")
    if found.empty:
        st.caption("No task of this selection has a known length.")
    else:
        st.altair_chart(charts.horizon(found, labels=chosen.every))
    st.subheader("Model error against actions ahead")
    measured = ask(queries.measured, chosen.suite, AHEAD, label=chosen.labels, task=chosen.tasks)
    errors = derive(last_errors, measured)
    if errors.empty:
        raise UserError("no run of this selection has recorded a model error: its method has no world model")
    st.altair_chart(charts.model_error(errors, labels=chosen.every))
    st.caption(
        "Mean squared error of the state that the model predicts, at each run's last evaluation, on held-out episodes. "
        "Unit: half the range of each dimension in the training data."
    )


def by_length(scores: pd.DataFrame) -> pd.DataFrame:
    """label, task, environment, episode_limit, mean, low, high, n of the tasks whose length is known."""
    table, rows = published.horizons(), []
    for (label, task), own in scores.groupby(["label", "task"], sort=False):
        length = published.horizon_of(task, table)
        low, high = bootstrap_interval([own["score"].to_numpy()], task_mean, bounds=(0, 100))
        rows.append(
            {"label": label, "task": task, "environment": length.environment, "episode_limit": length.episode_limit}
            | {"mean": own["score"].mean(), "low": low, "high": high, "n": len(own)}
        )
    columns = ["label", "task", "environment", "episode_limit", "mean", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns).dropna(subset="episode_limit")


def last_errors(found: pd.DataFrame) -> pd.DataFrame:
    """label, task, ahead, mean, low, high, n over the runs' last model errors."""
    last = found.sort_values("step").groupby(["run", "name"], sort=False).tail(1)
    rows = []
    for (label, task, name), own in last.groupby(["label", "task", "name"], sort=False):
        low, high = bootstrap_interval([own["value"].to_numpy()], task_mean, bounds=(0, float("inf")))
        ahead = int(name.rpartition("/")[2])
        rows.append(
            {"label": label, "task": task, "ahead": ahead, "mean": own["value"].mean(), "low": low, "high": high}
            | {"n": len(own)}
        )
    return pd.DataFrame(rows, columns=["label", "task", "ahead", "mean", "low", "high", "n"])
