"""The dashboard, which `mac-bench dashboard` starts: its pages, and what they say where something is missing."""

import importlib

import numpy as np
import streamlit as st
from PIL import Image

from dashboard.source import guarded

PAGES = {
    "During": {
        "overview": ("Overview", "home"),
        "board": ("Campaign board", "grid_on"),
        "run": ("Run", "directions_run"),
    },
    "After": {
        "leaderboard": ("Leaderboard", "leaderboard"),
        "curves": ("Curves", "show_chart"),
        "statistics": ("Statistics", "query_stats"),
        "horizon": ("Long horizon", "timeline"),
        "cost": ("Cost", "schedule"),
    },
}
"""file in views/ and part of the address -> title and icon; the first one is at the address itself"""
SIDEBAR = 230  # pixels
# three panels side by side fit a window of 1024 pixels
ROOM = "<style>[data-testid=stMainBlockContainer] {padding: 3rem 2rem}</style>"


def page(name: str, title: str, icon: str):
    """A page whose file is loaded when it is opened, and whose expected errors are one line for people, not a trace."""

    def show() -> None:
        importlib.import_module(f"dashboard.views.{name}").show()

    return st.Page(guarded(show), title=title, icon=f":material/{icon}:", url_path=name, default=name == "overview")


def favicon() -> Image.Image:
    """A rising staircase of 16 pixels: a named icon would be fetched from another host."""
    column, row = np.meshgrid(np.arange(16), np.arange(16))
    steps = np.where((16 - row <= 4 * (column // 4 + 1))[..., None], (0, 114, 178), 255)
    return Image.fromarray(steps.astype(np.uint8))


def main() -> None:
    """Lay out the navigation and run the page that was asked for."""
    st.set_page_config(page_title="mac-bench", page_icon=favicon(), layout="wide", initial_sidebar_state=SIDEBAR)
    st.html(ROOM)
    pages = {part: {name: page(name, *look) for name, look in own.items()} for part, own in PAGES.items()}
    st.session_state["run page"] = pages["During"]["run"]
    here = st.navigation({part: list(own.values()) for part, own in pages.items()}, expanded=True)
    if st.session_state.get("here", here.url_path) != here.url_path:
        keep_filters()
    st.session_state["here"] = here.url_path
    here.run()


def keep_filters() -> None:
    """Let filters that came with a link go along to the next page: Streamlit keeps those only that were chosen here."""
    for key in ("suite", "label", "tag", "task"):
        if st.session_state.get(key) and key not in st.query_params:
            st.session_state[key] = st.query_params[key] = st.session_state[key]


main()
