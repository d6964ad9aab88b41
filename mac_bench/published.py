"""Numbers from papers, as data, and our own results beside them: with every reason why the two may not be compared.

The reasons are those of `reasons.py`. The tables are `suites/published/*.csv`, the lengths of tasks
`suites/horizons.csv`. `agent` is the plain method in the registry; ablations and other implementations have none, and
are found by the name that the paper prints.
`task*` in a task's name stands for the mean over its tasks 1 to 5.
"""

import csv
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mac_bench.errors import UserError
from mac_bench.ran import Run
from mac_bench.reasons import named, over_five, reasons, units
from mac_bench.stats import simulators_of
from mac_bench.yaml_files import SUITES

NUMBERS = ("mean", "spread", "seeds", "steps")
COLUMNS = (
    *("task", "agent", "method", "metric", "unit", "mean", "spread", "spread_kind", "seeds", "steps"),
    *("data", "protocol", "source", "hand"),
)
VALID = {
    "unit": {"percent", "return", "normalised"},
    "spread_kind": {"std", "stderr", "ci95", "tasks", "unknown"},
    "hand": {"first", "second"},
}
NEEDED = {"task", "method", "metric", "mean", "source"}
KEY = ("task", "method", "data", "metric")
"""no two rows of a table are the same in all of these"""

HORIZONS = ("environment", "episode_limit", "oracle_steps", "source")
OURS = ("label", "agent", "task", "mean", "std", "n_seeds", "dataset", "steps", "mujoco")
MORE = ("average_last", "every", "scaling", "simulator", "measure", "made_here", "fetched", "rows", "ran")
BESIDE = (
    *("label", "task", "ours", "mean", "difference", "in_spreads", "verdict", "not_comparable", "source", "ours_std"),
    *("n_seeds", "spread", "spread_kind", "spread_taken", "seeds", "their_steps", "data", "protocol", "method"),
    *("their_task", "unit", "hand", "table", "agent"),
)
AGREE = 1.0
"""combined spreads; with four seeds on both sides that is 2 standard errors of the difference of the means"""
ROUNDED = 0.5
"""half of the last digit that most tables print, which is no difference"""
AGAINST = (
    "against: so many reasons speak against comparing the two; "
    "`mac-bench report SUITE --out DIR` writes them to published.csv, and the dashboard's leaderboard shows them"
)
"""what a terminal says below `brief`"""
FEWEST = 3
"""seeds of ours: with fewer a spread says nothing"""


class Horizon(NamedTuple):
    """How long a task is. Numbers are NaN, and the environment empty, where they are not known."""

    environment: str
    episode_limit: float
    """steps after which an episode ends"""
    oracle_steps: float
    """mean steps of a scripted policy that solves the task"""


def published(folder: Path = SUITES / "published") -> pd.DataFrame:
    """All published numbers, one row each: table (the file's stem) and COLUMNS.

    mean and spread are in `unit`; spread is half the width where it is a ci95. Unknown numbers are NaN, unknown texts
    empty. Raises UserError with file and line for a damaged file, and where a folder holds none.
    """
    paths = sorted(folder.glob("*.csv"))
    if not paths:
        raise UserError(f"{folder}: no *.csv in it; name the folder of published tables")
    rows = [{"table": path.stem} | row for path in paths for row in _table(path)]
    return pd.DataFrame(rows, columns=["table", *COLUMNS])


def _table(path: Path) -> list[dict[str, Any]]:
    rows, seen = [], {}
    for line, row in _lines(path, COLUMNS, NUMBERS, NEEDED):
        for name, valid in VALID.items():
            if row[name] not in valid:
                raise UserError(f"{path}, line {line}: {name} is '{row[name]}'; valid: {', '.join(sorted(valid))}")
        key = tuple(row[name] for name in KEY)
        if key in seen:
            raise UserError(f"{path}, line {line}: the same {', '.join(KEY)} as line {seen[key]}; remove one")
        seen[key] = line
        rows.append(row)
    return rows


