"""What a suite will take: hours of a device, from updates per second that were measured.

A rate is that of runs of our own with the same agent and settings, best on the same task; or else the one in
`suites/rates.csv`, which `benchmarks/update.py --csv` measures. Settings are the same where they ask for the same work:
numbers with a fraction (rates of learning, weights, discounts) do not count, nor does what is used only when acting.
Where only other settings were measured, with networks of the same sizes, theirs is an estimate, marked and with their
names; what is not even that is unknown. Hours of evaluation are known where the same agent was evaluated on the same
task by the same protocol.
"""

import csv
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape

from mac_bench import queries, registry
from mac_bench.config import EvalConfig, RunConfig
from mac_bench.errors import UserError
from mac_bench.overview import plain_table, plural, rate
from mac_bench.suite import Member
from mac_bench.yaml_files import SUITES

RATES = SUITES / "rates.csv"
COLUMNS = ("agent", "settings", "observations", "actions", "goals", "device", "updates_per_s")
COLUMNS += ("command", "date", "note")
"""settings: as JSON, those that are not the defaults; observations, actions, goals: sizes of the data, 0: rewards"""
ACTING = ("execute", "act_candidates")
"""settings that play no part in an update"""
Work = tuple[str, str]
"""an agent, and the settings that count as JSON"""
ANY = ""
"""device of agents that compute on none, such as chance"""


class Rate(NamedTuple):
    """Updates per second of one device."""

    device: str
    updates_per_s: float
    source: str
    unlike: tuple[str, ...] = ()
    """settings in which what was measured differs: it is an estimate"""


class Line(NamedTuple):
    """What the runs under one label will take on one device."""

    label: str
    runs: int
    updates: int
    rates: tuple[Rate, ...]
    """of the runs that have one, without repetition"""
    unknown: int
    """runs of which not even an estimate is known"""
    hours: float
    """of training the others"""
    evaluating: float
    """hours of evaluation; NaN where they are not known of every run"""


