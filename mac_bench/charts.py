"""Figures: functions from tidy frames to Altair charts, for the dashboard and, by `render`, for files.

Success and scores are in %; `unit` (`stats.unit_of`) names them on axes. All functions take `labels`: all methods in an
order that stays the same, so that a method keeps its colour, dash and shape in every chart, whatever is left out of
one; by default the order of the frame. Floats are carried with 4 significant digits. What cannot be drawn is said in
the subtitle. All raise UserError where there is nothing to draw or a column is missing. Text keeps the colours of the
theme that shows it.
"""

import io
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import altair as alt
import numpy as np
import pandas as pd
from altair import Undefined

from mac_bench.errors import UserError
from mac_bench.report import FEW

COLOURS = (
    # Okabe and Ito 2008, without the two that vanish on one of the themes: black on dark, yellow on white
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    # each the farthest in CIELAB from all before it, to normal, protan and deutan eyes (Machado et al. 2009), among
    # those with a contrast of at least 1.9 on white and 2.6 on Streamlit's dark
    *("#5A32E6", "#BEBE6E", "#BE1E32", "#96326E", "#466EE6", "#E6AAAA"),
)
DASHES = ([1, 0], [6, 2], [2, 2], [8, 2, 2, 2])
"""one for each six methods: from the seventh on colours are close, and after the twelfth they come again"""
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
GREY = "#7A7A7A"
"""seen on white and on dark"""
PALE = 0.4
"""opacity of what is not complete"""

STATES = {
    "finished": ("F", "#009E73"),
    "running": ("R", "#56B4E9"),
    "waiting": ("W", "#B0B0B0"),
    "stopped": ("S", "#E69F00"),
    "held": ("H", "#F0E442"),
    "cancelled": ("C", "#BC8F6F"),
    "lost": ("L", "#CC79A7"),
    "failed": ("X", "#D55E00"),
}
STATISTICS = {"mean": "mean", "median": "median", "iqm": "IQM", "optimality_gap": "optimality gap (less is better)"}
SUCCESS = "success in %"
LENGTHS = {"episode_limit": "episode limit of the task", "oracle_steps": "way of a scripted oracle"}
"""how long a task is, as suites/horizons.csv says it"""
COSTS = {
    "seconds": ("time of each run", "hours", 3600.0),
    "to_target": ("time until the target success", "hours", 3600.0),
    "updates_per_s": ("speed of training", "updates per second", 1.0),
}

Chart = alt.Chart | alt.LayerChart | alt.FacetChart
Labels = Sequence[str] | None


# -- the charts ------------------------------------------------------------------------------------------------------


def curves(
    frame: pd.DataFrame,
    x: Literal["step", "hours"] = "step",
    seeds: pd.DataFrame | None = None,
    labels: Labels = None,
    level: float = 0.95,
    unit: str = SUCCESS,
) -> Chart:
    """Success while training, one panel per task, from `compare.curve`: label, task, step (or hours), mean, low, high,
    n, of, cut. `seeds`, as thin lines: label, task, run, the same x, value."""
    axis = {"step": "updates", "hours": "hours of training"}[x]
    frame = _checked(frame, ["label", "task", x, "mean", "low", "high", "n", "of", "cut"])
    frame["complete"] = (frame["n"] == frame["of"]) & ~frame["cut"].astype(bool)
    partial = _names(frame.loc[~frame["complete"], "label"])
    notes = [
        f"{_n(frame['n'])}; line: mean, band: {100 * level:g} % interval" + ("" if seeds is None else ", thin: seeds"),
        f"paler: some runs are missing or end early ({partial})" if partial else "",
    ]
    colour, pale, scale = _colour(frame, labels), _pale(), alt.Scale(domain=[0, 100] if unit == SUCCESS else Undefined)
    position = alt.X(f"{x}:Q", title=axis, axis=alt.Axis(format="~s" if x == "step" else "~g", tickCount=5))
    tooltip = _tooltip("label", x, *_numbers("mean", "low", "high"), "n", "of")
    base = alt.Chart().encode(position, color=colour, tooltip=tooltip)
    line = base.mark_line(clip=True, strokeWidth=2).encode(
        _success("mean", scale, unit), strokeDash=_dash(frame, labels)
    )
    # one evaluation makes no line
    point = base.mark_point(clip=True, filled=True, size=14).encode(_success("mean", scale, unit), opacity=pale)
    band = base.mark_area(clip=True, opacity=_faint(frame)).encode(_success("low", scale, unit), alt.Y2("high:Q"))
    layers = [band, line.encode(opacity=pale), point]
    if seeds is not None and len(seeds):
        thin = alt.Chart().mark_line(clip=True, strokeWidth=0.7, opacity=0.5).transform_filter("isValid(datum.run)")
        layers = [thin.encode(position, _success("value", scale, unit), color=colour, detail="run:N")]
        layers += [layer.transform_filter("!isValid(datum.run)") for layer in (band, line.encode(opacity=pale), point)]
        # panels can only be made of one table
        frame = pd.concat([frame, _checked(seeds, ["label", "task", "run", x, "value"])], ignore_index=True)
    return _panels(layers, frame, f"{unit.removesuffix(' in %').capitalize()} while training", notes)


