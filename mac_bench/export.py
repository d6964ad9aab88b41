"""A suite's results as a folder of files, ready for a paper: what the dashboard shows, without a browser.

`report.md` holds everything; each table is a CSV with all digits and a LaTeX tabular, each figure an SVG and a PDF.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from mac_bench import charts, compare, figures, published, queries, report
from mac_bench.errors import UserError
from mac_bench.files import write_bytes
from mac_bench.ran import what_ran
from mac_bench.report import Report
from mac_bench.stats import bounds_of

TITLES = {
    "aggregates": "All tasks together",
    "differences": "Differences of means",
    "improvement": "Probability of improvement",
    "goals": "Success of each evaluation goal, in %",
    "published": "Beside published numbers",
    "ran": "What ran: settings that are not the agent's defaults",
    "costs": "Cost",
}
"""the tables after the first"""


def write(database: Path, suite: str, out: Path) -> list[Path]:
    """Write tables and figures of a suite into the folder `out`; returns their paths. A file that is there is replaced.

    What cannot be made, such as differences of a single method, is named in report.md with its reason.
    """
    runs = queries.results(database, suite)
    others = tables(runs) | {"ran": what_ran(runs), "costs": _costs(queries.costs(database, suite))}
    goals = report.by_goal(runs, queries.curves(database, suite, every_task=True))
    if not goals.empty:
        others["goals"] = goals
    files = dict(_files(report.build(runs), others, figures.draw(database, suite)))
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_bytes(out / name, content if isinstance(content, bytes) else content.encode())
    except OSError as error:
        raise UserError(f"{out}: cannot write there ({error.strerror}); choose another folder") from None
    return [out / name for name in files]


def _files(
    built: Report, others: dict[str, pd.DataFrame | str], drawn: dict[str, figures.Figure]
) -> Iterator[tuple[str, str | bytes]]:
    """Names and contents."""
    text = [report.markdown(built)]
    yield "report.csv", report.csv(built)
    yield "report.tex", report.latex(built)
    for name, frame in others.items():
        text.append(f"\n## {TITLES[name]}\n\n")
        if isinstance(frame, str):
            text.append(f"Not given: {report.markdown_text(frame)}.\n")
            continue
        text.append(report.markdown_table(cells(frame)))
        yield f"{name}.csv", report.csv_table(frame)
        yield f"{name}.tex", report.latex_table(cells(frame))
    text.append("\n## Figures\n\n")
    for name, chart in drawn.items():
        if isinstance(chart, str):
            text.append(f"No figure `{name}`: {report.markdown_text(chart)}.\n\n")
            continue
        text.append(f"![{name}]({name}.svg)\n\n")
        yield f"{name}.svg", charts.render(chart, "svg")
        yield f"{name}.pdf", charts.render(chart, "pdf")
    yield "report.md", "".join(text)


def tables(runs: pd.DataFrame) -> dict[str, pd.DataFrame | str]:
    """The tables of TITLES but for the cost, from `queries.results`; why there is none, where there is none."""
    try:
        scores = figures.complete(runs)
    except UserError as error:
        return dict.fromkeys(("aggregates", "differences", "improvement", "published"), str(error))
    found: dict[str, pd.DataFrame | str] = {"aggregates": compare.aggregates(scores, bounds=bounds_of(runs["measure"]))}
    alone = "with one method there is nothing to compare" if len(set(scores["label"])) < 2 else None
    found["differences"] = alone or compare.compare(scores)
    found["improvement"] = alone or compare.improvement(scores)
    beside = published.beside(published.own_means(runs))
    found["published"] = (
        "no paper in suites/published/ reports these methods on these tasks" if beside.empty else beside
    )
    return found


def _costs(costs: pd.DataFrame) -> pd.DataFrame | str:
    table = figures.cost_table(costs)
    return "no run has begun" if table.empty else table


def cells(frame: pd.DataFrame) -> list[list[str]]:
    """Header and rows as text: numbers with three digits, what is not known as a dash."""
    return [list(map(str, frame.columns)), *([_cell(value) for value in row] for row in frame.to_numpy().tolist())]


def _cell(value: object) -> str:
    if value is None or value == "" or (isinstance(value, float) and np.isnan(value)):
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
