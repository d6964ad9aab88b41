"""What the pages read: the database, opened read-only, and files in run folders. Nothing here writes.

An answer is kept as long as the database file is the same, and what is derived from it as long as the answer is.
"""

import argparse
import re
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import streamlit as st

from mac_bench.errors import UserError

Answer = TypeVar("Answer")

TAIL_BYTES = 20_000
"""of a log that is shown"""


class Source(NamedTuple):
    """Where the results are."""

    database: Path
    runs: Path


@st.cache_resource(max_entries=1)
def source() -> Source:
    """As `mac-bench dashboard` names it on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--db", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    options = parser.parse_args(sys.argv[1:])
    return Source(options.db, options.runs)


def version() -> tuple[int, int]:
    """Of the database: it changes with every collect that found something."""
    try:
        found = source().database.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


@st.cache_resource(max_entries=1, show_spinner=False)
def _forget(version: tuple[int, int]) -> None:
    """Called once for each version: what an older one has answered is never asked for again."""
    _kept.clear()


def ask(query: Callable[..., Answer], *args: Any, **kwargs: Any) -> Answer:
    """`query(database, ...)`, for instance of `mac_bench.queries`; what it raises is raised here."""
    _forget(version())
    return _kept(f"{query.__module__}.{query.__qualname__}", version(), args, kwargs, query)


def derive(function: Callable[..., Answer], *args: Any, **kwargs: Any) -> Answer:
    """`function(...)` of data that come from the database: computed again only for other data."""
    return _derived(f"{function.__module__}.{function.__qualname__}", args, kwargs, function)


@st.cache_data(max_entries=50, show_spinner=False)
def _kept(name: str, version: tuple[int, int], args: Any, kwargs: Any, _query: Callable[..., Any]) -> Any:
    return _query(source().database, *args, **kwargs)


@st.cache_data(max_entries=50, show_spinner="computing ...")
def _derived(name: str, args: Any, kwargs: Any, _function: Callable[..., Any]) -> Any:
    return _function(*args, **kwargs)


def plain(text: str) -> str:
    """As Streamlit's Markdown shows it literally: names and addresses of a user's own are no markup."""
    return re.sub(r"([\\*_\[\](){}<>#!|~$:])", r"\\\1", text.replace("`", "'"))


def guarded(show: Callable[..., None]) -> Callable[..., None]:
    """`show`, with a line in place of what it cannot show."""

    @wraps(show)
    def guarded(*args: Any) -> None:
        try:
            show(*args)
        except UserError as error:
            st.info(plain(str(error)), icon=":material/info:")

    return guarded


def log_tail(run: str) -> str | None:
    """The end of what a run printed; None where it has no log."""
    path = source().runs / run / "log.txt"
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return None


def videos(run: str) -> list[Path]:
    """The films in a run's folder."""
    return sorted((source().runs / run).glob("videos/*.gif"))