def intervals(frame: pd.DataFrame, labels: Labels = None, level: float = 0.95, unit: str = SUCCESS) -> Chart:
    """Methods over all tasks, one panel per statistic, from `compare.aggregates`: label, statistic, value, low, high,
    tasks, of, seeds. Rows by falling value of the first statistic."""
    frame = _checked(frame, ["label", "statistic", "value", "low", "high", "tasks", "of", "seeds"])
    frame, left_out = _drawable(frame, "value")
    first = frame[frame["statistic"] == frame["statistic"].iloc[0]].sort_values("value", ascending=False)
    panels = [STATISTICS.get(name, name) for name in frame["statistic"].unique()]
    frame["panel"] = frame["statistic"].map(lambda name: STATISTICS.get(name, name))
    tooltip = _tooltip("label", "panel", *_numbers("value", "low", "high"), "tasks", "seeds")
    base = alt.Chart(_data(frame)).encode(
        y=_rows(first["label"]), color=_colour(frame, labels, symbol=None), tooltip=tooltip
    )
    rule = base.mark_rule(strokeWidth=3, opacity=0.6).encode(alt.X("low:Q", title=unit), alt.X2("high:Q"))
    point = base.mark_point(filled=True, size=70, opacity=1).encode(
        alt.X("value:Q", scale=alt.Scale(zero=False)), shape=_shape(frame, labels, legend=False)
    )
    notes = [f"{_n(frame['seeds'])} per task, {_range(frame['tasks'], 'task(s)')}; bar: {100 * level:g} % interval"]
    notes += [f"not drawn, as a task is missing: {left_out}" if left_out else ""]
    width = 420 if len(panels) == 1 else 260
    layers = alt.layer(rule, point).properties(width=width, height=alt.Step(24))
    facet = alt.Facet("panel:N", sort=panels, header=alt.Header(title=None, labelLimit=0))
    chart = layers.facet(facet, columns=2, spacing=14).resolve_axis(x="independent")
    return _titled(chart, "All tasks together", notes, width * min(2, len(panels)))


def profiles(frame: pd.DataFrame, labels: Labels = None, level: float = 0.95, unit: str = SUCCESS) -> Chart:
    """Which share of runs is better than a score, from `compare.profiles`: label, threshold, fraction, low, high, and
    `seeds`, as aggregates say them."""
    frame, left_out = _drawable(_checked(frame, ["label", "threshold", "fraction", "low", "high", "seeds"]), "fraction")
    tooltip = _tooltip("label", *_numbers("threshold"), *_numbers("fraction", "low", "high", form=".0%"), "seeds")
    position, share = alt.X("threshold:Q", title=unit), f"share of runs with more {unit.removesuffix(' in %')}"
    y = {"scale": alt.Scale(domain=[0, 1]), "axis": alt.Axis(format=".0%", title=share)}
    base = alt.Chart(_data(frame), width=520, height=400).encode(
        x=position, color=_colour(frame, labels), tooltip=tooltip
    )
    band = base.mark_area(opacity=_faint(frame), interpolate="step-after").encode(alt.Y("low:Q", **y), alt.Y2("high:Q"))
    line = base.mark_line(interpolate="step-after").encode(alt.Y("fraction:Q", **y), strokeDash=_dash(frame, labels))
    notes = [f"{_n(frame['seeds'])} per task, tasks weigh the same; band: {100 * level:g} % at one score"]
    notes += [f"not drawn, as a task is missing: {left_out}" if left_out else ""]
    return _titled(band + line, "Performance profiles", notes, 520)


