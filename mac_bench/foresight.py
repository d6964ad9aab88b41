"""How far ahead the world models of trained runs see: the table and the CSV of `mac-bench model-error`."""

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mac_bench import model_error, tasks
from mac_bench.config import RunConfig
from mac_bench.data import Dataset
from mac_bench.errors import UserError
from mac_bench.files import write_text
from mac_bench.model_error import Curve, Pieces
from mac_bench.overview import find_folder, membership, plain_table, plural, stored_run
from mac_bench.record import CHECKPOINTS, RunFolder
from mac_bench.train import restore

SEED = 0
"""draws the same pieces for all runs, or their errors could not be compared"""

NOTE = (
    "Mean squared error of what a world model predicts from a first state and the logged actions alone, on episodes "
    "that are never trained on. Unit: half the range of each dimension in the training data. "
    "[red]*[/]: no better than predicting that nothing moves."
)
COLUMNS = ("run", "label", "agent", "seed", "task", "dataset", "update", "actions_ahead", "model_error", "still")


class Line(NamedTuple):
    """A run to measure."""

    label: str
    folder: RunFolder
    run: RunConfig


class Measured(NamedTuple):
    """A run, and the error of its checkpoint of that update."""

    line: Line
    update: int
    curve: Curve


class Group(NamedTuple):
    """Runs on the same data, measured on the same pieces."""

    pieces: Pieces
    runs: list[Measured]


def measure(
    names: Iterable[str], root: Path, data: Path, horizon: int, trajectories: int
) -> tuple[list[Group], list[str]]:
    """Measure the runs that are named by id, its beginning or folder, or all at once by their suite; a group for each
    task. What cannot be measured is passed over; second, why. Raises UserError for names that are not there, and where
    nothing can be measured."""
    problems: list[str] = []
    by_data: dict[tuple[str, str], list[Line]] = {}
    for line in _lines(names, root, problems):
        by_data.setdefault((line.run.task, line.run.dataset), []).append(line)
    groups = []
    for lines in by_data.values():
        try:
            group = _group(lines, data, horizon, trajectories, problems)
        except UserError as error:
            problems.append(str(error))
        else:
            groups += [group] if group.runs else []
    if not groups:
        raise UserError(problems[0] + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""))
    return groups, problems


def _lines(names: Iterable[str], root: Path, problems: list[str]) -> Iterator[Line]:
    """The runs that are meant, each once."""
    folders: dict[Path, str | None] = {}
    for name in names:
        suite = name.removesuffix(".yaml")
        if (root / "suites" / f"{suite}.json").exists():
            folders |= {root / member["run"]: member["label"] for member in membership(root, suite)}
        else:
            folders.setdefault(find_folder(root, name).path, None)
    for path, label in folders.items():
        if any((path / checkpoint).exists() for checkpoint in CHECKPOINTS):
            folder, run = stored_run(root, str(path))
            yield Line(label or run.agent, folder, run)
        else:  # known before any data is loaded
            problems.append(f"{path}: no checkpoint yet; train it first")


def _group(lines: list[Line], data: Path, horizon: int, trajectories: int, problems: list[str]) -> Group:
    task, dataset = lines[0].run.task, lines[0].run.dataset
    resident = next((line.run.resident for line in lines if line.run.resident), None)
    loaded = tasks.load(tasks.find(task), dataset, data, resident)
    pieces = model_error.held_out(loaded, horizon, trajectories, SEED)
    if pieces is None:
        raise UserError(f"data '{dataset}': no validation split, and an error on training data says nothing")
    measured = []
    for line in lines:
        try:
            measured.append(_measured(line, loaded, pieces))
        except UserError as error:
            problems.append(str(error))
    return Group(pieces, measured)


def _measured(line: Line, data: Dataset, pieces: Pieces) -> Measured:
    line.folder.expect_data(data.digest)
    agent, update = restore(line.run, line.folder, data)
    if not model_error.forecasts(agent):
        raise UserError(f"{line.folder.path}: agent {line.run.agent} has no world model")
    curve = model_error.errors(agent, pieces)
    if len(curve.steps) == 0:
        length = pieces.actions.shape[1]
        raise UserError(f"{line.folder.path}: {line.run.agent} predicts over more than {length} actions at once")
    return Measured(line, update, curve)


def show(console: Console, groups: Iterable[Group]) -> None:
    """A table for each group: a few points of each curve, under the yardstick."""
    for group in groups:
        count, length = group.pieces.actions.shape[:2]
        console.print(f"[bold]{group.runs[0].line.run.task}[/]: {plural(count, 'piece')} of {plural(length, 'action')}")
        console.print(_table(group))
        console.print()
    console.print(NOTE)


def _table(group: Group) -> Table:
    """Columns are actions ahead; a model that predicts over several at once leaves some of them blank."""
    length = group.pieces.actions.shape[1]
    points = [_points(measured.curve, length) for measured in group.runs]
    columns = sorted({step for own in points for step in own})
    still = {step: error for own in points for step, (_, error) in own.items()}
    table = plain_table("run", "label", "seed:", "update:", *(f"{step}:" for step in columns))
    table.add_row("", "nothing moves", "", "", *(f"{still[step]:.3g}" for step in columns))
    for (line, update, _), own in zip(group.runs, points, strict=True):
        cells = [_cell(*own[step]) if step in own else "" for step in columns]
        table.add_row(line.run.id, escape(line.label), str(line.run.seed), f"{update:,}", *cells)
    return table


def _points(curve: Curve, length: int) -> dict[int, tuple[float, float]]:
    """Actions ahead -> (error, still) at the few points that stand for a curve."""
    places = model_error.shown(curve.steps, length)
    return {int(curve.steps[place]): (curve.error[place], curve.still[place]) for place in places}


def _cell(error: float, still: float) -> str:
    return f"{error:.3g}" if error < still else f"[red]{error:.3g}*[/]"  # NaN is not smaller


def write(groups: Iterable[Group], out: Path) -> None:
    """Write the whole curves as CSV: a row for each run and predicted step, unrounded; `inf` and `nan` as they are."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for line, update, curve in (measured for group in groups for measured in group.runs):
        run = line.run
        own = (run.id, line.label, run.agent, run.seed, run.task, run.dataset, update)
        rows.writerows((*own, step, *map(_number, numbers)) for step, *numbers in zip(*curve, strict=True))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, text.getvalue())
    except OSError as error:
        raise UserError(f"{out}: cannot write there ({error.strerror}); choose another file") from None


def _number(value: np.floating) -> str:
    return f"{value:.10g}"
