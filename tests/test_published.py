import math
import re
from pathlib import Path

import pandas as pd
import pytest

from mac_bench import registry, tasks
from mac_bench.errors import UserError
from mac_bench.published import COLUMNS, SUITES, beside, brief, horizon_of, horizons, own_means, published
from mac_bench.ran import Run

FOLDER = SUITES / "published"
CUBE = "cube-octuple-play-oraclerep-v0"
SINGLE = "cube-double-play-singletask-task2-v0"


def own(**other) -> dict:
    """A row of ours that differs from `their` row in nothing."""
    return {
        "label": "GCIQL", "agent": "gciql", "task": CUBE, "mean": 30.0, "std": 3.0, "n_seeds": 4,
        "dataset": "cube-octuple-play-100m-v0", "steps": 5_000_000, "mujoco": "3.3.7", "rows": 100_100_000,
        "made_here": False, "fetched": True, "average_last": 3, "every": 100_000, "scaling": "minmax", "ran": (),
    } | other  # fmt: skip


def their(**other) -> dict:
    return {
        "table": "somebody", "task": CUBE, "agent": "gciql", "method": "IQL", "metric": "success", "unit": "percent",
        "mean": 20.0, "spread": 4.0, "spread_kind": "std", "seeds": 4.0, "steps": 5e6, "data": "100M",
        "protocol": "mean over 5 evaluation goals", "source": "", "hand": "first",
    } | other  # fmt: skip


def joined(ours: dict, theirs: dict) -> dict:
    (row,) = beside(pd.DataFrame([ours]), pd.DataFrame([theirs])).to_dict("records")
    return row


def cell(table, task, method) -> dict:
    found = published()
    (row,) = found[(found["table"] == table) & (found["task"] == task) & (found["method"] == method)].to_dict("records")
    return row


def test_cells_by_hand():
    found = published()
    of_mac = found[(found["table"] == "mac-goal-conditioned-100m") & (found["agent"] == "mac")].set_index("task")
    assert (of_mac.loc[CUBE, "mean"], of_mac.loc[CUBE, "spread"]) == (30, 6)
    assert of_mac.loc[CUBE, "data"] == "100M"
    assert math.isnan(of_mac.loc[CUBE, "steps"])  # 1M or 5M: not known
    ablation = cell("mac-ablation-singletask-1m", "puzzle-4x4-play-singletask-task4-v0", "MAC (FQL)")
    assert (ablation["mean"], ablation["spread"], ablation["agent"], ablation["hand"]) == (23, 13, "", "second")
    antmaze = cell("d4rl-antmaze", "antmaze-large-play-v2", "LEQ")
    assert (antmaze["mean"], antmaze["spread"], antmaze["unit"]) == (58.6, 9.1, "normalised")


def test_every_number_is_there_or_counted_as_left_out():
    readme = (FOLDER / "README.md").read_text()
    said = {name: int(count) for name, count in re.findall(r"^\| `(\S+)` \| (\d+) \|", readme, re.M)}
    assert said == published().groupby("table").size().to_dict()
    left = [int(count) for count in re.findall(r"^\| [^`|]+ \| (\d+) \|", readme, re.M)]
    (total,) = re.findall(r"(\d+) numbers were collected", readme)
    assert sum(said.values()) + sum(left) == int(total)


def test_agents_and_tasks_are_ours():
    found = published()
    assert set(found["agent"]) - {""} <= set(registry.names())
    ogbench = found[~found["table"].str.startswith(("d4rl", "neorl"))]["task"].unique()
    assert len(ogbench) > 20
    for task in ogbench:
        known = tasks.find(task.replace("task*", "task1"))
        assert horizon_of(task)[:2] == (known.environment, known.episode_limit)


def test_a_spread_over_tasks_lets_nothing_agree():
    """IQL that never succeeds, beside 7 ± 11, 28 ± 36 and 9 ± 13 of five tasks each."""
    for environment in ("cube-double", "scene", "puzzle-3x3"):
        task = f"{environment}-play-singletask-task*-v0"
        ours = own(label="IQL", task=task, dataset=f"{environment}-play-v0", mean=0.0, std=0.0, rows=1_001_000)
        row = joined(ours, cell("mac-singletask-1m", task, "IQL"))
        assert (row["verdict"], row["difference"]) == ("no spread over seeds", -row["mean"])
        assert math.isnan(row["in_spreads"])
    kinds = published()[lambda rows: rows["spread_kind"] == "tasks"]
    assert set(kinds["table"]) == {"mac-singletask-1m"} and set(kinds["method"]) == {"IQL", "ReBRAC", "IDQL", "FQL"}
    assert len(kinds) == 20 and kinds["source"].str.contains("over tasks is inferred").all()


