"""A suite's results as one table, method x task: for the terminal, Markdown, CSV and LaTeX.

Runs that are not complete are shown and never averaged. All numbers are successes in %, or normalised scores.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from mac_bench.errors import UserError
from mac_bench.stats import PERCENT, Statistic, bootstrap_interval, bounds_of, simulators_of, task_iqm, task_mean

ALL = "(all)"
"""what the CSV writes as the task of the rows over all tasks"""

FEW = 5
"""with fewer seeds than this an interval is coarse, and the seeds themselves are shown"""

PHYSICS = ("mujoco", "ogbench")
"""packages whose version can change what an environment does"""

LEFT = ("label", "task", "verdict", "table")
"""columns of words, in tables for a terminal"""

Runs = list[dict[Any, Any]]
"""Rows of `queries.results`."""


@dataclass(frozen=True)
class Cell:
    """One label on one task, or over all tasks. Numbers are NaN where they are not defined."""

    text: str
    """what every table shows"""
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n_seeds: int = 0
    """complete runs; over all tasks the smallest number of any"""
    n_unfinished: int = 0
    scores: tuple[tuple[int, float], ...] = ()
    """(seed, score) of the complete runs"""


@dataclass(frozen=True)
class Method:
    """One row of the table."""

    label: str
    rank: int | None
    """by the mean over tasks, 1 for the highest; None where there is no mean"""
    cells: dict[str, Cell]
    """task -> cell"""
    mean: Cell
    iqm: Cell


@dataclass(frozen=True)
class Report:
    """A table and what must be said with it."""

    title: str
    tasks: tuple[str, ...]
    methods: tuple[Method, ...]
    """by falling mean over tasks; those without one come last"""
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def build(frame: pd.DataFrame, level: float = 0.95) -> Report:
    """The report of what `queries.results` returns, or of some of its rows. Raises UserError where there are none, or
    where they belong to suites that report different numbers."""
    runs = frame.to_dict("records")
    if not runs:
        raise UserError("no runs to report")
    if len({run["average_last"] for run in runs}) > 1:
        raise UserError("these suites report means of different numbers of evaluations; make one report for each")
    tasks = tuple(_by(runs, "task"))
    methods = _ranked([_method(label, own, tasks, level) for label, own in _by(runs, "label").items()])
    notes = tuple(_notes(runs, methods, level))
    return Report(", ".join(_by(runs, "suite")), tasks, tuple(methods), notes, warnings(frame))


def _ranked(methods: Iterable[Method]) -> list[Method]:
    """By falling mean; those that share one share a rank."""
    down = sorted(methods, key=lambda method: math.inf if math.isnan(method.mean.value) else -method.mean.value)
    means = [method.mean.value for method in down]
    return [replace(m, rank=None if math.isnan(m.mean.value) else 1 + means.index(m.mean.value)) for m in down]


def _by(runs: Runs, name: str) -> dict[str, Runs]:
    """Groups in the order in which they first appear."""
    groups = {}
    for run in runs:
        groups.setdefault(run[name], []).append(run)
    return groups


def _method(label: str, runs: Runs, tasks: Sequence[str], level: float) -> Method:
    by_task = _by(runs, "task")
    cells = {task: _cell(by_task.get(task, []), level) for task in tasks}
    if kinds := _mixed(runs):
        return Method(label, None, cells, Cell(kinds), Cell(kinds))
    over_tasks = partial(_aggregate, list(cells.values()), level=level, bounds=_bounds(runs))
    return Method(label, None, cells, over_tasks(task_mean), over_tasks(task_iqm))


def _cell(runs: Runs, level: float) -> Cell:
    done, unfinished = [run for run in runs if run["complete"]], _unfinished(runs)
    if not done:
        return Cell(_states(unfinished) or "-", n_unfinished=len(unfinished))
    if kinds := _mixed(done):
        return Cell(kinds, n_unfinished=len(unfinished))
    scores = [round(100 * run["score"], 6) for run in done]  # as the CSV says them
    value, low, high = numbers = _estimate([np.array(scores)], task_mean, level, _bounds(done))
    text = _number(*numbers, str(len(done)))
    if 1 < len(done) < FEW:  # so few can be read as they are
        text += f": {', '.join(f'{score:.0f}' for score in scores)}"
    if unfinished:
        text += f" (+{len(unfinished)} unfinished at {_progress(unfinished)})"
    by_seed = tuple((run["seed"], score) for run, score in zip(done, scores, strict=True))
    return Cell(text, value, low, high, len(done), len(unfinished), by_seed)


def _aggregate(cells: list[Cell], statistic: Statistic, level: float, bounds: tuple[float, float]) -> Cell:
    """Over tasks; not defined where a task has no complete run, as other tasks may be harder or easier."""
    n_unfinished = sum(cell.n_unfinished for cell in cells)
    counts = [cell.n_seeds for cell in cells]
    if not all(counts):
        return Cell(f"{np.count_nonzero(counts)} of {len(cells)} tasks", n_unfinished=n_unfinished)
    scores = [np.array([score for _, score in cell.scores]) for cell in cells]
    value, low, high = numbers = _estimate(scores, statistic, level, bounds)
    text = _number(*numbers, str(min(counts)) if min(counts) == max(counts) else f"{min(counts)}-{max(counts)}")
    if n_unfinished:
        text += f" (+{n_unfinished} unfinished)"
    return Cell(text, value, low, high, min(counts), n_unfinished)


def _mixed(runs: Runs) -> str:
    """In the place of a number over runs of several simulators, which is never made; else nothing."""
    kinds = simulators_of(run["simulator"] for run in runs if run["complete"])
    return f"{len(kinds)} simulators" if len(kinds) > 1 else ""


def _bounds(runs: Runs) -> tuple[float, float]:
    return bounds_of(run["measure"] for run in runs)


def _estimate(
    scores: Sequence[np.ndarray], statistic: Statistic, level: float, bounds: tuple[float, float]
) -> tuple[float, float, float]:
    """Value, low, high; without the last digits, so that the tables round exactly the number that the CSV says."""
    low, high = bootstrap_interval(scores, statistic, level, bounds=bounds)
    return round(float(statistic(scores)), 6), round(low, 6), round(high, 6)


def _number(value: float, low: float, high: float, n: str) -> str:
    interval = "" if math.isnan(low) else f" [{low:.0f}, {high:.0f}]"
    return f"{value:.0f}{interval} n={n}"


def _unfinished(runs: Runs) -> Runs:
    return [run for run in runs if not run["complete"]]


def _states(runs: Runs) -> str:
    """e.g. `running at 37 %`, `2 failed at 10-50 %, 1 waiting`"""
    parts = []
    for state, group in _by(runs, "state").items():
        count = "" if len(runs) == 1 else f"{len(group)} "
        name = "incomplete" if state == "finished" else state
        parts.append(f"{count}{name}" if state == "waiting" else f"{count}{name} at {_progress(group)}")
    return ", ".join(parts)


def _progress(runs: Runs) -> str:
    percent = sorted(100 * run["step"] // run["steps"] for run in runs)
    return f"{percent[0]} %" if percent[0] == percent[-1] else f"{percent[0]}-{percent[-1]} %"


def _notes(runs: Runs, methods: Iterable[Method], level: float) -> Iterable[str]:
    last = runs[0]["average_last"]
    number = "its last evaluation" if last == 1 else f"the mean of its last {last} evaluations"
    yield f"Success in %, mean over seeds. A seed's number is {number}: fixed before the runs, never the best."
    counts = [cell.n_seeds for method in methods for cell in method.cells.values() if cell.n_seeds]
    fewest = f"; the fewest here: {min(counts)}" if counts else ""
    yield (
        f"Brackets: {100 * level:g} % t interval over n seeds; the IQM's has the bootstrap's standard error. "
        f"Under {FEW} seeds an interval is coarse, and each seed's number follows{fewest}."
    )
    yield (
        "Over tasks: tasks are fixed and weigh the same, seeds are the chance; IQM: mean of the middle half of all "
        "tasks' seeds; not given where a task has no finished seed."
    )
    if scaled := [task for task, own in _by(runs, "task").items() if _bounds(own) != PERCENT]:
        yield f"Not successes but normalised scores, on which 100 is the reference's return: {', '.join(scaled)}."
    if unfinished := _unfinished(runs):
        yield f"Not averaged: {_states(unfinished)}."
    yield "Versions: " + ", ".join(f"{name} {' and '.join(_seen(runs, name)) or 'none yet'}" for name in PHYSICS) + "."


def warnings(frame: pd.DataFrame) -> tuple[str, ...]:
    """Why rows of `queries.results` may not be compared with each other; empty where nothing is known against it."""
    return tuple(_warnings(frame.to_dict("records")))


def _warnings(runs: Runs) -> Iterable[str]:
    for name in PHYSICS:
        if len(seen := _seen(runs, name)) > 1:
            yield f"{name} differs between these runs ({', '.join(seen)}): they are not comparable."
    for task, own in _by(runs, "task").items():
        for name in ("simulator", "measure"):
            if len(seen := _seen(own, name)) > 1:
                yield f"{name} differs between runs of {task} ({', '.join(seen)}): they are not comparable."
    kinds = [simulators_of(run["simulator"] for run in own if run["simulator"]) for own in _by(runs, "task").values()]
    if len(seen := sorted({", ".join(each) for each in kinds if each})) > 1:
        yield f"these tasks are of different simulators ({'; '.join(seen)}): no number is over tasks of several."
    # task by task: the same episodes have other labels, and so another digest, in another task
    for task, own in _by(runs, "task").items():
        for dataset, same in _by(own, "dataset").items():
            if len(seen := _seen(same, "data")) > 1:
                yield f"{dataset} is not the same data in all runs of {task} ({', '.join(seen)}): not comparable."
    for label, own in _by(runs, "label").items():
        if len(versions := sorted({run["version"] for run in own})) > 1:
            yield f"{label} mixes versions {', '.join(map(str, versions))} of its agent."
        if len({(run["task"], run["seed"]) for run in own}) < len(own):
            yield f"{label} has more than one run of a seed on a task: its settings differ within the label."


def _seen(runs: Runs, name: str) -> list[str]:
    """Versions that the runs were made with; a number whose version is not on record is not passed over."""
    known = {part for run in runs if isinstance(run[name], str) for part in run[name].split(" + ")}
    unknown = {"unknown" for run in runs if run["complete"] and not isinstance(run[name], str)}
    return sorted(known | unknown)


def by_goal(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Success in % of each evaluation goal of tasks that have several: label, task, seeds, "goal 1" ..., overall.

    From `queries.results` and `queries.curves` with every task. Means over the complete runs, each the mean of the
    evaluations that its reported number is of, so that the last column is the table's.
    """
    counted = runs.loc[runs["complete"], ["run", "average_last"]]
    kept: Any = curves[curves["step"] > 0].merge(counted, on="run")
    kept = kept[kept.groupby(["run", "eval_task"])["step"].rank(ascending=False) <= kept["average_last"]]
    several = kept.groupby("task")["eval_task"].transform("nunique") > 2  # the mean over all is one of them
    kept = kept[several]
    if kept.empty:
        return pd.DataFrame()
    groups = kept.groupby(["label", "task"], sort=False)
    found = kept.pivot_table("success", ["label", "task"], "eval_task", sort=False) * 100
    found.insert(0, "seeds", groups["run"].nunique())
    found = found[["seeds", *sorted(goal for goal in found if goal not in ("seeds", 0)), 0]]
    names = {goal: f"goal {goal}" for goal in found if goal not in ("seeds", 0)} | {0: "overall"}
    return found.rename(columns=names).reset_index().rename_axis(columns=None)


