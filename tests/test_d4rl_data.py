"""D4RL's files are converted as it does, and its scores travel as what they are."""

import re
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from runs import small_run
from test_report import run

from mac_bench import d4rl, figures, generate, inventory, needs, published, queries, report, store, suite, tasks
from mac_bench.config import EvalConfig
from mac_bench.data import ACTION_LIMIT
from mac_bench.errors import UserError
from mac_bench.evaluate import Evaluator
from mac_bench.record import RunFolder
from mac_bench.train import train
from mac_bench.types import Sampling


def rows(count: int, size: int = 11, actions: int = 3) -> dict[str, np.ndarray]:
    """Row i has the observation i and the reward i."""
    number = np.arange(count, dtype=np.float32)
    return {
        "observations": np.repeat(number[:, None], size, axis=1),
        "actions": np.linspace(-1, 1, count * actions, dtype=np.float32).reshape(count, actions),
        "rewards": number,
        "terminals": np.zeros(count, bool),
    }


def flags(count: int, *at: int) -> np.ndarray:
    return np.isin(np.arange(count), at)


def write(path: Path, columns: dict[str, np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            file[name] = column
        file["infos/qpos"] = np.zeros(3)
    return path


def transitions(columns: dict[str, np.ndarray]) -> list[tuple[float, float, float, bool]]:
    """obs, reward, next obs, whether the task ended, of each transition of converted columns."""
    inside = np.setdiff1d(np.arange(len(columns["rewards"])), columns["ends"])
    obs = columns["observations"][:, 0]
    return [(obs[i], columns["rewards"][i], obs[i + 1], columns["alive"][i] == 0) for i in inside]


def test_time_outs_and_ends_by_hand():
    file = rows(9) | {"terminals": flags(9, 5), "timeouts": flags(9, 2, 8)}
    columns = d4rl.convert(file, 1000)
    # the time-outs of rows 2 and 8 lead nowhere; row 5 ends the task, in what the row below shows
    assert columns["observations"][:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 6, 7, 8]
    assert columns["ends"].tolist() == [2, 6, 9]
    assert transitions(columns) == [
        *[(0, 0, 1, False), (1, 1, 2, False), (3, 3, 4, False), (4, 4, 5, False), (5, 5, 6, True)],
        *[(6, 6, 7, False), (7, 7, 8, False)],
    ]


def test_next_observations_are_where_a_task_ended():
    file = rows(6) | {"terminals": flags(6, 2), "timeouts": flags(6, 5)}
    file["next_observations"] = file["observations"] + 100
    columns = d4rl.convert(file, 1000)
    assert columns["observations"][:, 0].tolist() == [0, 1, 2, 102, 3, 4, 5]
    assert columns["ends"].tolist() == [3, 6]
    assert transitions(columns)[2] == (2, 2, 102, True)


def test_without_time_outs_an_episode_is_cut_at_the_limit():
    # an end in row 1, so the limit of 4 rows counts from row 2; and the last row is always an end
    columns = d4rl.convert(rows(11) | {"terminals": flags(11, 1)}, 4)
    assert columns["observations"][columns["ends"], 0].tolist() == [2, 5, 9, 10]
    assert [row[0] for row in transitions(columns)] == [0, 1, 2, 3, 4, 6, 7, 8]


def theirs(file: dict[str, np.ndarray]) -> list[tuple[float, float, float, bool]]:
    """`d4rl.qlearning_dataset`, of files with time-outs."""
    found = []
    for i in range(len(file["rewards"]) - 1):
        if not file["timeouts"][i]:
            obs = file["observations"][:, 0]
            found.append((obs[i], file["rewards"][i], obs[i + 1], bool(file["terminals"][i])))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_the_conversion_is_the_original_s_loop(seed):
    rng = np.random.default_rng(seed)
    file = rows(200) | {"terminals": rng.random(200) < 0.1, "timeouts": rng.random(200) < 0.1}
    assert transitions(d4rl.convert(file, 1000)) == theirs(file)


def hopper_file(folder: Path, name: str = "hopper-medium-v2", episodes: int = 45, length: int = 10) -> Path:
    """Episodes that end in turn by a fall and by time."""
    count = episodes * length
    rng, last = np.random.default_rng(0), np.arange(length - 1, count, length)
    file = rows(count) | {"terminals": flags(count, *last[::2]), "timeouts": flags(count, *last[1::2])}
    file["observations"] = rng.normal(size=(count, 11)).astype(np.float32)
    file["next_observations"] = np.roll(file["observations"], -1, axis=0)
    return write(folder / f"{name}.hdf5", file)


def test_validation_is_every_twentieth_episode_and_never_trained_on(tmp_path):
    hopper_file(tmp_path)
    task = tasks.find("hopper-medium-v2")
    data = tasks.load(task, "hopper-medium-v2", tmp_path)
    assert data.validation is not None and (len(data.ends), len(data.validation.ends)) == (43, 2)
    both = np.concatenate([data.rewards, data.validation.rewards])
    assert set(both) == set(range(450)) and not set(data.rewards) & set(data.validation.rewards)
    assert data.validation.rewards.min() == 190  # the 20th
    assert data.digest == tasks.load(task, "hopper-medium-v2", tmp_path).digest
    assert np.abs(data.actions).max() <= ACTION_LIMIT and data.actions.dtype == np.float32
    batch = data.sample(Sampling(512), 0, 0)
    for name in ("obs", "rewards", "next_obs", "alive"):
        assert getattr(batch, name).dtype == np.float32
    # 22 of 43 episodes end with a fall, with 10 transitions, 21 by time or with the file, with 9
    ended = data.alive[np.setdiff1d(np.arange(len(data.alive)), data.ends)] == 0
    assert (ended.sum(), len(ended)) == (22, 22 * 10 + 21 * 9)


def test_two_episodes_are_enough_and_one_is_not(tmp_path):
    task = tasks.find("hopper-medium-v2")
    hopper_file(tmp_path, episodes=2)
    data = tasks.load(task, "hopper-medium-v2", tmp_path)
    assert (len(data.ends), len(data.validation.ends)) == (1, 1)
    hopper_file(tmp_path, episodes=1)
    with pytest.raises(UserError, match=r"hopper-medium-v2.hdf5: 1 episodes with transitions; it takes 2"):
        tasks.load(task, "hopper-medium-v2", tmp_path)


def test_maze_rewards_are_shifted_and_the_unshifted_are_another_task(tmp_path):
    file = rows(40, 29, 8) | {"rewards": flags(40, 9, 39).astype(np.float32), "terminals": flags(40, 9)}
    write(tmp_path / "antmaze-umaze-v2.hdf5", file | {"timeouts": flags(40, 19, 29)})
    shifted, plain = tasks.find("antmaze-umaze-v2"), tasks.find("antmaze-umaze-unshifted-v2")
    assert shifted.dataset == plain.dataset == "antmaze-umaze-v2"
    for task, values in ((shifted, {-1, 0}), (plain, {0, 1})):
        assert set(tasks.load(task, "antmaze-umaze-v2", tmp_path).rewards) == values
    runs = [
        small_run(task=name).model_copy(update={"dataset": "antmaze-umaze-v2"}) for name in (shifted.name, plain.name)
    ]
    assert runs[0].id != runs[1].id


def test_files_are_found_under_both_names(tmp_path, monkeypatch):
    official, own = tmp_path / "official", tmp_path / "data"
    official.mkdir(), own.mkdir()
    monkeypatch.setenv("D4RL_DATASET_DIR", str(official))
    with pytest.raises(
        UserError, match=r"no data 'hopper-medium-replay-v2': neither .*data/hopper-medium-replay-v2.hdf5 "
    ):
        tasks.files("hopper-medium-replay-v2", own)
    path = hopper_file(official, "hopper_medium_replay-v2")
    assert tasks.files("hopper-medium-replay-v2", own) == [(path, path)]
    near = hopper_file(own, "hopper-medium-replay-v2")
    assert tasks.files("hopper-medium-replay-v2", own) == [(near, near)]
    files = {d4rl.ENTRIES[f"antmaze-{name}-v2"].file for name in ("umaze", "umaze-diverse", "large-play")}
    assert files == {
        f"Ant_maze_{what}_sparse_fixed.hdf5"
        for what in (
            "u-maze_noisy_multistart_False_multigoal_False",
            "u-maze_noisy_multistart_True_multigoal_True",
            "hardest-maze_noisy_multistart_True_multigoal_False",
        )
    }


def damaged(**columns) -> dict[str, np.ndarray]:
    return {name: column for name, column in (rows(20) | columns).items() if column is not None}


@pytest.mark.parametrize(
    "content, reason",
    [
        (damaged(rewards=None), "no rewards in it; there are: actions, infos, observations, terminals"),
        (damaged(observations=np.zeros((20, 17))), "observations has shape (20, 17), but must have [20, 11]"),
        (damaged(actions=np.zeros(20)), "actions has shape (20,), but must have [20, 3]"),
        (damaged(rewards=np.zeros(19)), "rewards has shape (19,), but must have [20]"),
        (damaged(timeouts=np.zeros(21)), "timeouts has shape (21,), but must have [20]"),
        (damaged(rewards=np.where(flags(20, 7), np.nan, 0)), "rewards has a value that is not finite in row 7"),
        (damaged(terminals=np.zeros(0)), "terminals has no rows"),
        (damaged(rewards=np.array(["a"] * 20, "S1")), "rewards must hold numbers"),
        (damaged(rewards=np.zeros(20, complex)), "rewards must hold numbers"),
        (damaged(rewards=h5py.Empty("f4")), "cannot be read, the file is damaged or no HDF5 of arrays"),
    ],
)
def test_wrong_files_are_refused_in_one_line(tmp_path, content, reason):
    path = write(tmp_path / "hopper-medium-v2.hdf5", content)
    with pytest.raises(UserError, match=re.escape(reason)) as error:
        tasks.load(tasks.find("hopper-medium-v2"), "hopper-medium-v2", tmp_path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    assert inventory.verify(tmp_path, "hopper-medium-v2") == [str(error.value)]


def test_a_group_in_the_place_of_a_column_is_refused(tmp_path):
    path = hopper_file(tmp_path)
    with h5py.File(path, "r+") as file:
        del file["timeouts"]
        file.create_group("timeouts")
    with pytest.raises(UserError, match="no timeouts in it; there are: actions, "):
        tasks.load(tasks.find("hopper-medium-v2"), "hopper-medium-v2", tmp_path)


def test_a_file_that_does_not_fit_together_is_listed_as_not_complete(tmp_path):
    write(tmp_path / "hopper-medium-v2.hdf5", damaged(timeouts=np.zeros(21)))
    assert [found.complete for found in inventory.listing(tmp_path)] == [False]
    assert "timeouts has shape (21,), but must have [20]" in inventory.verify(tmp_path, "hopper-medium-v2")[0]


def test_files_that_are_cut_off_or_something_else_are_refused(tmp_path):
    path = hopper_file(tmp_path)
    content = path.read_bytes()
    for left in (content[: len(content) // 2], b"not at all", b""):
        path.write_bytes(left)
        with pytest.raises(UserError, match="the file is damaged or no HDF5") as error:
            tasks.load(tasks.find("hopper-medium-v2"), "hopper-medium-v2", tmp_path)
        assert "\n" not in str(error.value)
        assert [found.complete for found in inventory.listing(tmp_path)] == [False]


def test_files_are_listed_and_verified(tmp_path):
    path = hopper_file(tmp_path)
    (found,) = inventory.listing(tmp_path)
    assert (found.name, found.files, found.rows, found.episodes) == ("hopper-medium-v2", 1, 450, 45)
    assert (found.bytes, found.generated, found.complete) == (path.stat().st_size, False, True)
    assert inventory.verify(tmp_path, "hopper-medium-v2") == []
    with pytest.raises(UserError, match="hopper-medium-v2: cannot be made here; get the official data"):
        generate.generate("hopper-medium-v2", tmp_path, episodes=1)


def test_the_shape_of_rewards_may_be_a_column(tmp_path):
    file = rows(40) | {"timeouts": flags(40, 19)}
    plain = d4rl.read(write(tmp_path / "a.hdf5", file), (11, 3))
    column = d4rl.read(write(tmp_path / "b.hdf5", file | {"rewards": file["rewards"][:, None]}), (11, 3))
    np.testing.assert_array_equal(column["rewards"], plain["rewards"])


# results


class Still:
    """Does nothing."""

    sampling = Sampling(1)

    def act(self, obs, goal, *, seed):
        return np.zeros((len(obs), 1, 3), np.float32)


def test_an_evaluation_reports_the_normalised_score():
    with Evaluator(tasks.find("hopper-medium-v2"), EvalConfig(every=1, episodes=3, parallel=2), seed=0) as evaluator:
        (result,), _ = evaluator(Still(), 1)
    assert result["success"] == pytest.approx((result["return"] + 20.272305) / (3234.3 + 20.272305))
    assert result["return"] > 20 and (result["task"], result["episodes"]) == (1, 3)


def test_a_run_is_trained_evaluated_and_reported(tmp_path, root, database):
    data = tmp_path / "data"
    data.mkdir()
    hopper_file(data)
    path = tmp_path / "hop.yaml"
    path.write_text(
        "name: hop\nabout: x\nsteps: 20\nseeds: [0, 1]\ntasks: [hopper-medium-v2]\n"
        "evaluation: {every: 10, episodes: 2}\nagents: {bc: {settings: {hidden: [8], batch_size: 16}}}\n"
    )
    members = suite.expand(suite.load(path))
    assert needs.missing(needs.of(members), data, path) == {}
    suite.write_membership(root, suite.load(path), members)
    for member in members:
        assert train(member.run, root, data).state == "finished"
    events = RunFolder(root / members[0].run.id).read()
    evaluation = next(event for event in events if event["kind"] == "evaluation")
    assert evaluation["tasks"][0]["success"] != 0
    store.collect(root, database)
    frame = queries.results(database, "hop")
    assert frame["complete"].all() and (frame["measure"] == "normalised score").all()
    assert frame["simulator"].str.startswith("d4rl-legacy-inertia").all() and (frame["data_made_here"] == "False").all()
    found = report.build(frame)
    assert any("normalised scores, on which 100 is the reference's return: hopper-medium-v2" in n for n in found.notes)
    assert not found.warnings


def reported(scores: list[float], **other) -> report.Report:
    return report.build(pd.DataFrame([run("MAC", "hopper-medium-v2", i, s, **other) for i, s in enumerate(scores)]))


def test_intervals_of_normalised_scores_are_not_cut():
    cell = reported([1.1, 1.0, 1.05], measure="normalised score").methods[0].cells["hopper-medium-v2"]
    assert cell.value == pytest.approx(105) and cell.high > 110
    cell = reported([-0.01, 0.0, 0.01], measure="normalised score").methods[0].mean
    assert cell.low < -1
    cell = reported([1.0, 1.0, 0.95]).methods[0].cells["hopper-medium-v2"]
    assert cell.high == 100


def test_numbers_of_two_simulators_are_not_pooled():
    runs = [run("MAC", "hopper-medium-v2", 0, 0.5), run("MAC", "hopper-medium-v2", 1, 0.5, simulator="d4rl-x")]
    built = report.build(pd.DataFrame(runs))
    assert built.warnings == (
        "simulator differs between runs of hopper-medium-v2 (d4rl-x, ogbench): they are not comparable.",
    )
    (method,) = built.methods
    for cell in (method.cells["hopper-medium-v2"], method.mean, method.iqm):
        assert cell.text == "2 simulators" and np.isnan(cell.value)
    made_of = {"data_made_here": "False", "data_fetched": "True", "data_rows": "9", "every": 1}
    frame = pd.DataFrame(runs).assign(**made_of, settings="{}", defaults="{}")
    assert published.own_means(frame).empty
    with pytest.raises(UserError, match="no number is of several simulators, and these runs are of d4rl-x and ogbench"):
        figures.complete(frame)
    assert len(figures.complete(frame[:1])) == len(published.own_means(frame[:1])) == 1


def test_tasks_of_two_simulators_have_numbers_but_none_over_both():
    kinds = {"simulator": "minari (gymnasium 1.4.0, Hopper-v5)", "measure": "normalised score"}
    runs = [run("MAC", "cube-single-play", 0, 0.5), run("MAC", "minari/x-v0", 0, 0.9, **kinds)]
    built = report.build(pd.DataFrame(runs))
    assert built.warnings == (
        "these tasks are of different simulators (minari; ogbench): no number is over tasks of several.",
    )
    (method,) = built.methods
    assert [cell.value for cell in method.cells.values()] == [50, 90]
    assert (method.rank, method.mean.text, method.iqm.text) == (None, "2 simulators", "2 simulators")
    # two environments of one simulator are one benchmark
    runs[0] |= {"task": "minari/y-v0", "simulator": "minari (gymnasium 1.4.0, Ant-v5)", "measure": "normalised score"}
    built = report.build(pd.DataFrame(runs))
    assert built.methods[0].mean.value == 70 and not built.warnings