def _lines(
    path: Path, columns: tuple[str, ...], numbers: Iterable[str], needed: set[str]
) -> Iterable[tuple[int, dict[str, Any]]]:
    """(line number, row) of a CSV with exactly these columns."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if tuple(header) != columns:
                raise UserError(f"{path}, line 1: its columns must be {', '.join(columns)}, not {', '.join(header)}")
            for cells in reader:
                if len(cells) != len(columns):
                    raise UserError(f"{path}, line {reader.line_num}: {len(cells)} cells, not {len(columns)}")
                row: dict[str, Any] = dict(zip(columns, cells, strict=True))
                if empty := sorted(name for name in needed if not row[name]):
                    raise UserError(f"{path}, line {reader.line_num}: {', '.join(empty)} must not be empty")
                yield reader.line_num, row | {name: _number(row[name], name, path, reader.line_num) for name in numbers}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a readable CSV ({error})") from None


def _number(text: str, name: str, path: Path, line: int) -> float:
    """NaN where the cell is empty."""
    try:
        value = float(text) if text else 0.0
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{path}, line {line}: {name} is '{text}', not a number; leave it empty if it is unknown")
    return value if text else math.nan


def horizons(path: Path = SUITES / "horizons.csv") -> pd.DataFrame:
    """One row per environment: environment, episode_limit, oracle_steps (NaN: not measured), source."""
    rows = _lines(path, HORIZONS, ("episode_limit", "oracle_steps"), {"environment", "episode_limit", "source"})
    return pd.DataFrame([row for _, row in rows], columns=list(HORIZONS))


def horizon_of(task: str, table: pd.DataFrame | None = None) -> Horizon:
    """The longest environment that the task's name begins with; NaN where there is none."""
    table = horizons() if table is None else table
    found = [row for row in table.to_dict("records") if f"{task}-".startswith(f"{row['environment']}-")]
    if not found:
        return Horizon("", math.nan, math.nan)
    best = max(found, key=lambda row: len(row["environment"]))
    return Horizon(best["environment"], best["episode_limit"], best["oracle_steps"])


def beside(ours: pd.DataFrame, theirs: pd.DataFrame | None = None) -> pd.DataFrame:
    """Each of our rows with each published number of its task and method.

    `ours` has OURS, as `own_means` makes it: mean and std over seeds in %, steps = updates; and may have
    `average_last`, `every` (updates between evaluations), `scaling` (of observations), `simulator` and `measure`
    (without these two: OGBench, success), `rows` (transitions for training), `made_here` and `fetched` (bool): without
    the last three it cannot be known whether the data are the published ones; `ran` (each `ran.Run` that it is of):
    without it settings are unknown. A label that is printed as a method, e.g. `MAC (FQL)`, is that method; any other is
    its agent's plain method. A task with rewards is put beside the mean over tasks 1 to 5 too.

    Returns BESIDE: what is theirs has the names of COLUMNS, but for their own task (`their_task`) and updates
    (`their_steps`); difference (ours - theirs, in one unit only), in_spreads (difference / sqrt(ours_std^2 + theirs^2),
    where theirs is a std over seeds or taken for one, as `spread_taken` says; else NaN); verdict (see there);
    not_comparable (reasons, `; ` between them; empty: none). Raises UserError where a column of ours is missing.
    """
    if missing := [name for name in OURS if name not in ours]:
        raise UserError(f"our table has no {', '.join(missing)}; it needs {', '.join(OURS)}")
    theirs = published() if theirs is None else theirs
    variants = set(theirs["method"][theirs["agent"] == ""])
    records = theirs.to_dict("records")
    owned = {(own["label"], own["task"]) for own in ours.to_dict("records")}
    pairs = [(own, row) for own in ours.to_dict("records") for row in records if same(own, row, variants)]
    # one task is put beside the mean over five only where the mean itself is not there
    pairs = [(o, row) for o, row in pairs if row["task"] == o["task"] or (o["label"], row["task"]) not in owned]
    return pd.DataFrame([_pair(own, row) for own, row in pairs], columns=list(BESIDE))


def brief(runs: pd.DataFrame) -> pd.DataFrame:
    """How far the results of `queries.results` are from published ones, for a terminal: label, task, ours, published,
    "in spreads", verdict, against (how many reasons speak against comparing), table. Labels that are variants of a
    method are left out; `beside` has them."""
    found = beside(own_means(runs)).to_dict("records")
    rows = [
        {"label": row["label"], "task": row["their_task"], "ours": row["ours"], "published": row["mean"]}
        | {"in spreads": "" if math.isnan(row["in_spreads"]) else f"{row['in_spreads']:+.1f}"}
        | {"verdict": row["verdict"], "against": sum(map(bool, row["not_comparable"].split("; ")))}
        | {"table": row["table"]}
        for row in found
        if named(row["label"], row["agent"], row["method"]) and row["task"] == row["their_task"]
    ]
    return pd.DataFrame(rows)


