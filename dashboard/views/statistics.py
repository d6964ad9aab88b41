"""Statistics: who wins over all tasks, and whether the difference is more than luck."""

import pandas as pd
import streamlit as st

from dashboard import figure, filters
from dashboard.source import derive, plain
from mac_bench import charts, compare
from mac_bench.errors import UserError
from mac_bench.stats import bounds_of, unit_of


def show() -> None:
    """The page."""
    st.title("Statistics")
    chosen = filters.selection()
    labels = chosen.every
    runs = chosen.runs()
    scores, unit = filters.complete(runs), unit_of(runs["measure"])
    aggregates = derive(compare.aggregates, scores, bounds=bounds_of(runs["measure"]))
    figure.show(charts.intervals(aggregates, labels=labels, unit=unit), "intervals")
    lacking = aggregates[aggregates["tasks"] < aggregates["of"]]
    if not lacking.empty:
        names = ", ".join(sorted(set(lacking["label"])))
        st.caption(f"Without a number, as some of the tasks have no complete run of theirs: {plain(names)}.")
    st.subheader("Score distributions")
    figure.show(charts.profiles(derive(compare.profiles, scores), labels=labels, unit=unit), "profiles")
    if scores["label"].nunique() < 2:
        raise UserError("with one method there is nothing to compare")
    st.subheader("Probability of improvement")
    figure.show(charts.improvement(derive(compare.improvement, scores), labels=labels), "improvement")
    st.subheader("Differences")
    differences(derive(compare.compare, scores))


def differences(found: pd.DataFrame) -> None:
    """Means of pairs of runs with the same task and seed."""
    st.caption(
        "x less y in percent points, over pairs of runs with the same task and seed. p: sign-flip permutation test; "
        "p_corrected: by Holm for the number of comparisons here."
    )
    figure.show(charts.comparison(found), "differences")
    st.dataframe(found, hide_index=True)
