"""A paper's tables, cell by cell, beside the runs of the suite that repeats them: what agrees and what differs.

Where it is known at how many updates a number was taken, ours is the one at that step; where not, ours is given at each
of the suite's checkpoints and at the end.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mac_bench import published, queries, reasons
from mac_bench.errors import UserError
from mac_bench.report import markdown_table, markdown_text

CELLS = (
    *("table", "task", "method", "published", "spread", "spread_kind", "seeds", "at", "label", "ours", "ours_std"),
    *("n_seeds", "difference", "in_spreads", "spread_taken", "verdict", "not_comparable", "source"),
)
NOT_RUN, NOT_HERE = "not run", "not in the suite"
"""verdicts of cells without a complete run of ours: of a method that is planned, and of one that is not"""
ORDER = (
    *("agrees", "agrees (?)", "differs", "differs (?)", "no spread over seeds", "spread unknown", "other metric"),
    *("too few seeds", NOT_RUN, NOT_HERE),
)


class Plan(NamedTuple):
    """What a suite says of its papers."""

    tables: Mapping[str, str | None]
    """table in `published/` -> amount of data of the rows that are meant, None: all"""
    checkpoints: tuple[int, ...] = ()
    """updates at which results are given where a paper does not say at which its own were taken"""


def cells(database: Path, suite: str, plan: Plan, theirs: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row for each published number of the suite's tasks and each of our results that belongs beside it: CELLS.

    `published` and `ours` are means; at: updates of ours; what is not there is NaN or empty. Raises UserError where the
    suite names no table, or one that is not there.
    """
    theirs = published.published() if theirs is None else theirs
    if not plan.tables:
        raise UserError(f"suite '{suite}' reproduces no table; its file may say `reproduces: {{table: data}}`")
    if missing := sorted(set(plan.tables) - set(theirs["table"])):
        raise UserError(f"no published table '{missing[0]}'; there are: {', '.join(sorted(set(theirs['table'])))}")
    last = queries.results(database, suite)
    tasks = set(last["task"]) | {reasons.over_five(task) for task in last["task"]}
    meant = [
        row
        for row in theirs.to_dict("records")
        if row["table"] in plan.tables and row["task"] in tasks and plan.tables[row["table"]] in (None, row["data"])
    ]
    steps = {int(row["steps"]) for row in meant if not math.isnan(row["steps"])} | set(plan.checkpoints)
    ours: dict[int | None, pd.DataFrame] = {None: published.own_means(last)}
    for at in sorted(steps):
        ours[at] = published.own_means(queries.results(database, suite, at))
    variants = set(theirs["method"][theirs["agent"] == ""])
    found = [cell for row in meant for cell in _cells(row, last, ours, variants, plan.checkpoints)]
    return pd.DataFrame(found, columns=list(CELLS))


def _cells(
    row: dict[Any, Any],
    last: pd.DataFrame,
    ours: Mapping[int | None, pd.DataFrame],
    variants: set[str],
    checkpoints: Iterable[int],
) -> Iterable[dict[str, Any]]:
    """Ours beside one number: a row for each label and step that fits, or one that says that there is none."""
    planned: Any = last[["label", "agent", "task", "steps"]].drop_duplicates()
    fitting = [own for own in planned.to_dict("records") if published.same(own, row, variants)]
    fitting = [own for own in fitting if reasons.named(own["label"], own["agent"], row["method"])]
    about = {name: row[name] for name in ("table", "task", "method", "spread", "spread_kind", "seeds", "source")}
    about["published"] = row["mean"]
    if not fitting:
        yield about | {"verdict": NOT_HERE}
        return
    for label in dict.fromkeys(own["label"] for own in fitting):
        end = max(own["steps"] for own in fitting if own["label"] == label)
        known = not math.isnan(row["steps"])
        wanted = [int(row["steps"])] if known else [*(at for at in checkpoints if at < end), end]
        for at in wanted:
            frame = ours[None if at == end else at]
            mine: Any = frame[(frame["label"] == label) & (frame["task"] == row["task"])]
            beside = published.beside(mine, pd.DataFrame([row])).to_dict("records")
            taken = ("label", "ours", "ours_std", "n_seeds", "difference", "in_spreads", "spread_taken", "verdict")
            cell = {name: own[name] for own in beside for name in (*taken, "not_comparable")}
            yield about | {"label": label, "at": at, "n_seeds": 0, "verdict": NOT_RUN} | cell