def improvement(frame: pd.DataFrame, labels: Labels = None, level: float = 0.95) -> Chart:
    """Probability that a run of the row beats one of the column, from `compare.improvement`: x, y, probability, low,
    high, tasks, n."""
    frame = _checked(frame, ["x", "y", "probability", "low", "high", "tasks", "n"])
    frame["sure"] = (frame["low"] > 0.5) | (frame["high"] < 0.5)
    order = _order(frame["x"], labels)
    base = alt.Chart(_data(frame), width=alt.Step(44), height=alt.Step(30)).encode(
        y=alt.Y("x:N", sort=order, title="a run of", axis=alt.Axis(labelLimit=300)),
        x=alt.X(
            "y:N", sort=order, title="beats a run of", axis=alt.Axis(labelLimit=300, labelAngle=-40, labelOverlap=False)
        ),
        tooltip=_tooltip("x", "y", *_numbers("probability", "low", "high", form=".2f"), "tasks", "n"),
    )
    # so light that dark numbers are read on all of them, whatever the theme
    scale = alt.Scale(domain=[0, 0.5, 1], range=["#F0A860", "#F7F7F7", "#6CB5E8"])
    legend = alt.Legend(title="probability", format=".1f", values=[0, 0.5, 1])
    cell = base.mark_rect(invalid=None).encode(alt.Color("probability:Q", scale=scale, legend=legend))
    number = base.mark_text(color="#1A1A1A").encode(alt.Text("probability:Q", format=".2f"))
    plain = number.transform_filter("!datum.sure && isValid(datum.probability)")
    bold = number.transform_filter("datum.sure").mark_text(color="#1A1A1A", fontWeight="bold")
    notes = [f"on a random task, ties count half; {_n(frame['n'], 'runs')} on any task"]
    notes += [f"bold: the {100 * level:g} % interval leaves out 0.5", _pairless(frame["probability"]), _fewer(frame)]
    return _titled(cell + plain + bold, "Probability of improvement", notes, 44 * len(order) + 150)


def comparison(frame: pd.DataFrame, level: float = 0.95) -> Chart:
    """Differences of means with intervals, from `compare.compare`: x, y, difference, low, high, p, p_corrected, pairs,
    tasks, seeds. Significant: p_corrected < 1 - level."""
    columns = ["x", "y", "difference", "low", "high", "p", "p_corrected", "pairs", "tasks", "seeds"]
    frame = _checked(frame, columns)
    missing = _pairless(frame["difference"])
    frame, _ = _drawable(frame, "difference")
    threshold = 1 - level
    verdicts = [f"significant (corrected p < {threshold:.2g})", "not significant"]
    frame["verdict"] = np.where(frame["p_corrected"] < threshold - 1e-12, *verdicts)
    # the better one first: a difference then reads as how much it is better
    lost = frame["difference"] < 0
    frame.loc[lost, ["x", "y"]] = frame.loc[lost, ["y", "x"]].to_numpy()
    frame.loc[lost, ["difference", "low", "high"]] = -frame.loc[lost, ["difference", "high", "low"]].to_numpy()
    frame["pair"] = frame["x"] + " \N{MINUS SIGN} " + frame["y"]
    tooltip = _tooltip("pair", *_numbers("difference", "low", "high"), *_numbers("p", "p_corrected", form=".3g"))
    scale = {"domain": verdicts, "range": [COLOURS[0], GREY]}
    base = alt.Chart(_data(frame), width=420, height=alt.Step(20)).encode(
        y=_rows(frame.sort_values("difference", ascending=False)["pair"], "pair"),
        color=alt.Color("verdict:N", scale=alt.Scale(**scale), title=None, legend=_legend(orient="bottom")),
        tooltip=_tooltip(*tooltip, "pairs", "tasks", "seeds"),
    )
    shape = alt.Shape("verdict:N", scale=alt.Scale(domain=verdicts, range=["diamond", "circle"]), title=None)
    width = alt.StrokeWidth("verdict:N", scale=alt.Scale(domain=verdicts, range=[3, 1]), legend=None)
    rule = base.mark_rule().encode(alt.X("low:Q", title="difference of success in percentage points"), alt.X2("high:Q"))
    point = base.mark_point(size=70, filled=True, opacity=1).encode(alt.X("difference:Q"), shape=shape)
    zero = alt.Chart(_data(pd.DataFrame({"zero": [0]}))).mark_rule(color=GREY, strokeDash=[3, 3]).encode(x="zero:Q")
    notes = [f"{_n(frame['seeds'], 'pairs of seeds')} per task; bar: {100 * level:g} % interval of the mean difference"]
    chart = zero + rule.encode(width) + point
    return _titled(chart, "Differences of means", [*notes, "p is corrected by Holm", missing, _fewer(frame)], 480)


