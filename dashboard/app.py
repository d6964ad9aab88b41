"""The dashboard, which `mac-bench dashboard` starts: its pages, and what they say where something is missing."""

import streamlit as st

from dashboard.source import guarded
from dashboard.views import board, cost, curves, horizon, leaderboard, overview, run, statistics


def page(module, title: str, icon: str, default: bool = False):
    """A page whose expected errors are one line for people and not a trace."""
    name = module.__name__.rpartition(".")[2]
    return st.Page(guarded(module.show), title=title, icon=icon, url_path=name, default=default)


def main() -> None:
    """Lay out the navigation and run the page that was asked for."""
    st.set_page_config(page_title="mac-bench", page_icon=":material/route:", layout="wide")
    pages = {
        "During": [
            page(overview, "Overview", ":material/home:", default=True),
            page(board, "Campaign board", ":material/grid_on:"),
            page(run, "Run", ":material/directions_run:"),
        ],
        "After": [
            page(leaderboard, "Leaderboard", ":material/leaderboard:"),
            page(curves, "Curves", ":material/show_chart:"),
            page(statistics, "Statistics", ":material/query_stats:"),
            page(horizon, "Long horizon", ":material/timeline:"),
            page(cost, "Cost", ":material/schedule:"),
        ],
    }
    st.session_state["run page"] = pages["During"][-1]
    st.navigation(pages, expanded=True).run()


main()