def markdown(suite: str, frame: pd.DataFrame, ran: pd.DataFrame) -> str:
    """The cells as a page: what the words mean, how many of each, a table for each of the papers', and `what_ran`."""
    counted = frame["verdict"].value_counts()
    counts = [f"{counted[word]} {word}" for word in ORDER if word in counted]
    text = [f"# {markdown_text(suite)}: reproduction\n\n{len(frame)} cells: {', '.join(counts) or 'none'}.\n\n"]
    text += [f"- {line}\n" for line in _notes()]
    for table, own in frame.groupby("table", sort=False):
        sources = "; ".join(dict.fromkeys(own["source"]))
        text.append(f"\n## {markdown_text(str(table))}\n\n{markdown_text(sources)}\n\n")
        header = ["task", "method", "published", "seeds", "ours", "seeds", "updates", "distance", "verdict"]
        rows = [_row(cell) for cell in own.to_dict("records")]
        text.append(markdown_table([[*header, "what speaks against comparing"], *rows]))
    text.append("\n## What ran\n\nSettings that are not the agent's defaults.\n\n")
    text.append(markdown_table([list(ran), *ran.to_numpy().tolist()]))
    return "".join(text)


def _notes() -> Iterable[str]:
    yield "Successes in %, or normalised scores. Ours: mean and standard deviation over seeds of the reported number."
    yield (
        "Distance: ours less the published mean, over the root of the sum of both squared spreads. A published spread "
        "whose kind nobody says is taken for a standard deviation over seeds, and marked with (?), as is a verdict "
        "that hangs on it: were it a standard error, more would agree, were it over tasks, there would be no verdict."
    )
    yield (
        "A spread over tasks says how unlike the tasks are and nothing of chance: it enters no distance, and there is "
        "no verdict. The means can be compared by eye."
    )
    yield (
        f"It agrees within {published.AGREE:g} of these spreads, which with four seeds on both sides are two standard "
        f"errors, or within {published.ROUNDED:g}, as tables are rounded. Under {published.FEWEST} seeds are too few."
    )
    yield "Updates: where a paper does not say at how many its numbers were taken, ours stand at each checkpoint."


def _row(cell: dict[Any, Any]) -> list[str]:
    kind = {"unknown": " (?)", "std": "", "stderr": " (standard error)", "ci95": " (95 % interval)"}
    kind["tasks"] = " (over tasks)"
    theirs = _plus_minus(cell["published"], cell["spread"])
    theirs += "" if math.isnan(cell["spread"]) else kind[cell["spread_kind"]]
    at = "" if pd.isna(cell["at"]) else f"{cell['at'] / 1e6:g}M" if cell["at"] >= 1e5 else f"{cell['at']:.0f}"
    ours = "-" if pd.isna(cell["ours"]) else _plus_minus(cell["ours"], cell["ours_std"])
    seeds = ["?" if pd.isna(cell["seeds"]) else f"{cell['seeds']:.0f}", "" if ours == "-" else f"{cell['n_seeds']:.0f}"]
    distance = "" if pd.isna(cell["in_spreads"]) else f"{cell['in_spreads']:+.1f}"
    against = cell["not_comparable"] if isinstance(cell["not_comparable"], str) else ""
    other = "" if pd.isna(cell["label"]) or cell["label"] == cell["method"] else f" ({cell['label']})"
    return [
        cell["task"],
        cell["method"] + other,
        theirs,
        seeds[0],
        ours,
        seeds[1],
        at,
        distance,
        cell["verdict"],
        against,
    ]


def _plus_minus(mean: float, spread: float) -> str:
    return f"{mean:.4g}" + ("" if math.isnan(spread) else f" ± {spread:.3g}")