class Known:
    """All rates that were measured, and times of evaluations."""

    def __init__(self, database: Path | None = None, table: Path = RATES):
        self.own: dict[Work, list[tuple[str, Rate]]] = defaultdict(list)  # (task, rate) of each run
        self.table: dict[Work, list[Rate]] = defaultdict(list)
        self.evaluations: dict[tuple, list[float]] = defaultdict(list)
        if database is not None and database.is_file():
            for row in queries.speeds(database).to_dict("records"):
                device = row["device"] if isinstance(row["device"], str) else ANY
                found = Rate(device, row["updates_per_s"], "own runs")
                if found.updates_per_s > 0:
                    self.own[work(row["agent"], row["settings"])].append((row["task"], found))
                if not math.isnan(row["evaluating"]):
                    protocol = EvalConfig.model_validate(row["evaluation"])
                    self.evaluations[_protocol(row["agent"], row["task"], protocol)].append(row["evaluating"])
        for row in read(table) if table.exists() else []:
            source = f"{table.name}, {row['observations']}+{row['goals']} inputs, {row['date']}"
            found = Rate(row["device"], row["updates_per_s"], source)
            self.table[work(row["agent"], _resolved(row, table))].append(found)

    def devices(self, runs: Iterable[RunConfig]) -> list[str]:
        """On which the rate of one of these runs is known."""
        agents = {run.agent for run in runs}
        own = {found.device for key, rows in self.own.items() if key[0] in agents for _, found in rows}
        table = {found.device for key, rows in self.table.items() if key[0] in agents for found in rows}
        return sorted((own | table) - {ANY})

    def rate(self, run: RunConfig, device: str) -> Rate | None:
        """Of a run on a device; None where nothing like it was measured."""
        key = work(run.agent, run.settings)
        if found := self._exact(run.task, key, device):
            return found
        others = {other: unlike for other in (*self.own, *self.table) if (unlike := _unlike(key, other)) is not None}
        for other in sorted(others, key=lambda other: len(others[other])):
            if found := self._exact(run.task, other, device):
                return found._replace(unlike=others[other])
        return None

    def _exact(self, task: str, key: Work, device: str) -> Rate | None:
        own = [(other, found.updates_per_s) for other, found in self.own.get(key, ()) if found.device in (device, ANY)]
        same = [per_s for other, per_s in own if other == task]
        if same or own:
            where = "" if same else " on other tasks"
            rates = same or [per_s for _, per_s in own]
            return Rate(device, statistics.median(rates), f"{plural(len(rates), 'own run')}{where}")
        rows = [found for found in self.table.get(key, ()) if found.device in (device, ANY)]
        return rows[-1]._replace(device=device) if rows else None

    def evaluating(self, run: RunConfig) -> float:
        """Seconds of all evaluations of a run; NaN where they are not known."""
        found = self.evaluations.get(_protocol(run.agent, run.task, run.evaluation))
        return statistics.fmean(found) * -(-run.steps // run.evaluation.every) if found else math.nan


def work(agent: str, settings: Mapping[str, Any]) -> Work:
    """What of an agent's resolved settings decides the time of an update."""
    kept = {name: value for name, value in settings.items() if not isinstance(value, (float, dict))}
    return agent, json.dumps({name: kept[name] for name in sorted(kept) if name not in ACTING})


def _unlike(one: Work, other: Work) -> tuple[str, ...] | None:
    """Settings of one agent in which two works differ; None where agents or sizes of networks do."""
    if one[0] != other[0]:
        return None
    here, there = json.loads(one[1]), json.loads(other[1])
    names = tuple(name for name in here if here[name] != there.get(name))
    return None if any(isinstance(here[name], list) for name in names) else names


def _protocol(agent: str, task: str, protocol: EvalConfig) -> tuple:
    return agent, task, protocol.episodes, protocol.parallel


def _resolved(row: Mapping[str, Any], table: Path) -> dict[str, Any]:
    try:
        given = json.loads(row["settings"])
    except ValueError as error:
        raise UserError(f"{table}: settings of {row['agent']} are no JSON ({error})") from None
    return registry.settings(row["agent"], given, f"{table}: {row['agent']}").model_dump(mode="json")


def read(table: Path) -> list[dict[str, Any]]:
    """Rows of a table of rates. Raises UserError with file and line."""
    rows = []
    with open(table, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise UserError(f"{table}: its columns must be {', '.join(COLUMNS)}")
        for row in reader:
            try:
                per_s = float(row["updates_per_s"])
            except (TypeError, ValueError):
                per_s = math.nan
            if not (per_s > 0 and math.isfinite(per_s)):
                raise UserError(
                    f"{table}, line {reader.line_num}: updates_per_s is '{row['updates_per_s']}', not a rate"
                )
            rows.append(row | {"updates_per_s": per_s})
    return rows


def lines(members: Iterable[Member], known: Known, device: str) -> list[Line]:
    """One line for each label, in the order of the suite."""
    by_label: dict[str, list[RunConfig]] = defaultdict(list)
    for member in members:
        by_label[member.label].append(member.run)
    return [_line(label, runs, known, device) for label, runs in by_label.items()]


def _line(label: str, runs: list[RunConfig], known: Known, device: str) -> Line:
    found = [(run, known.rate(run, device)) for run in runs]
    rates = tuple(dict.fromkeys(per_s for _, per_s in found if per_s))
    return Line(
        label,
        len(runs),
        sum(run.steps for run in runs),
        rates,
        sum(per_s is None for _, per_s in found),
        sum(run.steps / per_s.updates_per_s for run, per_s in found if per_s) / 3600,
        sum(known.evaluating(run) for run in runs) / 3600,
    )


def show(console: Console, members: list[Member], known: Known, only: str | None = None) -> None:
    """A table for each device that a rate is known on, or of those whose name contains `only`."""
    devices = known.devices(member.run for member in members)
    if only is not None:
        devices = [device for device in devices if only.lower() in device.lower()] or [only]
    for device in devices or ["no device"]:
        found = lines(members, known, device)
        console.print(f"[bold]{escape(device)}[/]")
        table = plain_table("label", "runs:", "updates:", "updates/s:", "hours:", "evaluation:", "rate from")
        for line in found:
            table.add_row(*_cells(line))
        table.add_row("[bold]sum[/]", *_sum(found), "")
        console.print(table)
        if unknown := sum(line.unknown for line in found):
            console.print(f"not in the sum: {plural(unknown, 'run')} whose rate on this device nobody has measured")
        console.print()
    console.print(
        "[dim]≈: measured with other settings, of the names that are given; "
        "hours: one run at a time on one device; evaluation in hours beside them, where it is known; "
        "measure rates with benchmarks/update.py --csv[/]"
    )


def _cells(line: Line) -> list[str]:
    measured = sorted(found.updates_per_s for found in line.rates)
    per_s = " to ".join(dict.fromkeys(map(rate, (measured[0], measured[-1])))) if measured else "unknown"
    sources = "; ".join(dict.fromkeys(map(_source, line.rates))) or "-"
    known = [_hours(line), _number(line.evaluating), sources]
    return [escape(line.label), f"{line.runs}", f"{line.updates:,}", _about(line.rates) + per_s, *known]


def _source(found: Rate) -> str:
    return found.source + (f", other {', '.join(found.unlike)}" if found.unlike else "")


def _about(rates: Iterable[Rate]) -> str:
    return "≈ " if any(found.unlike for found in rates) else ""


def _hours(line: Line) -> str:
    if not line.rates:
        return "unknown"
    unknown = f" ({line.unknown} of {line.runs} unknown)" if line.unknown else ""
    return _about(line.rates) + _number(line.hours) + unknown


def _sum(found: list[Line]) -> list[str]:
    hours = sum(line.hours for line in found)
    known = [line.evaluating for line in found if not math.isnan(line.evaluating)]
    evaluating = _number(sum(known)) if len(known) == len(found) else "unknown"
    counts = [f"{sum(line.runs for line in found)}", f"{sum(line.updates for line in found):,}", ""]
    rates = [found for line in found for found in line.rates]
    return [*counts, _about(rates) + _number(hours) if rates else "unknown", evaluating]


def _number(hours: float) -> str:
    return "unknown" if math.isnan(hours) else f"{hours:,.1f}" if hours >= 1 else f"{hours:.2g}"