def test_numbers_are_possible():
    found = published()
    percent = found[found["unit"] == "percent"]
    assert percent["mean"].between(0, 100).all()
    assert (found["spread_kind"][found["spread"].isna()] == "unknown").all()
    for row in found[found["spread_kind"] == "ci95"].to_dict("records"):
        low, high = map(float, re.findall(r"ci95=\[(.*);(.*)\]", row["source"])[0])
        assert low <= row["mean"] <= high and row["spread"] == pytest.approx((high - low) / 2)


def test_horizons_are_those_of_the_tasks():
    limits = horizons().set_index("environment")["episode_limit"]
    assert limits.index.is_unique
    assert {name: limits[name] for name in tasks.ENVIRONMENTS} == {
        name: facts.episode_limit for name, facts in tasks.ENVIRONMENTS.items()
    }


def test_horizon_of_by_hand():
    assert horizon_of("cube-single-play-v0")[:2] == ("cube-single", 200)
    assert horizon_of("humanoidmaze-giant-navigate-oraclerep-v0")[:2] == ("humanoidmaze-giant", 4000)
    assert horizon_of("puzzle-4x5-play-singletask-task3-v0")[:2] == ("puzzle-4x5", 1000)
    assert horizon_of("antmaze-umaze-diverse-v2")[:2] == ("antmaze-umaze", 700)
    assert horizon_of("cube-single-play-v0").oracle_steps == 44.6
    assert math.isnan(horizon_of("antmaze-large-navigate-v0").oracle_steps)
    for unknown in ("hopper-medium-v2", "scenery-play-v0", "cube"):
        environment, limit, oracle = horizon_of(unknown)
        assert environment == "" and math.isnan(limit) and math.isnan(oracle)
    table = pd.DataFrame(
        [("maze", 5, 2, "x"), ("maze-big", 9, 3, "x")], columns=["environment", "episode_limit", "oracle_steps", "s"]
    )
    assert horizon_of("maze-big-walk-v0", table) == ("maze-big", 9, 3)
    assert horizon_of("maze-bigger-walk-v0", table) == ("maze", 5, 2)


def test_our_means_are_of_complete_runs_and_say_what_they_were_made_of():
    row = {"label": "MAC", "agent": "mac", "task": "t", "dataset": "t", "steps": 10, "complete": True, "score": 0.4}
    row |= {"average_last": 3, "simulator": "ogbench", "measure": "success"}
    row |= {"mujoco": "3.3.7", "data_made_here": "True", "data_fetched": "False", "data_rows": "101"}
    row |= {"every": 5, "settings": '{"scaling": "none"}', "defaults": "{}"}
    runs = [row, row | {"score": 0.8}, row | {"score": 0.1, "complete": False, "mujoco": "9.9"}]
    runs += [row | {"task": "u", "data_made_here": "False"}, row | {"task": "u", "mujoco": None, "data_rows": "7"}]
    runs += [row | {"task": "v", "data_made_here": "unknown", "data_rows": "unknown"}]
    first, second, third = own_means(pd.DataFrame(runs)).to_dict("records")
    assert {name: first[name] for name in ("label", "agent", "task", "n_seeds", "mujoco", "made_here", "rows")} == {
        "label": "MAC", "agent": "mac", "task": "t", "n_seeds": 2, "mujoco": "3.3.7", "made_here": True, "rows": 101,
    }  # fmt: skip
    assert (first["every"], first["scaling"], first["fetched"]) == (5, "none", False)
    assert first["ran"] == (Run("t", "mac", '{"scaling": "none"}', "{}"),)
    assert (first["mean"], first["std"]) == (pytest.approx(60), pytest.approx(20 * 2**0.5))
    assert (second["mujoco"], second["made_here"]) == ("3.3.7 + unknown", None) and math.isnan(second["rows"])
    assert third["made_here"] is None and math.isnan(third["rows"]) and math.isnan(third["std"])


