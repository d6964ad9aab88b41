"""Leaderboard: method x task with intervals and seeds, over all tasks, beside the numbers of papers; and its export."""

import io
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import filters
from dashboard.source import derive
from mac_bench import published, report


def show() -> None:
    """The page."""
    st.title("Leaderboard")
    chosen = filters.selection()
    runs = chosen.runs()
    filters.warn(runs)
    built = derive(report.build, runs)
    pinned = {name: st.column_config.TextColumn(pinned=True) for name in ("rank", "method")}
    row = filters.pick(grid(built), "method", **pinned)
    if row is None:
        st.caption("Click a row to see the runs behind it.")
    else:
        behind(runs[runs["label"] == row["method"]].reset_index(drop=True))
    exports(built, chosen.suite)
    with st.expander("How these numbers are made", expanded=True):
        for note in built.notes:
            st.text(note)
    papers(runs, chosen.suite)


def grid(built: report.Report) -> pd.DataFrame:
    """What every format of the report shows."""
    header, *rows = report.grid(built)
    return pd.DataFrame(rows, columns=header)


def behind(runs: pd.DataFrame) -> None:
    """The runs of a method, and a link to the chosen one."""
    columns = ["label", "task", "seed", "state", "complete", "score", "run"]
    run = filters.pick(runs[columns], "behind", score=st.column_config.NumberColumn(format="percent"))
    if run is not None:
        filters.link(run["run"])


def exports(built: report.Report, suite: str) -> None:
    """What is shown, as files; CSV and Parquet with all digits."""
    parquet = io.BytesIO()
    report.numbers(built).to_parquet(parquet, index=False)
    files = {
        "CSV": (f"{suite}.csv", report.csv(built)),
        "LaTeX": (f"{suite}.tex", report.latex(built)),
        "Markdown": (f"{suite}.md", report.markdown(built)),
        "Parquet": (f"{suite}.parquet", parquet.getvalue()),
    }
    with st.container(horizontal=True):
        for kind, (name, content) in files.items():
            st.download_button(kind, content, file_name=name, icon=":material/download:", on_click="ignore")


def number(title: str) -> Any:
    """A column of successes, one digit behind the point."""
    return st.column_config.NumberColumn(title, format="%.1f")


def papers(runs: pd.DataFrame, suite: str) -> None:
    """Published numbers of the same methods on the same tasks, and why the two may not be compared."""
    st.subheader("Beside published numbers")
    found = derive(published.beside, derive(published.own_means, runs))
    if found.empty:
        st.caption("No paper in suites/published/ reports these methods on these tasks.")
        return
    clean = (found["not_comparable"] == "").sum()
    st.caption(
        f"{len(found)} published numbers, {clean} of them comparable as far as is known. Difference: ours less theirs; "
        "in spreads: over the combined standard deviation over seeds, what theirs was taken for stands beside it. "
        f"It agrees within {published.AGREE:g} of these, or within {published.ROUNDED:g}. Settings are "
        "compared with those that the project's own suite of that table has under the label."
    )
    st.dataframe(
        found,
        hide_index=True,
        placeholder="-",
        column_config={
            "label": st.column_config.TextColumn("our method", pinned=True),
            "task": st.column_config.TextColumn(width="medium"),
            "ours": number("ours"),
            "mean": number("published"),
            "difference": number("difference"),
            "in_spreads": number("in spreads"),
            "verdict": st.column_config.TextColumn(width="small"),
            "not_comparable": st.column_config.TextColumn("not comparable because", width=420),
            "source": st.column_config.TextColumn(width="medium"),
            "ours_std": number("our std"),
            "n_seeds": "our seeds",
            "spread": number("their spread"),
            "spread_kind": "its kind",
            "spread_taken": "taken for",
            "seeds": "their seeds",
            "their_steps": "their updates",
            "method": "their method",
            "their_task": "their task",
        },
    )
    name = f"{suite}-published.csv"
    st.download_button(name, report.csv_table(found), name, icon=":material/download:", on_click="ignore")