def grid(report: Report) -> list[list[str]]:
    """Header and rows, as every table shows them."""
    header = ["rank", "method", *report.tasks, "mean over tasks", "IQM over tasks"]
    rows = [
        [str(m.rank or ""), m.label, *(m.cells[task].text for task in report.tasks), m.mean.text, m.iqm.text]
        for m in report.methods
    ]
    return [header, *rows]


def _footer(report: Report) -> list[str]:
    return [*(f"WARNING: {warning}" for warning in report.warnings), *report.notes]


def terminal(report: Report) -> Group:
    """The report for `rich.print`."""
    header, *rows = grid(report)
    table = Table(title=Text(report.title), title_justify="left")
    for column in header:
        table.add_column(Text(column))
    for row in rows:
        table.add_row(*map(Text, row))
    styles = ["bold red"] * len(report.warnings) + ["dim"] * len(report.notes)
    return Group(table, *(Text(line, style) for line, style in zip(_footer(report), styles, strict=True)))


def terminal_table(title: str, frame: pd.DataFrame) -> Table:
    """A frame for `rich.print`, numbers without digits behind the point."""
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    for column in frame:
        table.add_column(Text(str(column)), justify="left" if column in LEFT else "right")
    for row in frame.itertuples(index=False):
        table.add_row(*(Text(f"{cell:.0f}" if isinstance(cell, float) else str(cell)) for cell in row))
    return table