def test_the_difference_by_hand():
    row = joined(own(), their())
    assert (row["difference"], row["in_spreads"]) == (10, 2)  # 10 / sqrt(3^2 + 4^2)
    assert (row["ours"], row["mean"], row["their_steps"], row["not_comparable"]) == (30, 20, 5e6, "")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {"spread_kind": "ci95", "seeds": math.nan}),
        ({}, {"spread_kind": "stderr", "seeds": 1.0}),
        ({"std": math.nan}, {}),
        ({}, {"spread": math.nan}),
        ({"std": 0.0}, {"spread": 0.0}),
        ({}, {"spread_kind": "tasks"}),
    ],
)
def test_spreads_that_are_not_of_one_kind_are_not_combined(ours, theirs):
    row = joined(own(**ours), their(**theirs))
    assert row["difference"] == 10 and math.isnan(row["in_spreads"])


@pytest.mark.parametrize(
    ("theirs", "spread", "taken"),
    [
        ({}, 4, "std"),
        ({"spread_kind": "unknown"}, 4, "std, which nobody says"),
        ({"spread_kind": "stderr", "seeds": 4.0}, 8, "std, from its stderr"),
        # half of a t interval of 4 seeds is 3.182 standard errors
        ({"spread_kind": "ci95", "seeds": 4.0}, 4 * 2 / 3.182446, "std, from its ci95"),
    ],
)
def test_other_spreads_are_made_standard_deviations_over_seeds(theirs, spread, taken):
    row = joined(own(), their(**theirs))
    assert row["in_spreads"] == pytest.approx(10 / math.hypot(3, spread), rel=1e-6)
    assert row["spread_taken"] == taken


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ({}, {}, "differs"),  # 10 over a combined spread of 5
        ({"mean": 24.9}, {}, "agrees"),
        ({"mean": 15.1}, {}, "agrees"),
        ({"mean": 14.9}, {}, "differs"),
        ({"mean": 24.9, "n_seeds": 2}, {}, "too few seeds"),
        ({"n_seeds": 3}, {"spread": math.nan}, "spread unknown"),
        ({"mean": 20.4}, {"spread": math.nan}, "agrees"),
        ({"std": 0.0, "mean": 20.5}, {"spread": 0.0}, "agrees"),
        ({"std": 0.0, "mean": 20.6}, {"spread": 0.0}, "differs"),
        ({}, {"unit": "normalised", "metric": "normalised score"}, "other metric"),
        ({}, {"spread_kind": "unknown"}, "differs (?)"),
        ({"mean": 24.9}, {"spread_kind": "unknown"}, "agrees (?)"),
        ({"mean": 20.4}, {"spread_kind": "unknown"}, "agrees"),  # hangs on no spread
        ({}, {"spread_kind": "tasks", "spread": 36.0}, "no spread over seeds"),
        ({"mean": 20.4}, {"spread_kind": "tasks", "spread": 36.0}, "no spread over seeds"),
        ({"n_seeds": 2}, {"spread_kind": "tasks", "spread": 36.0}, "too few seeds"),
    ],
)
def test_a_verdict_is_of_the_combined_spread(ours, theirs, verdict):
    assert joined(own(**ours), their(**theirs))["verdict"] == verdict


def five(seeds=(0, 1, 2), **other) -> pd.DataFrame:
    """Runs on tasks 1 to 5 whose score is task / 10 + seed / 100; without task 5 of the last seed."""
    rows = [
        {"label": "MAC", "agent": "mac", "task": f"scene-play-singletask-task{task}-v0", "seed": seed, "complete": True}
        | {"score": task / 10 + seed / 100, "dataset": "scene-play-v0", "steps": 1000, "average_last": 3}
        | {"data_made_here": "False", "data_rows": "1001000", "mujoco": "3.3.7", "simulator": "ogbench"}
        | {"measure": "success", "data_fetched": "True", "every": 100, "settings": "{}", "defaults": "{}"} | other
        for task in range(1, 6)
        for seed in seeds
    ]  # fmt: skip
    return pd.DataFrame(rows[:-1])


