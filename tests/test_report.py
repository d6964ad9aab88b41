import csv
import io
import re

import pandas as pd
import pytest
from rich.console import Console

from mac_bench import report
from mac_bench.errors import UserError

CUBE, PUZZLE = "cube-single-play", "puzzle-3x3-play"


def run(label, task, seed, score=None, step=None, state=None, **other) -> dict:
    """A row as `queries.results` gives it: with a score and nothing else a finished run of 1000 steps."""
    state = state or ("finished" if score is not None and step is None else "running")
    begun = state != "waiting"
    return {
        "suite": "first", "average_last": 3, "label": label, "agent": label.lower(), "version": 1, "task": task,
        "dataset": task, "seed": seed, "state": state, "step": 1000 if step is None else step, "steps": 1000,
        "complete": state == "finished", "score": float("nan") if score is None else score,
        "mujoco": "3.3.7" if begun else None, "ogbench": "1.2.2" if begun else None, "data": "aa" if begun else None,
        "simulator": "ogbench" if begun else None, "measure": "success" if begun else None,
    } | other  # fmt: skip


HAND = [
    run("BC", CUBE, 0, 0.1),
    run("BC", CUBE, 1, 0.9, step=500, state="failed"),
    run("BC", CUBE, 2, step=0, state="waiting"),
    run("BC", PUZZLE, 0, 0.9, step=259),
    run("MAC", CUBE, 0, 0.35),
    run("MAC", CUBE, 1, 0.47),
    run("MAC", CUBE, 2, 0.99, step=370),
    run("MAC", PUZZLE, 0, 0.53),
    run("MAC", PUZZLE, 1, 0.53),
    run("FQL", CUBE, 0, 0.90),
    run("FQL", PUZZLE, 0, 0.80),
    run("FQL", PUZZLE, 1, 0.84),
    run("SAC", CUBE, 0, step=100),
    run("SAC", CUBE, 1, step=123, state="lost"),
    run("SAC", CUBE, 2, 0.5, complete=False),
]

# MAC on cube: 41, standard error 6, and t of one degree of freedom is 12.706: 41 -/+ 76.24. Over tasks (41 + 53) / 2 =
# 47 with half that error, as puzzle has no spread: 47 -/+ 38.12. Its IQM cuts one of 35 47 53 53 at each end: 50; of
# the draws a quarter have two times 35, which gives (35 + 53) / 2 = 44, the others 50: standard deviation 2.6, by
# sqrt(2) for two seeds 3.67, by t 46.7. The draws say 46.05. FQL's puzzle: 82 -/+ 2 * 12.706.
# FQL: (90 + 82) / 2 = 86, without an interval, as the spread of one seed is unknown; its IQM cuts nothing of 80 84 90.
EXPECTED = """\
# first

| rank | method | cube-single-play | puzzle-3x3-play | mean over tasks | IQM over tasks |
| --- | --- | --- | --- | --- | --- |
| 1 | FQL | 90 n=1 | 82 [57, 100] n=2: 80, 84 | 86 n=1-2 | 85 n=1-2 |
| 2 | MAC | 41 [0, 100] n=2: 35, 47 (+1 unfinished at 37 %) | 53 [53, 53] n=2: 53, 53 | \
47 [9, 85] n=2 (+1 unfinished) | 50 [4, 96] n=2 (+1 unfinished) |
|  | BC | 10 n=1 (+2 unfinished at 0-50 %) | running at 25 % | 1 of 2 tasks | 1 of 2 tasks |
|  | SAC | 1 running at 10 %, 1 lost at 12 %, 1 incomplete at 100 % | - | 0 of 2 tasks | 0 of 2 tasks |

- Success in %, mean over seeds. A seed's number is the mean of its last 3 evaluations: fixed before the runs, never \
the best.
- Brackets: 95 % t interval over n seeds; the IQM's has the bootstrap's standard error. Under 5 seeds an interval is \
coarse, and each seed's number follows; the fewest here: 1.
- Over tasks: tasks are fixed and weigh the same, seeds are the chance; IQM: mean of the middle half of all tasks' \
seeds; not given where a task has no finished seed.
- Not averaged: 1 failed at 50 %, 1 waiting, 3 running at 10-37 %, 1 lost at 12 %, 1 incomplete at 100 %.
- Versions: mujoco 3.3.7, ogbench 1.2.2.
"""


