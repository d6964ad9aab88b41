"""Cost: hours, updates per second, memory, and the time to a given success, for each method."""

import streamlit as st

from dashboard import figure, filters
from dashboard.source import ask
from mac_bench import charts, figures, queries
from mac_bench.errors import UserError


def show() -> None:
    """The page."""
    st.title("Cost")
    chosen = filters.selection()
    target = st.slider("success to reach, in %", 5, 100, 50, step=5, key="target", bind="query-params")
    found = ask(queries.costs, chosen.suite, target / 100, **chosen.where)
    found = found[found["attempts"] > 0]
    if found.empty:
        raise UserError("no run of this selection has begun")
    # of a CPU there is no device memory
    table = figures.cost_table(found, target / 100).dropna(axis="columns", how="all")
    number = {name: st.column_config.NumberColumn(format="%.3g") for name in table.select_dtypes("float")}
    st.dataframe(table, hide_index=True, placeholder="-", column_config=number)
    st.caption(
        f"{len(found)} runs that have begun. Hours: all attempts, evaluations among them. Medians: of finished runs. "
        f"To {target} %: until a run's first evaluation with that success, known where half of them got there."
    )
    for of in ("seconds", "to_target", "updates_per_s"):
        if found[of].notna().any():
            figure.show(charts.costs(found, of, labels=chosen.every), of)
