"""From a suite's runs to its figures: the frames that the report's files and the dashboard's pages both draw."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mac_bench import charts, compare, published, queries
from mac_bench.errors import UserError
from mac_bench.stats import PERCENT, bootstrap_interval, bounds_of, simulators_of, task_mean, unit_of

AHEAD = ("model_error/10", "model_error/50", "model_error/100")
"""what runs record: see mac_bench/model_error.py"""

Figure = charts.Chart | str
"""a chart, or why there is none"""


def complete(runs: pd.DataFrame) -> pd.DataFrame:
    """What `mac_bench.compare` takes of `queries.results`: label, task, seed, score in percent, of the complete runs.

    Raises UserError where there is none, or where they are of several simulators.
    """
    done: Any = runs[runs["complete"]]
    if len(kinds := simulators_of(done["simulator"])) > 1:
        raise UserError(
            f"no number is of several simulators, and these runs are of {' and '.join(kinds)}; choose tasks"
        )
    if done.empty:
        raise UserError("no run of this selection is complete yet; `mac-bench status` says how far they are")
    return done[["label", "task", "seed"]].assign(score=100 * done["score"]).reset_index(drop=True)


def settled(recorded: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Of `queries.curves`, or other rows with a run, those of the complete runs; all as long as no run is complete:
    they show how it goes on."""
    whole: Any = recorded[recorded["run"].isin(runs.loc[runs["complete"], "run"])]
    return recorded if whole.empty else whole.reset_index(drop=True)


def learning(curves: pd.DataFrame, smooth: int = 1) -> pd.DataFrame:
    """What `compare.curve` takes of `queries.curves`: label, task, run, step, value in percent.

    smooth: each value is the mean of so many last evaluations of its run; 1 leaves them as they are.
    """
    rows: Any = curves[curves["success"].notna()]
    rows = rows[["label", "task", "run", "step"]].assign(value=100 * rows["success"].astype(float))
    if smooth > 1:
        mean = rows.groupby(["label", "run"], sort=False)["value"].rolling(smooth, min_periods=1).mean()
        rows = rows.assign(value=mean.droplevel([0, 1]))
    return rows.reset_index(drop=True)


def hours(curves: pd.DataFrame) -> pd.DataFrame:
    """label, task, step, hours: those that the runs' attempts had taken until then, on average."""
    rows: Any = curves[["label", "task", "step"]].assign(hours=curves["spent"] / 3600)
    return rows.groupby(["label", "task", "step"], sort=False, as_index=False)["hours"].mean()


def by_length(scores: pd.DataFrame, length: str = "episode_limit") -> pd.DataFrame:
    """label, task, environment, steps, mean, low, high, n, of the tasks whose length is known.

    scores: as `complete` gives them. length: one of `charts.LENGTHS`, which becomes `steps`.
    """
    table = published.horizons()
    known = {task: published.horizon_of(task, table)._asdict() for task in scores["task"].unique()}
    columns = ["label", "task", "environment", "steps", "mean", "low", "high", "n"]
    rows = [
        {"environment": known[task]["environment"], "steps": known[task][length], **row}
        for (task, row) in ((row["task"], row) for row in _estimates(scores, ["label", "task"], "score", PERCENT))
    ]
    return pd.DataFrame(rows, columns=columns).dropna(subset="steps")


def model_errors(last: pd.DataFrame) -> pd.DataFrame:
    """label, task, ahead, mean, low, high, n over runs, from `queries.last_measured` of AHEAD."""
    last = last.assign(ahead=[int(name.rpartition("/")[2]) for name in last["name"]])
    rows = _estimates(last, ["label", "task", "ahead"], "value", (0.0, float("inf")))
    return pd.DataFrame(rows, columns=["label", "task", "ahead", "mean", "low", "high", "n"])


def _estimates(
    frame: pd.DataFrame, keys: list[str], value: str, bounds: tuple[float, float]
) -> Iterable[dict[str, Any]]:
    """keys, mean, low, high, n of each group."""
    groups: Any = frame.groupby(keys, sort=False)[value]
    for key, own in groups:
        values = own.to_numpy(float)
        low, high = bootstrap_interval([values], task_mean, bounds=bounds)
        # a number that is none makes the mean none: pandas would pass over it
        yield dict(zip(keys, key, strict=True)) | {"mean": values.mean(), "low": low, "high": high, "n": len(own)}


def cost_table(costs: pd.DataFrame, target: float = 0.5) -> pd.DataFrame:
    """A row for each method and device, from `queries.costs` with the same `target`: method, device, runs (begun),
    hours in all, finished; and of these medians: hours per run, updates/s, hours to the target, for which a run that
    did not get there counts as one that takes for ever; and how many did. memory in MB: the highest peak."""
    rows = []
    groups: Any = costs[costs["attempts"] > 0].fillna({"device": "unknown"}).groupby(["label", "device"], sort=False)
    for (label, device), own in groups:
        done = own[own["state"] == "finished"]
        to_target = done["to_target"].fillna(np.inf).median() / 3600
        rows.append(
            {"method": label, "device": device, "runs": len(own), "hours in all": own["seconds"].sum() / 3600}
            | {"finished": len(done), "hours per run": done["seconds"].median() / 3600}
            | {"updates/s": done["updates_per_s"].median()}
            | {"share evaluating": own["evaluating"].sum() / max(own["seconds"].sum(), 1e-9)}
            | {"memory, MB": own["memory_mb"].max(), "device memory, MB": own["device_memory_mb"].max()}
            | {f"hours to {100 * target:g} %": to_target if np.isfinite(to_target) else np.nan}
            | {f"reached {100 * target:g} %": f"{done['to_target'].notna().sum()} of {len(done)}"}
        )
    return pd.DataFrame(rows)


def draw(database: Path, suite: str) -> dict[str, Figure]:
    """Every figure of a suite by its name."""
    runs = queries.results(database, suite)
    labels, unit = list(dict.fromkeys(runs["label"])), unit_of(runs["measure"])

    def scores() -> pd.DataFrame:
        return complete(runs)

    def costs(of: str) -> charts.Chart:
        found = queries.costs(database, suite)
        return charts.costs(found.query("attempts > 0"), of, labels)

    drawn: dict[str, Callable[[], charts.Chart]] = {
        "intervals": lambda: charts.intervals(
            compare.aggregates(scores(), bounds=bounds_of(runs["measure"])), labels, unit=unit
        ),
        "profiles": lambda: charts.profiles(compare.profiles(scores()), labels, unit=unit),
        "improvement": lambda: charts.improvement(compare.improvement(_several(scores())), labels),
        "differences": lambda: charts.comparison(compare.compare(_several(scores()))),
        "curves": lambda: charts.curves(
            compare.curve(learning(settled(queries.curves(database, suite), runs))), labels=labels, unit=unit
        ),
        "horizon": lambda: charts.horizon(by_length(scores()), labels),
        "model-error": lambda: charts.model_error(
            model_errors(settled(queries.last_measured(database, suite, AHEAD), runs)), labels
        ),
        "time": lambda: costs("seconds"),
        "time-to-target": lambda: costs("to_target"),
        "speed": lambda: costs("updates_per_s"),
    }
    return {name: _tried(chart) for name, chart in drawn.items()}


def _several(scores: pd.DataFrame) -> pd.DataFrame:
    if len(set(scores["label"])) < 2:
        raise UserError("with one method there is nothing to compare")
    return scores


def _tried(chart: Callable[[], charts.Chart]) -> Figure:
    try:
        return chart()
    except UserError as error:
        return str(error)