def markdown(report: Report) -> str:
    """The report as a Markdown table, with the notes below it."""
    notes = "".join(f"- {markdown_text(line)}\n" for line in _footer(report))
    return f"# {markdown_text(report.title)}\n\n{markdown_table(grid(report))}\n{notes}"


def markdown_text(text: str) -> str:
    """As Markdown shows it literally: names of a user's own are no markup."""
    return re.sub(r"([\\`*_<>&|]|(?<=!)\[|(?<=\])\()", r"\\\1", text).replace("\n", " ")


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Header and rows of cells as a Markdown table."""
    header, *rows = [[markdown_text(cell) for cell in row] for row in rows]
    return "".join("| " + " | ".join(row) + " |\n" for row in (header, ["---"] * len(header), *rows))


def csv(report: Report) -> str:
    """The table's `numbers` as CSV."""
    return csv_table(numbers(report))


def csv_table(frame: pd.DataFrame) -> str:
    """A frame as CSV, with ten digits."""
    return frame.to_csv(index=False, float_format="%.10g", lineterminator="\n")


def numbers(report: Report) -> pd.DataFrame:
    """The numbers of the table, unrounded: label, rank, task, mean, low, high, n_seeds, n_unfinished, scores, iqm,
    iqm_low, iqm_high, and `shown`, what the tables show of them. `scores` is `seed:score;...`. The rows over all tasks
    have the task `(all)`, and they alone a rank and an IQM, which their `shown` leaves out."""
    rows = []
    for method in report.methods:
        for task, cell in [*method.cells.items(), (ALL, method.mean)]:
            iqm = method.iqm if task == ALL else Cell("")
            rows.append(
                {
                    "label": method.label,
                    "rank": method.rank if task == ALL else None,
                    "task": task,
                    "mean": cell.value,
                    "low": cell.low,
                    "high": cell.high,
                }
                | {"n_seeds": cell.n_seeds, "n_unfinished": cell.n_unfinished}
                | {"scores": ";".join(f"{seed}:{score:.10g}" for seed, score in cell.scores)}
                | {"iqm": iqm.value, "iqm_low": iqm.low, "iqm_high": iqm.high, "shown": cell.text}
            )
    return pd.DataFrame(rows).astype({"rank": "Int64"})


LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "<": r"\textless{}"}
    # a row that begins with a bracket would be taken for an argument of the row before it
    | {">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}", "\n": " "}
)


def latex(report: Report) -> str:
    r"""The report as a tabular for `\input`, with the notes below it; needs the package booktabs."""
    notes = [line.translate(LATEX) + r"\par" for line in _footer(report)]
    return latex_table(grid(report)) + "\n".join([r"\par\smallskip", r"{\footnotesize", *notes, "}"]) + "\n"


def latex_table(rows: Sequence[Sequence[str]]) -> str:
    r"""Header and rows of cells as a tabular for `\input`; needs the package booktabs."""
    header, *rest = [" & ".join(cell.translate(LATEX) for cell in row) + r" \\" for row in rows]
    lines = [r"\begin{tabular}{" + "l" * len(rows[0]) + "}", r"\toprule", header, r"\midrule", *rest]
    return "\n".join(["% needs \\usepackage{booktabs}", *lines, r"\bottomrule", r"\end{tabular}"]) + "\n"
