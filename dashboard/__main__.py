"""Streamlit's server, with what the pages need loaded before it listens: the first visitor does not wait for it."""

import importlib

from streamlit.web import cli

for name in ("altair", "pandas", "scipy.special", "sqlalchemy", "mac_bench.export"):
    importlib.import_module(name)
cli.main(prog_name="streamlit")