def horizon(frame: pd.DataFrame, labels: Labels = None, level: float = 0.95, length: str = "episode_limit") -> Chart:
    """Success against how long a task is, from `figures.by_length`: label, task, environment, steps, mean, low, high,
    n. The line joins the means of tasks of one length, whose points stand side by side. length: one of LENGTHS."""
    columns = ["label", "task", "environment", "steps", "mean", "low", "high", "n"]
    frame, left_out = _drawable(_checked(frame, columns), "mean", "steps", named="task")
    ticks = sorted(frame["steps"].unique().tolist())
    if len(ticks) == 1:
        raise UserError(f"nothing to draw: all tasks are equally long, {ticks[0]:g} steps")
    order = _order(frame["label"], labels)
    place = frame["label"].map(order.index) - (len(order) - 1) / 2
    frame["at"] = frame["steps"] * 1.015**place  # on a log axis the same distance everywhere
    axis = alt.Axis(title=f"{LENGTHS[length]} in steps (log scale)", values=ticks, format="~d", grid=False)
    position = alt.X("at:Q", axis=axis, scale=alt.Scale(type="log", nice=False, padding=30))
    base = alt.Chart(_data(frame), width=520, height=400).encode(x=position, color=_colour(frame, labels))
    scale = alt.Scale(domain=[0, 100])
    tooltip = _tooltip("label", "task", "environment", "steps", *_numbers("mean", "low", "high"), "n")
    rule = base.mark_rule(clip=True, opacity=0.6).encode(_success("low", scale), alt.Y2("high:Q"), tooltip=tooltip)
    shape = _shape(frame, labels)
    point = base.mark_point(filled=True, size=60, opacity=1).encode(_success("mean", scale), shape=shape)
    means = frame.groupby(["label", "at"], as_index=False)["mean"].mean()
    line = alt.Chart(_data(means)).mark_line(opacity=0.5).encode(position, _success("mean", scale))
    line = line.encode(color=_colour(frame, labels), detail="label:N")
    notes = [f"{_n(frame['n'])} per task; bar: {100 * level:g} % interval; line: mean of tasks of one length"]
    notes += [f"not drawn, as a number or the length is missing: {left_out}" if left_out else ""]
    return _titled(line + rule + point.encode(tooltip=tooltip), "Success against the horizon", notes, 520)


def model_error(frame: pd.DataFrame, labels: Labels = None, level: float = 0.95) -> Chart:
    """How wrong world models are, one panel per task if there is one: label, ahead, mean, low, high, n [, task]. A log
    axis has no place for 0, nor for inf or NaN, the errors of a model that diverged: lines break there."""
    frame = frame if "task" in frame else frame.assign(task="")
    frame = _checked(frame, ["label", "task", "ahead", "mean", "low", "high", "n"])
    value = frame["mean"]
    diverged, zero = frame[~np.isfinite(value)], frame[value <= 0]
    if len(diverged) + len(zero) == len(frame):
        raise UserError(f"nothing to draw: all {len(frame)} errors diverged or are 0")
    floor = value[value > 0].min() / 10
    frame["foot"] = frame["low"].where(frame["low"] > 0, np.minimum(floor, frame["high"]))
    where = ", ".join(f"{label} from {own['ahead'].min()} ahead" for label, own in diverged.groupby("label"))
    notes = [
        f"{_n(frame['n'])}; line: mean, band: {100 * level:g} % interval",
        f"not drawn: {len(diverged)} of {len(frame)} errors, diverged (inf or NaN): {where}" if where else "",
        f"not drawn: {len(zero)} of {len(frame)} errors that are 0" if len(zero) else "",
    ]
    tooltip = _tooltip("label", "ahead", *_numbers("mean", "low", "high", form=".3g"), "n")
    base = alt.Chart().encode(alt.X("ahead:Q", title="actions ahead"), color=_colour(frame, labels))
    y = {"title": "squared error (half ranges)", "scale": alt.Scale(type="log"), "axis": alt.Axis(format="~g")}
    defined = base.transform_filter("datum.mean > 0 || !isValid(datum.mean)")
    line = defined.mark_line(point=alt.OverlayMarkDef(size=14), invalid="break-paths-show-path-domains")
    line = line.encode(alt.Y("mean:Q", **y), strokeDash=_dash(frame, labels), tooltip=tooltip)
    band = defined.mark_area(opacity=_faint(frame), invalid="break-paths-show-path-domains")
    return _panels(
        [band.encode(alt.Y("foot:Q", **y), alt.Y2("high:Q")), line], frame, "Error of the world model", notes
    )


