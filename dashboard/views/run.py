"""Run: settings, what differs from another run or the defaults, curves, environment, attempts, videos, log."""

import json
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.source import ask, log_tail, source, videos
from mac_bench import queries
from mac_bench.errors import UserError


def show() -> None:
    """The page."""
    st.title("Run")
    name = st.text_input("run", key="run", bind="query-params", placeholder="a run's id").strip()
    if not name:
        raise UserError("name a run by its id: the overview, the board and the leaderboard lead to them")
    run = ask(queries.run, name)
    head(run)
    tabs = st.tabs(["Curves", "Settings", "Attempts", "Log", "Videos"])
    for tab, part in zip(tabs, (curves, settings, attempts, log, films), strict=True):
        with tab:
            part(run)


def head(run: dict[str, Any]) -> None:
    """What it is and how it stands."""
    rate = "-" if run["updates_per_s"] is None else f"{run['updates_per_s']:.3g}"
    facts = {
        "state": run["state"],
        "updates": f"{run['step']:,} of {run['steps']:,}",
        "updates/s": rate,
        "agent": f"{run['agent']} (version {run['version']})",
        "task": run["task"],
        "seed": str(run["seed"]),
        "in": ", ".join(f"{suite}: {label}" for suite, label in run["suites"]) or "no suite",
        "host": run["host"] or "-",
    }
    st.dataframe(pd.DataFrame([{"run": run["id"], **facts}]), hide_index=True)
    if run["reason"]:
        st.error("Reason:")
        st.code(run["reason"], language=None, wrap_lines=True)
    if run["damaged"]:
        st.warning(f"{run['damaged']} lines of its log were damaged and passed over.")


def curves(run: dict[str, Any]) -> None:
    """Success of each evaluation task, and logged numbers."""
    found = ask(queries.evaluations, run["id"])
    if found.empty:
        st.caption("not evaluated yet")
    else:
        if found["task"].nunique() == 2:  # the mean of a single task says nothing new
            found = found[found["task"] != 0]
        names = found["task"].map(lambda task: "mean" if task == 0 else f"task {task}")
        frame = pd.DataFrame({"name": names, "step": found["step"], "value": 100 * found["success"].astype(float)})
        st.line_chart(
            frame, x="step", y="value", color="name", x_label="updates", y_label="success or normalised score in %"
        )
    logged = ask(queries.metrics, run["id"])
    names = sorted(logged["name"].unique())
    wanted = st.multiselect("metrics", names, key="metrics", bind="query-params", placeholder="none")
    for name in wanted:
        st.line_chart(logged[logged["name"] == name], x="step", y="value", x_label="updates", y_label=name)


def settings(run: dict[str, Any]) -> None:
    """What differs from another run or from the agent's defaults, and all of them."""
    other = st.text_input("compare with run", key="other", bind="query-params", placeholder="the defaults").strip()
    own = flat(run["config"])
    theirs = flat(ask(queries.run, other)["config"]) if other else own | defaults(run)
    names = list(dict.fromkeys([*own, *theirs]))
    table = pd.DataFrame({"setting": names, "this run": map(own.get, names)})
    table[other or "default"] = list(map(theirs.get, names))
    differs = [own.get(name) != theirs.get(name) for name in names]
    st.caption(f"{sum(differs)} of {len(names)} settings differ from those of {other or 'the agent by default'}")
    st.dataframe(table[differs], hide_index=True)
    with st.expander("all settings"):
        st.dataframe(table, hide_index=True)


def defaults(run: dict[str, Any]) -> dict[str, str]:
    """The agent's, as the run's last attempt recorded them; none before it has begun."""
    for environment in reversed(ask(queries.attempts, run["id"])["environment"].tolist()):
        if environment and "defaults" in environment:
            return flat({"settings": json.loads(environment["defaults"])})
    return {}


def flat(config: dict[str, Any], before: str = "") -> dict[str, str]:
    """Nested settings under dotted names."""
    found = {}
    for name, value in config.items():
        found |= flat(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: str(value)}
    return found


def attempts(run: dict[str, Any]) -> None:
    """When and where it was tried, how that ended, and with what."""
    found = ask(queries.attempts, run["id"])
    if found.empty:
        st.caption("not begun yet")
        return
    times = {
        name: pd.to_datetime(found[name].astype(float), unit="s") for name in ("start_time", "end_time", "seen_time")
    }
    st.dataframe(found.drop(columns=["environment", "run"]).assign(**times), hide_index=True)
    st.caption("Times are UTC.")
    environments = pd.DataFrame(found["environment"].tolist(), index=found["attempt"].astype(str)).T
    environments = environments.drop(index="defaults", errors="ignore")
    st.dataframe(environments.rename_axis("environment of attempt").astype(str))


def log(run: dict[str, Any]) -> None:
    """The end of what it printed."""
    text = log_tail(run["id"])
    if text is None:
        st.caption(f"no log.txt in {source().runs / run['id']}: not begun, or trained in a terminal")
    else:
        st.code(text, language=None, height=500)


def films(run: dict[str, Any]) -> None:
    """Episodes that were filmed."""
    found = videos(run["id"])
    if not found:
        st.caption("no videos; `--videos 2` films the last evaluation")
    for path in found:
        st.caption(path.name)
        st.image(str(path))