def own_means(runs: pd.DataFrame) -> pd.DataFrame:
    """What `beside` takes of ours: the means of the complete runs of `queries.results`, with what they were made of;
    and where a method has all of tasks 1 to 5 of an environment, those of its means over the five, seed by seed. Runs
    of several simulators have no mean."""
    single: Any = runs[runs["complete"]]
    done: Any = pd.concat([single, *_over_five(single)])
    rows = []
    for (label, task), own in done.groupby(["label", "task"], sort=False):
        if len(simulators_of(own["simulator"])) > 1:
            continue
        score = 100 * own["score"]
        row = {"label": label, "task": task, "mean": score.mean(), "std": score.std(), "n_seeds": len(own)}
        row |= {name: own[name].iloc[0] for name in ("agent", "dataset", "steps", "average_last", "every")}
        count = set(own["data_rows"])
        for name in ("mujoco", "simulator", "measure"):
            row[name] = " + ".join(sorted({v if isinstance(v, str) else "unknown" for v in own[name]}))
        for name in ("made_here", "fetched"):
            said = set(own[f"data_{name}"])
            row[name] = {"True": True, "False": False}.get(said.pop()) if len(said) == 1 else None
        row["rows"] = pd.to_numeric(count.pop(), errors="coerce") if len(count) == 1 else math.nan
        of = single[(single["label"] == label) & ((single["task"] == task) | (single["task"].map(over_five) == task))]
        row["ran"] = tuple(sorted({Run(*run) for run in of[list(Run._fields)].itertuples(index=False)}, key=str))
        row["scaling"] = " + ".join(sorted({json.loads(run.settings).get("scaling", "none") for run in row["ran"]}))
        rows.append(row)
    return pd.DataFrame(rows, columns=[*OURS, *MORE])


def _over_five(done: Any) -> Iterable[pd.DataFrame]:
    """Runs whose score is the mean over five tasks, for each seed that has all five."""
    for (_, star), own in done.groupby(["label", done["task"].map(over_five)], sort=False):
        if star.endswith("task*-v0") and own["task"].nunique() == 5:
            by_seed = own.groupby("seed")
            whole = by_seed["score"].mean()[by_seed["task"].nunique() == 5]
            first = own.drop_duplicates("seed").set_index("seed").loc[whole.index]
            yield first.assign(score=whole, task=star).reset_index()


def same(own: dict[Any, Any], row: dict[Any, Any], variants: set[str]) -> bool:
    """Whether a published number is of our row's task and method; `variants` are methods that only their name tells."""
    if row["task"] not in (own["task"], over_five(own["task"])):
        return False
    if own["label"] in variants:
        return row["method"] == own["label"]
    return row["agent"] == own["agent"] != ""


def _pair(own: dict[Any, Any], row: dict[Any, Any]) -> dict[str, Any]:
    difference = own["mean"] - row["mean"] if row["unit"] in units(own) else math.nan
    theirs, taken = _std(row)
    spread = math.hypot(own["std"], theirs)
    return (
        {name: row[name] for name in BESIDE if name in row}
        | {name: own[name] for name in ("label", "agent", "task", "n_seeds")}
        | {"ours": own["mean"], "ours_std": own["std"], "their_task": row["task"], "their_steps": row["steps"]}
        | {"difference": difference, "in_spreads": difference / spread if spread > 0 else math.nan}
        | {"spread_taken": taken, "verdict": verdict(difference, spread, own["n_seeds"], row["spread_kind"])}
        | {"not_comparable": "; ".join(reason for reason in reasons(own, row) if reason)}
    )


def verdict(difference: float, spread: float, n_seeds: float, kind: str) -> str:
    """Of a difference of means and the combined spread: it agrees within AGREE spreads, or within rounding.

    A verdict that hangs on taking a spread of theirs of `unknown` kind for one over seeds has a "(?)". There is none
    where theirs is over tasks: that says how unlike the tasks are, and would make nearly everything agree.
    """
    if math.isnan(difference):
        return "other metric"
    if n_seeds < FEWEST:
        return "too few seeds"
    if kind == "tasks":
        return "no spread over seeds"
    if abs(difference) <= ROUNDED:
        return "agrees"
    if math.isnan(spread):
        return "spread unknown"
    found = "agrees" if abs(difference) <= AGREE * spread else "differs"
    return f"{found} (?)" if kind == "unknown" else found


def _std(row: dict[Any, Any]) -> tuple[float, str]:
    """Standard deviation over their seeds, and what says so; NaN and nothing where it cannot be had."""
    spread, kind, seeds = row["spread"], row["spread_kind"], row["seeds"]
    if math.isnan(spread):
        return math.nan, ""
    if kind == "std":
        return spread, "std"
    if kind == "unknown":
        return spread, "std, which nobody says"
    if kind == "tasks":
        return math.nan, "nothing: it is over tasks"
    if not seeds > 1:
        return math.nan, ""
    if kind == "stderr":
        return spread * math.sqrt(seeds), "std, from its stderr"
    from scipy.special import stdtrit  # here, as importing this module should cost little

    return spread * math.sqrt(seeds) / float(stdtrit(seeds - 1, 0.975)), "std, from its ci95"
