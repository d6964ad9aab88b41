import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from mac_bench.compare import (
    aggregates,
    area,
    compare,
    curve,
    holm,
    improvement,
    normalised,
    profiles,
    sign_flip_p,
    smallest_p,
)
from mac_bench.errors import UserError
from mac_bench.stats import bootstrap_interval, task_iqm

RLIABLE = json.loads((Path(__file__).parent / "reference" / "rliable.json").read_text())


def runs(scores: dict[str, dict[str, list[float]]]) -> pd.DataFrame:
    """label -> task -> score of seeds 0, 1, ..."""
    rows = [(label, task, seed, score) for label, by_task in scores.items()
            for task, values in by_task.items() for seed, score in enumerate(values)]  # fmt: skip
    return pd.DataFrame(rows, columns=["label", "task", "seed", "score"])


def evaluations(curves: dict[tuple, dict[int, float]], run: str = "run") -> pd.DataFrame:
    """(label, task, run) -> step -> value"""
    rows = [(*key, step, value) for key, values in curves.items() for step, value in values.items()]
    return pd.DataFrame(rows, columns=["label", "task", run, "step", "value"])


HAND = runs({
    "BC": {"cube": [10, 20]},
    "FQL": {"cube": [30, 40, 20], "puzzle": [50, 50]},
    "MAC": {"cube": [40, 60, 50], "puzzle": [50, 90]},
})  # fmt: skip


def rliable() -> pd.DataFrame:
    return runs({
        label: {f"task {i}": scores for i, scores in enumerate(np.array(matrix).T.tolist())}
        for label, matrix in RLIABLE["scores"].items()
    })  # fmt: skip


def test_aggregates_by_hand():
    table = aggregates(HAND, target=60.0).set_index(["label", "statistic"])
    assert table.loc[("MAC", "mean"), "value"] == 60  # of 50 and 70
    assert table.loc[("MAC", "median"), "value"] == 60
    assert table.loc[("MAC", "iqm"), "value"] == pytest.approx((50 + 50 + 60) / 3)  # 40 and 90 are cut
    assert table.loc[("MAC", "optimality_gap"), "value"] == pytest.approx((10 + 5) / 2)  # (20 + 0 + 10) / 3, 10 / 2
    assert table.loc[("MAC", "mean"), ["tasks", "of", "seeds"]].tolist() == [2, 2, 2]
    cube, puzzle = np.array([40.0, 60.0, 50.0]), np.array([50.0, 90.0])
    welch = scipy.stats.ttest_ind(cube, -puzzle, equal_var=False).confidence_interval()
    assert table.loc[("MAC", "mean"), ["low", "high"]].tolist() == pytest.approx([v / 2 for v in welch])  # of the sum
    assert table.loc[("MAC", "iqm"), ["low", "high"]].tolist() == [*bootstrap_interval([cube, puzzle], task_iqm)]


def test_no_average_over_fewer_tasks():
    table = aggregates(HAND).set_index("label").loc["BC"]
    assert table["statistic"].tolist() == ["mean", "median", "iqm", "optimality_gap"]
    assert table[["value", "low", "high"]].isna().all(axis=None)
    assert table[["tasks", "of", "seeds"]].to_numpy().tolist() == [[1, 2, 0]] * 4
    assert profiles(HAND).set_index("label").loc["BC", ["fraction", "low", "high"]].isna().all(axis=None)


def test_bounds_cut_the_intervals():
    table = aggregates(HAND, bounds=(0, 100), target=80.0).set_index(["label", "statistic"])
    free = aggregates(HAND, target=80.0).set_index(["label", "statistic"])
    assert free.loc[("MAC", "mean"), "high"] > 100
    assert table.loc[("MAC", "mean"), "high"] == 100
    assert free.loc[("MAC", "optimality_gap"), "low"] == table.loc[("MAC", "optimality_gap"), "low"] == 0
    assert free.loc[("MAC", "optimality_gap"), "high"] > 80
    assert table.loc[("MAC", "optimality_gap"), "high"] == 80
    assert (table["value"].dropna() == free["value"].dropna()).all()


def test_profiles_are_rliables():
    table = profiles(rliable(), RLIABLE["thresholds"]).set_index("label")
    for label, expected in RLIABLE["profile"].items():
        assert table.loc[label, "threshold"].tolist() == RLIABLE["thresholds"]
        np.testing.assert_allclose(table.loc[label, "fraction"], expected["value"], atol=1e-9)
        for threshold, low, high in zip(RLIABLE["thresholds"], expected["low"], expected["high"], strict=True):
            above = [task > threshold for task in np.array(RLIABLE["scores"][label]).T]
            drawn = bootstrap_interval(above, kind="percentile")
            assert drawn == pytest.approx((low, high), abs=0.051)  # fractions are multiples of 1/20


