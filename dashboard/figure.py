"""A chart on a page, and the same as a file."""

import streamlit as st

from mac_bench import charts


def show(chart: charts.Chart, name: str) -> None:
    """The chart, and buttons that save it under `name` as SVG and as PNG, drawn when they are asked for."""
    st.altair_chart(chart)
    with st.container(horizontal=True):
        for kind in ("svg", "png"):
            st.download_button(
                f"{name}.{kind}",
                data=lambda kind=kind: charts.render(chart, kind),
                file_name=f"{name}.{kind}",
                key=f"{name}.{kind}",
                type="tertiary",
                icon=":material/download:",
                on_click="ignore",
            )