def build(rows=HAND) -> report.Report:
    return report.build(pd.DataFrame(rows))


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_table_by_hand():
    assert report.markdown(build()) == EXPECTED


def test_the_terminal_shows_the_same(capsys):
    console = Console(width=240, file=io.StringIO())
    console.print(report.terminal(build()))
    text = re.sub(r"\s+", " ", re.sub(r"[^\x20-\x7e]", " ", console.file.getvalue()))  # type: ignore[union-attr]
    for line in EXPECTED.splitlines():
        if line.startswith(("| 1 ", "| 2 ", "|  |")):
            assert re.sub(r"\s+", " ", line.replace("|", " ")).strip() in text
        elif line.startswith("- "):
            assert line[2:] in text


def test_the_terminal_takes_no_label_for_markup():
    console = Console(width=200, file=io.StringIO())
    console.print(report.terminal(build([run("[bold]MAC[/bold]", "[red]cube", 0, 0.5)])))
    text = console.file.getvalue()  # type: ignore[union-attr]
    assert "[bold]MAC[/bold]" in text
    assert "[red]cube" in text


def test_csv_by_hand():
    rows = {(row["label"], row["task"]): row for row in table(report.csv(build()))}
    assert rows["MAC", CUBE] == {
        "label": "MAC", "rank": "", "task": CUBE, "mean": "41", "low": "0", "high": "100",
        "n_seeds": "2", "n_unfinished": "1", "scores": "0:35;1:47", "iqm": "", "iqm_low": "", "iqm_high": "",
        "shown": "41 [0, 100] n=2: 35, 47 (+1 unfinished at 37 %)",
    }  # fmt: skip
    assert rows["MAC", "(all)"] == {
        "label": "MAC", "rank": "2", "task": "(all)", "mean": "47", "low": "8.881386", "high": "85.118614",
        "n_seeds": "2", "n_unfinished": "1", "scores": "", "iqm": "50", "iqm_low": "3.953724", "iqm_high": "96.046276",
        "shown": "47 [9, 85] n=2 (+1 unfinished)",
    }  # fmt: skip
    assert (rows["BC", PUZZLE]["mean"], rows["BC", PUZZLE]["n_seeds"]) == ("", "0")
    assert (rows["FQL", "(all)"]["mean"], rows["FQL", "(all)"]["low"]) == ("86", "")


def test_csv_and_tables_say_the_same_numbers():
    # 100 * 0.545 is above 54.5 and 100 * 0.575 below 57.5 by the last digit: the tables must round what the CSV says
    scores = [0.545, 0.575, 0.285, 0.565, 0.0725, 1 / 3, 0.005]
    rows = [run(f"m{i}", CUBE, seed, score * (1 - 0.1 * seed)) for i, score in enumerate(scores) for seed in range(3)]
    rows += [run(f"one{i}", CUBE, 0, score) for i, score in enumerate(scores)]
    built = build(rows)
    numbers = {(row["label"], row["task"]): row for row in table(report.csv(built))}
    for method in built.methods:
        for task, cell in [(CUBE, method.cells[CUBE]), ("(all)", method.mean)]:
            row = numbers[method.label, task]
            interval = f" [{float(row['low']):.0f}, {float(row['high']):.0f}]" if row["low"] else ""
            seeds = [float(part.split(":")[1]) for part in row["scores"].split(";")] if row["scores"] else []
            shown = ": " + ", ".join(f"{score:.0f}" for score in seeds) if len(seeds) > 1 else ""
            assert cell.text == f"{float(row['mean']):.0f}{interval} n={row['n_seeds']}{shown}"


def test_an_unfinished_run_changes_no_number():
    def numbers(rows):
        found = pd.DataFrame(table(report.csv(build(rows)))).query("label in ['MAC', 'FQL']")
        return found.drop(columns=["n_unfinished", "shown"]).to_dict("records")

    assert numbers(HAND) == numbers([row for row in HAND if row["complete"]])