def costs(frame: pd.DataFrame, of: str = "seconds", labels: Labels = None) -> Chart:
    """What runs cost, from `queries.costs`: label, task, run, seed, state and the column `of` (one of COSTS). A point
    for each run, a tick at the median of a label's finished runs."""
    frame = _checked(frame, ["label", "task", "run", "seed", "state", of])
    title, unit, scale = COSTS[of]
    n_all, done = len(frame), frame[frame["state"] == "finished"]
    frame, left_out = _drawable(frame, of)
    frame["cost"] = frame[of] / scale
    frame["complete"] = frame["state"] == "finished"
    grouped = done.fillna({of: np.inf}).groupby("label")[of]  # a run that never got there takes for ever
    middle = grouped.agg(median="median", least="min", most="max", n="count").reset_index()
    middle[["median", "least", "most"]] /= scale
    middle = middle[np.isfinite(middle["median"])].reset_index(drop=True)
    order = _rows(_order(frame["label"], labels))
    colour = _colour(frame, labels, symbol=None)
    x = alt.X("cost:Q", title=f"{title} in {unit}" if unit == "hours" else unit, scale=alt.Scale(domainMin=0))
    runs = alt.Chart(_data(frame), width=420, height=alt.Step(24)).mark_point(filled=True, size=30)
    shape = alt.Shape("complete:N", scale=alt.Scale(domain=[True, False], range=["circle", "cross"]), legend=None)
    tooltip = _tooltip("label", "task", "seed", "run", "state", *_numbers("cost", form=".3g"))
    runs = runs.encode(x, order, color=colour, opacity=_pale(), shape=shape, tooltip=tooltip)
    ranges = _tooltip("label", *_numbers("median", "least", "most", form=".3g"), "n")
    tick = alt.Chart(_data(middle)) if len(middle) else None
    ever = ", where half of them got there" if of == "to_target" else ""
    notes = [
        f"point: run, tick: median of the finished runs{ever}" + (f"; {_n(middle['n'], 'runs')}" if len(middle) else "")
    ]
    notes += ["" if frame["complete"].all() else "paler crosses: runs that are not finished"]
    notes += [
        f"not drawn, as they have no number: {n_all - len(frame)} of {n_all} runs ({left_out})" if left_out else ""
    ]
    if tick is None:
        return _titled(runs, title.capitalize(), notes, 480)
    tick = tick.mark_tick(thickness=3, size=18).encode(alt.X("median:Q"), order, color=colour, tooltip=ranges)
    return _titled(runs + tick, title.capitalize(), notes, 480)