def test_profiles_by_hand():
    table = profiles(HAND, [50.0]).set_index("label").loc["MAC"]
    assert table["fraction"] == pytest.approx((1 / 3 + 1 / 2) / 2)  # 50 is not above 50; tasks weigh the same
    assert (table["low"], table["high"]) == (0, 1)  # five runs say next to nothing, and no fraction is beyond
    default = profiles(HAND)["threshold"]
    assert (len(default), default.min(), default.max()) == (3 * 101, 10, 90)
    one = profiles(runs({"A": {"t": [0.0] * 9 + [1.0] * 11}}), [0.5])
    expected = scipy.stats.ttest_1samp([0.0] * 9 + [1.0] * 11, 0).confidence_interval()
    assert one.loc[0, ["low", "high"]].tolist() == pytest.approx([*expected])


def test_improvement_by_hand():
    table = improvement(HAND).set_index(["x", "y"])
    assert len(table) == 6
    assert table.loc[("MAC", "FQL"), "probability"] == pytest.approx((8.5 / 9 + 3 / 4) / 2)
    assert table.loc[("FQL", "MAC"), "probability"] == pytest.approx(1 - (8.5 / 9 + 3 / 4) / 2)
    assert table.loc[("MAC", "FQL"), ["tasks", "n"]].tolist() == [2, 2]
    assert table.loc[("MAC", "BC"), ["probability", "low", "high", "tasks", "n"]].tolist() == pytest.approx(
        [1, 0.025**0.5, 1, 1, 2]
    )
    forth, back = table.loc[("MAC", "FQL")], table.loc[("FQL", "MAC")]
    assert (forth["low"], forth["high"]) == pytest.approx((1 - back["high"], 1 - back["low"]))
    expected = RLIABLE["improvement"]["value"]
    assert improvement(rliable()).set_index(["x", "y"]).loc[("x", "y"), "probability"] == pytest.approx(expected)


def test_no_common_task():
    frame = runs({"A": {"s": [1, 2]}, "B": {"t": [1, 2]}})
    for table in (improvement(frame), compare(frame)):
        assert table.drop(columns=["x", "y"]).select_dtypes(float).isna().all(axis=None)
        assert (table["tasks"] == 0).all()


def test_compare_by_hand():
    table = compare(HAND).set_index(["x", "y"])
    assert [*table.index] == [("BC", "FQL"), ("BC", "MAC"), ("FQL", "MAC")]
    row = table.loc[("FQL", "MAC")]  # differences -10 -20 -30 on cube, 0 -40 on puzzle
    assert row[["difference", "pairs", "tasks", "seeds"]].tolist() == [-20, 5, 2, 2]
    # of 32 sign vectors those with all of cube and puzzle's 40 negative or all positive, whatever the sign of 0
    assert row["p"] == 4 / 32
    cube, puzzle = [-10.0, -20.0, -30.0], [0.0, -40.0]
    assert row[["low", "high"]].tolist() == [*bootstrap_interval([cube, puzzle])]
    assert table.loc[("BC", "MAC"), ["difference", "pairs", "p"]].tolist() == [-35, 2, 0.5]  # without seed 2
    assert (table["p_corrected"] == [1, 1, 3 / 8]).all()


def test_pairs_are_those_of_the_same_seed():
    frame = runs({"A": {"t": [1, 2, 4]}, "B": {"t": [0, 0, 0]}})
    frame.loc[frame["label"] == "B", "seed"] += 1  # seeds 1, 2, 3: common are 1 and 2
    assert compare(frame).loc[0, ["difference", "pairs"]].tolist() == [3, 2]


def weighted(*parts, axis):
    return np.sum(parts[0] - parts[1], axis=axis)


