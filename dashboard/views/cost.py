"""Cost: hours, updates per second, memory, and the time to a given success, for each method."""

import pandas as pd
import streamlit as st

from dashboard import figure, filters
from dashboard.source import ask
from mac_bench import charts, queries
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
    table = summary(found, target).dropna(axis="columns", how="all")  # of a CPU there is no device memory
    st.dataframe(table, hide_index=True, placeholder="-")
    st.caption(
        f"{len(found)} runs that have begun. Hours: all attempts, evaluations among them. To {target} %: hours until a "
        "run's first evaluation with that success, of the runs that got there; `reached` says how many did."
    )
    for of in ("seconds", "to_target", "updates_per_s"):
        if found[of].notna().any():
            figure.show(charts.costs(found, of, labels=chosen.every), of)


def summary(found: pd.DataFrame, target: int) -> pd.DataFrame:
    """A row for each method and device."""
    rows = []
    for (label, device), own in found.fillna({"device": "unknown"}).groupby(["label", "device"], sort=False):
        rows.append(
            {"method": label, "device": device, "runs": len(own), "hours in all": own["seconds"].sum() / 3600}
            | {"hours per run": own["seconds"].median() / 3600, "updates/s": own["updates_per_s"].median()}
            | {"evaluating": own["evaluating"].sum() / max(own["seconds"].sum(), 1e-9)}
            | {"memory, MB": own["memory_mb"].max(), "device memory, MB": own["device_memory_mb"].max()}
            | {f"hours to {target} %": own["to_target"].median() / 3600}
            | {"reached": f"{own['to_target'].notna().sum()} of {len(own)}"}
        )
    return pd.DataFrame(rows).round(3)