def test_the_mean_over_five_tasks_is_seed_by_seed():
    means = own_means(five()).set_index("task")
    star = means.loc["scene-play-singletask-task*-v0"]
    assert len(means) == 6 and star["n_seeds"] == 2, "the last seed lacks a task"
    assert (star["mean"], star["std"]) == (pytest.approx(30.5), pytest.approx(math.sqrt(0.5)))
    found = beside(means.reset_index())
    of_mac = found[found["table"] == "mac-singletask-1m"]
    assert of_mac["task"].tolist() == ["scene-play-singletask-task*-v0"], "and single tasks are not put beside it"
    assert "other evaluation tasks" not in of_mac["not_comparable"].iloc[0]
    assert "other data" not in of_mac["not_comparable"].iloc[0]
    four = five()
    four = four[~four["task"].str.contains("task5")]
    assert len(own_means(four)) == 4


def test_a_terminal_s_table_has_methods_and_not_their_variants():
    rows = brief(pd.concat([five(), five(label="MAC, ends learned")])).to_dict("records")
    (row,) = [row for row in rows if row["table"] == "mac-singletask-1m"]
    # two seeds of 30 and 31 %, theirs is 97 with a spread of 4
    assert (row["label"], row["ours"], row["published"]) == ("MAC", pytest.approx(30.5), 97)
    assert row["against"] == 2, "their updates and seeds are unknown"
    assert (row["in spreads"], row["verdict"]) == (f"{-66.5 / math.sqrt(0.5 + 16):+.1f}", "too few seeds")
    assert {row["label"] for row in rows} == {"MAC"}
    assert brief(five(complete=False)).empty


def test_a_normalised_score_has_no_difference():
    assert math.isnan(joined(own(), their(unit="normalised", metric="normalised score"))["difference"])


ROBOT = {"task": "hopper-medium-v2", "dataset": "hopper-medium-v2", "measure": "normalised score"}
MAZE = {"task": "antmaze-umaze-v2", "dataset": "antmaze-umaze-v2", "measure": "success"}
LEGACY = {"table": "d4rl-x", "unit": "normalised", "metric": "normalised score", "data": ""}