@pytest.mark.parametrize("seed", range(4))
def test_exact_p_is_scipys(seed):
    # rounded: sums that tie must count as equal
    tasks = [np.random.default_rng(seed).normal(0.5, size=n).round(1) for n in (4, 5)]
    parts = np.concatenate([task / len(task) for task in tasks])
    expected = scipy.stats.permutation_test(
        (parts, np.zeros(9)), weighted, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    assert sign_flip_p(tasks) == pytest.approx(expected.pvalue, abs=1e-12)


def test_random_p_tends_to_the_exact():
    few = np.random.default_rng(0).normal(0.4, size=14)
    # a difference of zero leaves every sum as it is, and with it the pairs are too many for all signs
    assert sign_flip_p([np.append(few, 0.0) * 15]) == pytest.approx(sign_flip_p([few]), abs=0.02)


def test_p_under_the_null_is_uniform():
    rng = np.random.default_rng(0)
    p = [sign_flip_p(list(rng.normal(size=(2, 5)))) for _ in range(1000)]
    assert 0.035 <= np.mean(np.array(p) <= 0.05) <= 0.065


@pytest.mark.parametrize(("pairs", "draws"), [(1, 99), (5, 99), (14, 99), (15, 99), (40, 999)])
def test_smallest_p(pairs, draws):
    assert sign_flip_p([np.full(pairs, 0.3)], draws) == smallest_p(pairs, draws)
    assert (smallest_p(5), smallest_p(6), smallest_p(20, 999)) == (0.0625, 0.03125, 0.001)


def test_equal_runs_have_p_one():
    assert sign_flip_p([np.zeros(3)]) == sign_flip_p([np.zeros(30)], 100) == 1


def test_holm_by_hand():
    # sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2 (not below the one before), 0.5 * 1
    p = np.array([0.5, 0.01, np.nan, 0.03, 0.02])
    np.testing.assert_allclose(holm(p), [0.5, 0.04, np.nan, 0.06, 0.06])
    np.testing.assert_allclose(holm(np.array([0.4, 0.9])), [0.8, 0.9])
    np.testing.assert_allclose(holm(np.array([0.6, 0.9])), [1, 1])


def test_curve_by_hand():
    frame = evaluations({
        ("A", "t", 0): {0: 1.0, 10: 2.0, 15: 9.0, 20: 3.0, 30: 7.0},
        ("A", "t", 1): {0: 3.0, 10: 6.0, 20: 3.0},
        ("B", "t", 0): {0: 5.0, 10: 6.0},
    })  # fmt: skip
    table = curve(frame)
    a, b = table[table["label"] == "A"], table[table["label"] == "B"]
    assert a["step"].tolist() == [0, 10, 20]  # 15 is of one run only, 30 after the end of the shorter
    assert a["mean"].tolist() == [2, 4, 3]
    for i, pair in enumerate([(1.0, 3.0), (2.0, 6.0)]):
        expected = scipy.stats.ttest_1samp(pair, 0).confidence_interval()
        assert a.iloc[i][["low", "high"]].tolist() == pytest.approx([*expected])
    assert a.iloc[2][["low", "high"]].tolist() == [3, 3]
    assert a[["n", "of", "cut"]].to_numpy().tolist() == [[2, 2, True]] * 3
    assert b[["n", "of", "cut"]].to_numpy().tolist() == [[1, 2, False]] * 2
    assert b[["low", "high"]].isna().all(axis=None)


def test_curve_says_where_runs_cannot_be_averaged():
    frame = evaluations({("A", "t", 0): {0: 1.0}, ("A", "t", 1): {5: 1.0}}, run="seed")
    with pytest.raises(UserError, match="A on t have no step in common"):
        curve(frame)


def test_area_by_hand():
    frame = evaluations({
        ("A", "t", 3): {20: 4.0, 0: 0.0, 10: 2.0},
        ("A", "t", 4): {5: 0.0, 15: 4.0, 45: 4.0},
        ("B", "t", 3): {10: 1.0},
    }, run="seed")  # fmt: skip
    table = area(frame).set_index(["label", "run"])["area"]
    assert table.loc[("A", 3)] == 2
    assert table.loc[("A", 4)] == (20 + 120) / 40
    assert np.isnan(table.loc[("B", 3)])


def test_normalised_by_hand():
    assert normalised(30.0, 5.0, 10.0, 60.0) == (40.0, 10.0)  # the spread is not moved by the minimum
    mean, spread = normalised(np.array([10.0, 60.0]), np.array([0.0, 50.0]), 10.0, 60.0)
    assert (mean.tolist(), spread.tolist()) == ([0, 100], [0, 100])
    with pytest.raises(UserError, match="must be above"):
        normalised(1.0, 1.0, 5.0, 5.0)


def many() -> pd.DataFrame:
    scores = np.random.default_rng(0).binomial(50, 0.4, size=(3, 4, 5)) * 2.0
    return runs({f"m{m}": {f"t{t}": scores[m, t].tolist() for t in range(4)} for m in range(3)})


@pytest.mark.parametrize("function", [aggregates, profiles, improvement, compare])
def test_the_order_of_rows_changes_nothing(function):
    expected = function(many())
    pd.testing.assert_frame_equal(function(many().sample(frac=1, random_state=3)), expected, check_exact=True)
    pd.testing.assert_frame_equal(function(many()), expected, check_exact=True)


@pytest.mark.parametrize("function", [curve, area])
def test_the_order_of_evaluations_changes_nothing(function):
    rng = np.random.default_rng(0)
    frame = evaluations({("A", "t", run): dict(enumerate(rng.normal(size=9))) for run in range(5)})
    shuffled = frame.sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(function(shuffled), function(frame), check_exact=True)


@pytest.mark.parametrize("function", [aggregates, profiles, improvement, compare])
def test_errors_say_what_is_wrong(function):
    with pytest.raises(UserError, match="no runs"):
        function(HAND.iloc[:0])
    with pytest.raises(UserError, match="no column seed; give label, task, seed, score"):
        function(HAND.drop(columns="seed"))
    with pytest.raises(UserError, match="the score of label BC, task cube, seed 1 is not a number"):
        function(HAND.assign(score=HAND["score"].where(HAND.index != 1)))
    with pytest.raises(UserError, match="two rows for label BC, task cube, seed 0"):
        function(pd.concat([HAND, HAND.iloc[:1]]))


def test_the_level_is_used():
    for function in (aggregates, profiles, improvement, compare):
        wide, narrow = function(many(), level=0.99), function(many(), level=0.5)
        assert (wide["high"] - wide["low"] >= narrow["high"] - narrow["low"]).all()
        assert (wide["high"] - wide["low"]).sum() > 1.5 * (narrow["high"] - narrow["low"]).sum()
