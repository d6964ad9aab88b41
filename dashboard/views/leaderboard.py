"""Leaderboard: method x task with intervals and seeds, over all tasks, beside the numbers of papers; and its export."""

import io

import pandas as pd
import streamlit as st

from dashboard import filters
from dashboard.source import ask, derive
from mac_bench import published, queries, report
from mac_bench.errors import UserError


def show() -> None:
    """The page."""
    st.title("Leaderboard")
    chosen = filters.selection()
    runs = chosen.of(ask(queries.results, chosen.suite))
    if runs.empty:
        raise UserError("this selection has no runs; choose other methods or tasks")
    built = derive(report.build, runs)
    for warning in built.warnings:
        st.warning(warning.replace("`", "'"), icon=":material/warning:")
    table = grid(built)
    st.dataframe(table, hide_index=True, column_config={"method": st.column_config.TextColumn(pinned=True)})
    exports(built, table, chosen.suite)
    with st.expander("How these numbers are made", expanded=True):
        for note in built.notes:
            st.text(note)
    papers(runs, built)


def grid(built: report.Report) -> pd.DataFrame:
    """What every format of the report shows, with the rank by the mean over tasks where it is defined."""
    header, *rows = report.grid(built)
    table = pd.DataFrame(rows, columns=header)
    table.insert(1, "rank", pd.Series([m.mean.value for m in built.methods]).rank(ascending=False, method="min"))
    return table


def exports(built: report.Report, table: pd.DataFrame, suite: str) -> None:
    """Exactly what is shown, as files."""
    parquet = io.BytesIO()
    table.to_parquet(parquet, index=False)
    files = {
        "CSV": (f"{suite}.csv", report.csv(built)),
        "LaTeX": (f"{suite}.tex", report.latex(built)),
        "Markdown": (f"{suite}.md", report.markdown(built)),
        "Parquet": (f"{suite}.parquet", parquet.getvalue()),
    }
    with st.container(horizontal=True):
        for kind, (name, content) in files.items():
            st.download_button(kind, content, file_name=name, icon=":material/download:", on_click="ignore")


def papers(runs: pd.DataFrame, built: report.Report) -> None:
    """Published numbers of the same methods on the same tasks, and why the two may not be compared."""
    st.subheader("Beside published numbers")
    found = derive(published.beside, ours(runs, built))
    if found.empty:
        st.caption("No paper in suites/published/ reports these methods on these tasks.")
        return
    clean = (found["not_comparable"] == "").sum()
    st.caption(
        f"{len(found)} published numbers, {clean} of them comparable as far as is known. Difference: ours less theirs; "
        "in spreads: over the combined standard deviation, where both are standard deviations over seeds."
    )
    st.dataframe(found, hide_index=True, column_config={"not_comparable": st.column_config.TextColumn(width="large")})


def ours(runs: pd.DataFrame, built: report.Report) -> pd.DataFrame:
    """Our numbers as `published.beside` takes them: means and standard deviations over seeds, in percent."""
    done = runs[runs["complete"]].groupby(["label", "task"], sort=False)
    firsts = done[["agent", "dataset", "steps", "mujoco"]].first()
    rows = [
        {"label": method.label, "task": task, "mean": cell.value, "n_seeds": cell.n_seeds}
        | {"std": pd.Series([score for _, score in cell.scores]).std()}
        for method in built.methods
        for task, cell in method.cells.items()
        if cell.n_seeds
    ]
    table = pd.DataFrame(rows, columns=["label", "task", "mean", "n_seeds", "std"])
    return table.join(firsts, on=["label", "task"])