@pytest.mark.parametrize("ours", [ROBOT, MAZE])
def test_normalised_scores_of_the_same_simulator_have_a_difference(ours):
    row = joined(own(**ours, simulator="d4rl-legacy"), their(**LEGACY, task=ours["task"]))
    assert row["difference"] == 10
    # each data set is one file, of which we train on 95 %
    held_out = "other amount of data: every twentieth episode is held out here, theirs trained on all"
    assert row["not_comparable"] == held_out


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (ROBOT | {"simulator": "d4rl-legacy"}, {"unit": "percent"}),
        (ROBOT | {"simulator": "d4rl-legacy", "measure": "normalised score + success"}, {}),
        (MAZE | {"simulator": "ogbench"}, {}),
    ],
)
def test_other_numbers_have_none(ours, theirs):
    assert math.isnan(joined(own(**ours), their(**LEGACY | theirs, task=ours["task"]))["difference"])


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        ({"simulator": "d4rl-legacy"}, {}, "other simulator: not D4RL's"),
        ({"label": "GCIQL, AWR"}, {}, "label 'GCIQL, AWR' may have other settings than IQL"),
        ({}, {"unit": "normalised", "metric": "normalised score"}, "other metric: theirs is normalised score"),
        ({"mujoco": "4.0.0"}, {}, "other physics: mujoco 4.0.0"),
        ({"mujoco": "3.3.7 + 3.4.0"}, {}, "other physics: mujoco 3.3.7 + 3.4.0"),
        ({"mujoco": None}, {}, "unknown version of our mujoco"),
        ({"mujoco": "3.3.7 + unknown"}, {}, "unknown version of our mujoco"),
        ({"dataset": "quickstart"}, {}, "other data: quickstart"),
        ({"made_here": True}, {}, "other data: ours were made here"),
        ({"made_here": None}, {}, "unknown whether our data are the published ones"),
        ({"fetched": False}, {}, "nothing on record shows that our data, not made here, are the published files"),
        ({"fetched": None}, {}, "nothing on record shows that our data, not made here, are the published files"),
        ({"made_here": True, "fetched": False}, {}, "other data: ours were made here"),
        ({"rows": 1_001_000}, {}, "other amount of data: 1001000 transitions, theirs 100M"),
        ({}, {"data": "1B"}, "other amount of data: 100100000 transitions, theirs 1B"),
        ({"rows": math.nan}, {}, "unknown amount of our data, theirs 100M"),
        ({}, {"data": ""}, "unknown amount of data of theirs"),
        ({}, {"data": "default"}, "other amount of data: theirs is cube-octuple-play-v0"),
        ({"steps": 1000}, {}, "other number of updates: 1000, theirs 5000000"),
        ({}, {"steps": math.nan}, "unknown number of updates of theirs"),
        ({"n_seeds": 1}, {}, "fewer than 2 seeds of ours"),
        ({}, {"seeds": 1.0}, "fewer than 2 seeds of theirs"),
        ({}, {"seeds": math.nan}, "unknown number of seeds of theirs"),
        ({}, {"protocol": "last three evaluations"}, ""),
        ({}, {"protocol": "mean over tasks 1 to 5"}, ""),
        ({}, {"protocol": "default task alone"}, ""),
        (
            {"average_last": 1},
            {"protocol": "last three evaluations"},
            "other protocol: theirs is 'last three evaluations', ours the mean of the last 1",
        ),
        ({"average_last": 1}, {"protocol": "one early evaluation"}, ""),
        (
            {},
            {"protocol": "one early evaluation"},
            "other protocol: theirs is 'one early evaluation', ours the mean of the last 3",
        ),
        (
            {},
            {"protocol": "last three evaluations; an evaluation every 250k updates"},
            "other protocol: theirs evaluates every 250k updates, ours every 100000",
        ),
        ({"every": 250_000}, {"protocol": "an evaluation every 250k updates"}, ""),
        ({}, {"protocol": "observations not scaled"}, "other scaling of observations: theirs has none, ours minmax"),
        ({"scaling": "none"}, {"protocol": "observations not scaled"}, ""),
        ({}, {"protocol": "last three evaluations; updates as inferred"}, "their number of updates is inferred"),
        (
            {},
            {"protocol": "mean over tasks 1 to 5; end of the offline phase; sparsified reward"},
            "protocol may be another: theirs is 'end of the offline phase, sparsified reward'",
        ),
        ({}, {"protocol": "the best one"}, "protocol may be another: theirs is 'the best one'"),
        ({}, {"protocol": ""}, "unknown protocol of theirs"),
    ],
)
def test_each_reason_is_given_alone(ours, theirs, reason):
    assert joined(own(**ours), their(**theirs))["not_comparable"] == reason


def test_our_simulator_is_told_from_d4rl_s():
    assert joined(own(), their(table="d4rl-x"))["not_comparable"].startswith("other simulator: D4RL's; ")


def test_no_reason_is_false_of_mac_s_tables_and_none_is_missing_of_horizon_reduction_s():
    task = "cube-double-play-singletask-task*-v0"
    ours = own(label="MAC", agent="mac", task=task, dataset="cube-double-play-v0", rows=1_001_000)
    unknown = ["unknown number of updates of theirs", "unknown number of seeds of theirs"]
    assert joined(ours, cell("mac-singletask-1m", task, "MAC"))["not_comparable"].split("; ") == unknown
    iql = own(label="IQL", task=task, dataset="cube-double-play-v0", rows=1_001_000)
    reasons = joined(iql, cell("mac-singletask-1m", task, "IQL"))["not_comparable"].split("; ")
    assert reasons == ["their settings are not on record", *unknown]
    copied = cell("mac-goal-conditioned-100m", CUBE, "GCIQL")
    assert joined(own(), copied)["not_comparable"].split("; ") == unknown
    theirs = published()
    theirs = theirs[(theirs["task"] == CUBE) & (theirs["method"] == "IQL") & (theirs["data"] == "100M")]
    early, final = theirs[theirs["table"].str.startswith("horizon")].to_dict("records")
    assert joined(own(), final)["not_comparable"].split("; ") == [
        "other protocol: theirs evaluates every 250k updates, ours every 100000",
        "other scaling of observations: theirs has none, ours minmax",
        "their number of updates is inferred",
    ]
    assert joined(own(steps=1_000_000), early)["not_comparable"].split("; ") == [
        "other protocol: theirs is 'one early evaluation', ours the mean of the last 3",
        "other scaling of observations: theirs has none, ours minmax",
        "their number of updates is inferred",
    ]