def test_rows_come_by_falling_mean_and_those_without_one_last():
    rows = [run("half", CUBE, 0, 0.99), run("low", CUBE, 0, 0.1), run("high", CUBE, 0, 0.2)]
    rows += [run("half", PUZZLE, 0, step=3), run("low", PUZZLE, 0, 0.3), run("high", PUZZLE, 0, 0.5)]
    rows += [run("tie", CUBE, 0, 0.1), run("tie", PUZZLE, 0, 0.3)]
    ranked = [("high", 1), ("low", 2), ("tie", 2), ("half", None)]
    assert [(method.label, method.rank) for method in build(rows).methods] == ranked


@pytest.mark.parametrize(
    ("other", "warning"),
    [
        ({"mujoco": "4.0.0"}, "mujoco differs between these runs (3.3.7, 4.0.0): they are not comparable."),
        (
            {"mujoco": "3.3.7 + 4.0.0"},
            "mujoco differs between these runs (3.3.7, 4.0.0): they are not comparable.",
        ),
        ({"ogbench": None}, "ogbench differs between these runs (1.2.2, unknown): they are not comparable."),
        ({"data": "bb"}, f"{CUBE} is not the same data in all runs of {CUBE} (aa, bb): not comparable."),
        ({"version": 2}, "MAC mixes versions 1, 2 of its agent."),
        ({"seed": 0}, "MAC has more than one run of a seed on a task: its settings differ within the label."),
    ],
)
def test_what_must_not_be_compared_is_said(other, warning):
    built = build([run("MAC", CUBE, 0, 0.5), run("MAC", CUBE, 1, 0.5) | other])
    assert built.warnings == (warning,)
    assert f"- WARNING: {warning}" in report.markdown(built)
    assert "WARNING" in report.latex(built)


def test_what_may_be_compared_is_not_warned_of():
    rows = [run("MAC", CUBE, 0, 0.5), run("MAC", PUZZLE, 0, 0.5, data="bb"), run("BC", CUBE, 0, 0.5, version=4)]
    rows += [run("BC", CUBE, 1, step=0, state="waiting", version=4), run("MAC", CUBE, 2, step=0, mujoco=None)]
    rows += [run("MAC", "cube-single-play-goals", 0, 0.5, data="cc", dataset=CUBE)]
    assert build(rows).warnings == ()


def test_latex_by_hand():
    text = report.latex(build([run("50%_{x}[1]\\&~^", "cube_1", 0, 0.5), run("50%_{x}[1]\\&~^", "cube_1", 1, 0.5)]))
    label = r"50\%\_\{x\}{[}1{]}\textbackslash{}\&\textasciitilde{}\textasciicircum{}"
    over = r"50 {[}50, 50{]} n=2"
    cell = over + ": 50, 50"
    assert text.splitlines()[:7] == [
        r"% needs \usepackage{booktabs}",
        r"\begin{tabular}{lllll}",
        r"\toprule",
        r"rank & method & cube\_1 & mean over tasks & IQM over tasks \\",
        r"\midrule",
        rf"1 & {label} & {cell} & {over} & {over} \\",
        r"\bottomrule",
    ]


@pytest.mark.parametrize("rows", [HAND, [run("}{", "}\\{", 0, 0.5)]])
def test_latex_is_balanced_and_escaped(rows):
    text = report.latex(build(rows))
    body = re.sub(r"\\[{}%&$#_\\]", "", text.split("\n", 1)[1])  # what is left is markup
    depth = 0
    for character in body:
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0
    assert not set(body) & set("%$#_~^<>|")
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    columns = {len(re.findall(r"(?<!\\)&", line)) for line in text.splitlines() if line.endswith(r"\\")}
    assert columns == {len({row["task"] for row in rows}) + 3}


def test_markdown_takes_no_label_for_a_column():
    line = report.markdown(build([run("a|b", CUBE, 0, 0.5)])).splitlines()[4]
    assert line == r"| 1 | a\|b | 50 n=1 | 50 n=1 | 50 n=1 |"


def test_the_same_results_give_the_same_report():
    assert report.csv(build()) == report.csv(build())


def test_errors_say_what_to_do():
    with pytest.raises(UserError, match="no runs to report"):
        report.build(pd.DataFrame(HAND).iloc[:0])
    with pytest.raises(UserError, match="make one report for each"):
        build([run("MAC", CUBE, 0, 0.5), run("MAC", CUBE, 1, 0.5, average_last=1)])
