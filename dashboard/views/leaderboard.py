"""Leaderboard: method x task with intervals and seeds, over all tasks, beside the numbers of papers; and its export."""

import io

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
    built = derive(report.build, runs)
    for warning in built.warnings:
        st.warning(warning.replace("`", "'"), icon=":material/warning:")
    pinned = {name: st.column_config.TextColumn(pinned=True) for name in ("rank", "method")}
    st.dataframe(grid(built), hide_index=True, column_config=pinned)
    exports(built, chosen.suite)
    with st.expander("How these numbers are made", expanded=True):
        for note in built.notes:
            st.text(note)
    papers(runs)


def grid(built: report.Report) -> pd.DataFrame:
    """What every format of the report shows."""
    header, *rows = report.grid(built)
    return pd.DataFrame(rows, columns=header)


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


def papers(runs: pd.DataFrame) -> None:
    """Published numbers of the same methods on the same tasks, and why the two may not be compared."""
    st.subheader("Beside published numbers")
    found = derive(published.beside, derive(published.own_means, runs))
    if found.empty:
        st.caption("No paper in suites/published/ reports these methods on these tasks.")
        return
    clean = (found["not_comparable"] == "").sum()
    st.caption(
        f"{len(found)} published numbers, {clean} of them comparable as far as is known. Difference: ours less theirs; "
        "in spreads: over the combined standard deviation, where both are standard deviations over seeds."
    )
    st.dataframe(
        found,
        hide_index=True,
        column_config={
            "label": st.column_config.TextColumn("method", pinned=True),
            **{name: st.column_config.NumberColumn(format="%.1f") for name in ("ours", "ours_std", "difference")},
            "n_seeds": "our seeds",
            "mean": "published",
            "seeds": "their seeds",
            "in_spreads": st.column_config.NumberColumn("in spreads", format="%.1f"),
            "not_comparable": st.column_config.TextColumn("not comparable because", width="large"),
            "source": st.column_config.TextColumn(width="medium"),
        },
    )