def test_what_is_not_said_of_our_data_is_unknown():
    ours = {name: value for name, value in own().items() if name not in ("rows", "made_here", "ran")}
    reasons = joined(ours, their())["not_comparable"].split("; ")
    assert reasons.pop(0) == "unknown settings of ours"
    assert reasons == ["unknown whether our data are the published ones", "unknown amount of our data, theirs 100M"]


def test_the_standard_data_are_known_by_name():
    ours = own(task=SINGLE, dataset="cube-double-play-v0", rows=math.nan)
    assert joined(ours, their(task=SINGLE, data="default"))["not_comparable"] == ""


def test_a_mean_over_five_tasks_is_told_from_one():
    ours = own(task=SINGLE, dataset="cube-double-play-v0")
    row = joined(ours, their(task="cube-double-play-singletask-task*-v0"))
    assert row["not_comparable"] == "other evaluation tasks: theirs is a mean over tasks 1 to 5"
    assert (row["task"], row["their_task"]) == (SINGLE, "cube-double-play-singletask-task*-v0")
    goals = own(task="cube-double-play-v0")
    assert beside(pd.DataFrame([goals]), pd.DataFrame([their(task="cube-double-play-singletask-task*-v0")])).empty


def test_methods_meet_their_own_numbers():
    def methods(label, agent, task=SINGLE):
        found = beside(pd.DataFrame([own(label=label, agent=agent, task=task)]))
        return sorted(zip(found["table"], found["method"], strict=True))

    plain = [("mac-ablation-singletask-1m", "MAC"), ("mac-singletask-1m", "MAC"), ("uhm-singletask", "MAC")]
    assert methods("MAC", "mac") == plain
    assert methods("MAC without teacher", "mac") == plain
    assert methods("MAC (Gau)", "mac") == [("mac-ablation-singletask-1m", "MAC (Gau)")]
    assert methods("random", "random_actions") == []
    assert methods("mine", "") == []


def test_a_table_of_ours_without_a_column_is_refused():
    with pytest.raises(UserError, match=r"our table has no std, mujoco; it needs label"):
        beside(pd.DataFrame([own()]).drop(columns=["std", "mujoco"]))


GOOD = ["t", "mac", "MAC", "success", "percent", "1", "", "unknown", "", "", "1M", "", "s", "first"]


def written(folder: Path, *rows: list[str], header=COLUMNS) -> Path:
    (folder / "one.csv").write_text("\n".join(",".join(row) for row in (header, *rows)) + "\n")
    return folder


def test_a_good_file_is_read(tmp_path):
    (row,) = published(written(tmp_path, GOOD)).to_dict("records")
    assert (row["table"], row["mean"]) == ("one", 1.0)
    assert math.isnan(row["seeds"])


@pytest.mark.parametrize(
    ("place", "text", "message"),
    [
        (5, "x", r"one\.csv, line 3: mean is 'x', not a number"),
        (5, "nan", r"line 3: mean is 'nan'"),
        (6, "inf", r"line 3: spread is 'inf'"),
        (5, "", r"line 3: mean must not be empty"),
        (7, "sd", r"line 3: spread_kind is 'sd'; valid: ci95, std, stderr, tasks, unknown"),
        (4, "%", r"line 3: unit is '%'"),
        (13, "third", r"line 3: hand is 'third'"),
        (2, "MAC", r"line 3: the same task, method, data, metric as line 2"),
        (11, "a,b", r"line 3: 15 cells, not 14"),
        (11, '"cut', r"one\.csv: not a readable CSV"),
    ],
)
def test_damage_is_named_with_its_line(tmp_path, place, text, message):
    bad = [*GOOD[:2], "other", *GOOD[3:]]
    bad[place] = text
    with pytest.raises(UserError, match=message):
        published(written(tmp_path, GOOD, bad))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no \*\.csv in it"):
        published(tmp_path)
    with pytest.raises(UserError, match=r"line 1: its columns must be task, agent, .* not x, agent"):
        published(written(tmp_path, GOOD, header=["x", *COLUMNS[1:]]))
    (tmp_path / "one.csv").write_bytes(b"\xff\x00")
    with pytest.raises(UserError, match=r"one\.csv: not a readable CSV"):
        published(tmp_path)
    with pytest.raises(UserError, match=r"none\.csv: not a readable CSV"):
        horizons(tmp_path / "none.csv")