def board(frame: pd.DataFrame) -> Chart:
    """Every run of a suite by its state: label, task, seed, state, reason, run, progress (0 to 1)."""
    frame = _checked(frame, ["label", "task", "seed", "state", "reason", "run", "progress"])
    looks = {name: look for name, look in STATES.items() if name in set(frame["state"])}
    frame["letter"] = frame["state"].map({name: letter for name, (letter, _) in looks.items()})
    legend = {name: f"{letter}  {name} ({(frame['state'] == name).sum()})" for name, (letter, _) in looks.items()}
    frame["shown"] = frame["state"].map(legend)
    scale = alt.Scale(domain=list(legend.values()), range=[colour for _, colour in looks.values()])
    tooltip = _tooltip("label", "task", "seed", "run", "state", *_numbers("progress", form=".0%"), "reason")
    base = alt.Chart().encode(alt.X("seed:O", axis=alt.Axis(labelAngle=0)), _rows(frame["label"].unique()))
    cell = base.mark_rect(stroke=GREY, strokeWidth=0.5).encode(
        alt.Color("shown:N", scale=scale, title=None, legend=_legend()), tooltip=tooltip
    )
    letter = base.mark_text(color="#1A1A1A").encode(alt.Text("letter:N"), tooltip=tooltip)
    layers = alt.layer(cell, letter).properties(width=alt.Step(22), height=alt.Step(22))
    done = (frame["state"] == "finished").sum()
    notes = [f"{done} of {len(frame)} runs finished; {_n(frame.groupby(['label', 'task'])['seed'].nunique())} per task"]
    per_panel = 22 * frame["seed"].nunique()
    return _faceted(layers, frame, "Runs", notes, max(1, min(4, 640 // max(per_panel, 180))), max(per_panel, 180))


# -- for files -------------------------------------------------------------------------------------------------------


def render(chart: Chart, kind: Literal["svg", "pdf", "png"]) -> bytes:
    """The chart as a file on white, drawn without a browser."""
    file = io.StringIO() if kind == "svg" else io.BytesIO()
    with alt.data_transformers.disable_max_rows():
        chart.properties(background="white").save(file, format=kind, **({"ppi": 144} if kind == "png" else {}))
    value = file.getvalue()
    return value.encode() if isinstance(value, str) else value


# -- parts of charts -------------------------------------------------------------------------------------------------


def _checked(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """A copy with these columns only."""
    if missing := [name for name in columns if name not in frame]:
        raise UserError(f"nothing to draw: no column {', '.join(missing)}; give {', '.join(columns)}")
    if frame.empty:
        raise UserError("nothing to draw: there are no rows yet")
    copy: Any = frame[list(columns)]
    return copy.reset_index(drop=True)


def _drawable(frame: pd.DataFrame, *numbers: str, named: str = "label") -> tuple[pd.DataFrame, str]:
    """The rows where these are finite, and what the others are called."""
    there = np.isfinite(frame[list(numbers)].to_numpy(float)).all(axis=1)
    if not there.any():
        raise UserError(f"nothing to draw: {', '.join(numbers)} is not known for any {named}")
    rows: Any = frame[there]
    return rows.reset_index(drop=True), _names(frame.loc[~there, named]) if named in frame else ""


def _data(frame: pd.DataFrame) -> pd.DataFrame:
    """As charts take it: four digits are more than can be seen, and JSON has no infinity."""
    numbers = frame.select_dtypes("float")
    with np.errstate(divide="ignore"):
        size = np.floor(np.log10(numbers.abs().where(numbers != 0, 1)))
    unit = 10.0 ** (size - 3)
    return frame.assign(**((numbers / unit).round() * unit).where(np.isfinite(numbers)))


def _order(names: Iterable[str], labels: Labels) -> list[str]:
    """The names that are there, in the order of the labels."""
    there = dict.fromkeys(names)
    return [name for name in dict.fromkeys([*(labels or ()), *there]) if name in there]


def _looks(frame: pd.DataFrame, labels: Labels, looks: Sequence[Any], every: int = 1) -> alt.Scale:
    """A scale that gives each label the look of its place among all labels; the next look after `every` labels."""
    place = {label: i for i, label in enumerate(dict.fromkeys([*(labels or ()), *frame["label"]]))}
    here = _order(frame["label"], labels)
    return alt.Scale(domain=here, range=[looks[place[label] // every % len(looks)] for label in here])


def _legend(**look: Any) -> alt.Legend:
    return alt.Legend(labelLimit=300, symbolOpacity=1, **look)


def _colour(frame: pd.DataFrame, labels: Labels, symbol: str | None = "stroke") -> alt.Color:
    """symbol: of the legend; None for no legend."""
    legend = _legend(symbolType=symbol, symbolSize=150, symbolStrokeWidth=2.5) if symbol else None
    return alt.Color("label:N", title=None, scale=_looks(frame, labels, COLOURS), legend=legend)


def _dash(frame: pd.DataFrame, labels: Labels) -> alt.StrokeDash:
    scale = _looks(frame, labels, DASHES, every=6)
    return alt.StrokeDash("label:N", title=None, scale=scale, legend=_legend())


def _shape(frame: pd.DataFrame, labels: Labels, legend: bool = True) -> alt.Shape:
    scale = _looks(frame, labels, SHAPES)
    return alt.Shape("label:N", title=None, scale=scale, legend=_legend() if legend else None)


def _rows(names: Iterable[str], field: str = "label") -> alt.Y:
    return alt.Y(f"{field}:N", sort=list(names), title=None, axis=alt.Axis(labelLimit=300, labelFlush=False))


def _success(field: str, scale: alt.Scale, unit: str = SUCCESS) -> alt.Y:
    return alt.Y(f"{field}:Q", title=unit, scale=scale)


def _pale() -> Any:
    return alt.condition("datum.complete", alt.value(1), alt.value(PALE))


def _tooltip(*fields: str | alt.Tooltip) -> list[alt.Tooltip]:
    return [alt.Tooltip(f"{field}:N") if isinstance(field, str) else field for field in fields]


def _faint(frame: pd.DataFrame) -> float:
    """Opacity of bands; many on top of each other would hide the lines."""
    return 0.15 if frame["label"].nunique() <= 6 else 0.07


def _numbers(*fields: str, form: str = ".1f") -> list[alt.Tooltip]:
    return [alt.Tooltip(f"{field}:Q", format=form) for field in fields]


def _panels(layers: Sequence[alt.Chart], frame: pd.DataFrame, title: str, notes: Sequence[str]) -> Chart:
    """One panel per task."""
    columns, width, height = {1: (1, 520, 300), 2: (2, 290, 220), 4: (2, 290, 220)}.get(
        frame["task"].nunique(), (3, 195, 160)
    )
    return _faceted(alt.layer(*layers).properties(width=width, height=height), frame, title, notes, columns, width)


def _faceted(
    layers: alt.LayerChart, frame: pd.DataFrame, title: str, notes: Sequence[str], columns: int, width: int
) -> Chart:
    tasks = list(frame["task"].unique())
    header = alt.Header(title=None, labelLimit=0, labelFontSize=10)
    facet = alt.Facet("task:N", sort=tasks, header=header)
    chart = layers.facet(facet, data=_data(frame), columns=columns, spacing=16)
    if len(tasks) > columns and len(tasks) % columns:
        chart = chart.resolve_axis(x="independent")  # else the axis of a column hangs below an empty place
    chart = chart.configure_legend(orient="top", columns=4, direction="horizontal")  # beside it there is little room
    return _titled(chart, title, notes, width * min(columns, len(tasks)))


def _titled(chart: Any, title: str, notes: Iterable[str], width: int) -> Chart:
    """With the notes below the title, broken at `width` pixels."""
    lines = [line for note in notes if note for line in textwrap.wrap(note, max(width // 6, 60))]
    return chart.properties(
        title=alt.TitleParams(title, subtitle=lines, anchor="start", frame="bounds", subtitleColor=GREY)
    )


def _names(names: Iterable[str]) -> str:
    found = list(dict.fromkeys(names))
    more = f" and {len(found) - 6} more" if len(found) > 6 else ""
    return ", ".join(found[:6]) + more


def _range(counts: pd.Series, what: str) -> str:
    least, most = int(counts.min()), int(counts.max())
    return f"{least} {what}" if least == most else f"{least} to {most} {what}"


def _n(counts: pd.Series, what: str = "seeds") -> str:
    few = " (few: intervals are coarse)" if counts.min() < FEW else ""
    return f"n = {_range(counts, what)}{few}"


def _pairless(numbers: pd.Series) -> str:
    missing = int(numbers.isna().sum())
    return f"not given for {missing} of {len(numbers)} pairs, which have no task or seed in common" if missing else ""


def _fewer(frame: pd.DataFrame) -> str:
    """Pairs of methods that have fewer tasks in common than others."""
    fewer = frame[frame["tasks"].between(1, frame["tasks"].max() - 1)]
    pairs = [
        f"{x} and {y}"
        for x, y in dict.fromkeys(tuple(sorted(pair)) for pair in zip(fewer["x"], fewer["y"], strict=True))
    ]
    return f"over fewer than {frame['tasks'].max()} tasks: {_names(pairs)}" if pairs else ""
