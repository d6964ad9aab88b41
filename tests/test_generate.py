"""Generated data keeps its laws, is a function of its parameters, and survives interruption."""

import json
from pathlib import Path

import numpy as np
import pytest

from mac_bench import tasks
from mac_bench.collectors import Point, _cube_in_reach, length_of, noise_of
from mac_bench.errors import UserError
from mac_bench.files import sha256
from mac_bench.generate import generate
from mac_bench.inventory import listing, verify
from mac_bench.manifest import MANIFEST, UNFINISHED

POINT, CUBE, SCENE = "pointmaze-medium-navigate-v0", "cube-double-play-v0", "scene-noisy-v0"


def columns(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def contents(folder: Path) -> dict[str, str]:
    """Every file and its hash."""
    return {path.name: sha256(path) for path in folder.iterdir()}


def callers_generator() -> str:
    """The state of NumPy's global generator, to the last number that it holds back."""
    return repr(np.random.get_state(legacy=False)) + repr(np.random.get_state(legacy=False)["state"]["key"].tolist())


# the protocol


def test_public_settings():
    """Hand numbers: the settings of the commands that made the public data."""
    assert noise_of("pointmaze-large-stitch-v0") == {"noise": 0.5}
    assert noise_of("cube-double-play-v0") == {"noise": 0.1, "random_actions": 0.0}
    assert noise_of("scene-noisy-v0") == {"noise": 0.1, "random_actions": 0.1}
    assert noise_of("puzzle-4x5-noisy-v0") == {"noise": 0.1, "random_actions": 0.2}
    assert length_of("pointmaze-giant-navigate-v0") == 2000
    assert length_of("pointmaze-giant-stitch-v0") == 200
    assert length_of("cube-octuple-play-v0") == 1000


def test_stitch_goals_are_four_cells_away():
    point = Point("pointmaze-large-stitch-v0", {"noise": 0.5})
    for start in point.cells:
        distance = point.raw.get_oracle_subgoal(point.raw.ij_to_xy(start), point.raw.ij_to_xy(start))[1]
        assert set(point._four_away(start)) == {cell for cell in point.cells if distance[cell] == 4}


def test_goals_of_navigation_are_not_in_corridors():
    crossings = Point("pointmaze-medium-navigate-v0", {"noise": 0.5}).crossings
    assert (1, 1) in crossings  # a corner
    assert (5, 6) not in crossings and (5, 1) not in crossings  # straight corridors


def test_episodes_that_lose_the_cube_are_told_from_others():
    qpos = np.zeros((3, 25))
    qpos[:, 16] = 0.02
    assert _cube_in_reach(qpos)
    qpos[1, 15] = 0.3
    assert not _cube_in_reach(qpos)
    qpos[1, 15] = -0.31
    assert not _cube_in_reach(qpos)
    qpos[1, 16] = 0.07  # in the drawer
    assert _cube_in_reach(qpos)


@pytest.mark.parametrize(
    "dataset, length, sizes",
    [
        (POINT, 50, {"observations": 2, "actions": 2, "qpos": 2, "qvel": 2}),
        ("pointmaze-teleport-explore-v0", 50, {"observations": 2, "actions": 2, "qpos": 2, "qvel": 2}),
        (CUBE, 60, {"observations": 37, "actions": 5, "qpos": 28, "qvel": 26}),
        (SCENE, 20, {"observations": 40, "actions": 5, "qpos": 25, "qvel": 24, "button_states": 2}),
        ("puzzle-3x3-noisy-v0", 20, {"observations": 55, "actions": 5, "qpos": 23, "qvel": 23, "button_states": 9}),
    ],
)
def test_laws_of_the_data(tmp_path, dataset, length, sizes):
    folder = generate(dataset, tmp_path, episodes=2, length=length)
    training, validation = columns(folder / f"{dataset}.npz"), columns(folder / f"{dataset}-val.npz")
    for rows, episodes in ((training, 2), (validation, 1)):
        n = episodes * (length + 1)
        assert {name: column.shape for name, column in rows.items()} == {
            name: (n, size) for name, size in sizes.items()
        } | {"terminals": (n,)}
        assert np.flatnonzero(rows["terminals"]).tolist() == [(e + 1) * (length + 1) - 1 for e in range(episodes)]
        assert np.abs(rows["actions"]).max() <= 1.0
        assert all(np.isfinite(column).all() for column in rows.values())
        assert (np.abs(np.diff(rows["actions"], axis=0)).max(axis=0) > 0.05).all()  # every actuator is used
    assert not np.array_equal(training["observations"][: length + 1], validation["observations"])
    assert not np.array_equal(training["observations"][: length + 1], training["observations"][length + 1 :])


@pytest.mark.parametrize("dataset, tolerance", [(POINT, 1e-5), (CUBE, 2e-2)])
def test_stored_actions_lead_from_state_to_state(tmp_path, dataset, tolerance):
    """One step of the real environment from a stored state, with the stored action, gives the next stored state."""
    rows = columns(generate(dataset, tmp_path, episodes=1, length=40) / f"{dataset}.npz")
    env = tasks.Env(tasks.find(dataset)).raw
    for t in range(40):
        env.set_state(rows["qpos"][t].astype(np.float64), rows["qvel"][t].astype(np.float64))
        env.step(rows["actions"][t])
        np.testing.assert_allclose(env.data.qpos, rows["qpos"][t + 1], atol=tolerance)


def test_play_moves_cubes(tmp_path):
    folder = generate("cube-single-play-v0", tmp_path, episodes=1, length=150, seed=1)
    cube = columns(folder / "cube-single-play-v0.npz")["qpos"][:, 14:17]
    assert cube[:, 2].max() > 0.08 and np.linalg.norm(cube[-1] - cube[0]) > 0.05  # lifted 6 cm, put down elsewhere


# a function of the parameters


def test_same_parameters_same_files_whatever_the_workers(tmp_path):
    before = callers_generator()
    one = generate(POINT, tmp_path / "1", episodes=5, length=30, shards=2, seed=4)
    two = generate(POINT, tmp_path / "2", episodes=5, length=30, shards=2, seed=4, workers=2)
    assert callers_generator() == before
    assert contents(one) == contents(two)
    assert [len(columns(one / f"{POINT}-00{i}.npz")["terminals"]) for i in range(2)] == [3 * 31, 2 * 31]
    other = generate(POINT, tmp_path / "3", episodes=5, length=30, shards=2, seed=5)
    assert contents(one).keys() == contents(other).keys()
    assert not set(contents(one).values()) & set(contents(other).values())


def test_arms_too(tmp_path):
    one, two = (generate(CUBE, tmp_path / name, episodes=1, length=15) for name in "12")
    assert contents(one) == contents(two)


# interruption


def test_only_what_is_missing_or_damaged_is_made_again(tmp_path):
    folder = generate(POINT, tmp_path, episodes=6, length=20, shards=3)
    whole = contents(folder)
    kept = (folder / f"{POINT}-000.npz").stat().st_mtime_ns
    (folder / f"{POINT}-001-val.npz").unlink()
    (folder / f"{POINT}-002.npz").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"001-val\.npz: is missing; call `mac-bench data generate` as before"):
        tasks.load(tasks.find(POINT), POINT, tmp_path)
    seen = []
    generate(POINT, tmp_path, episodes=6, length=20, shards=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 6), (2, 6), (3, 6), (4, 6), (5, 6), (6, 6)]  # two shards of two episodes and one for validation
    assert contents(folder) == whole
    assert (folder / f"{POINT}-000.npz").stat().st_mtime_ns == kept
    generate(POINT, tmp_path, episodes=6, length=20, shards=3, progress=lambda done, total: seen.append(()))
    assert len(seen) == 6


def test_an_interrupted_call_is_continued(tmp_path):
    whole = contents(generate(POINT, tmp_path / "whole", episodes=4, length=20, shards=2))

    def interrupt(after: int) -> set[str]:
        """Start, or continue, up to a number of episodes; returns the names of the files that are there then."""

        def stop(done: int, total: int) -> None:
            if done == after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            generate(POINT, tmp_path, episodes=4, length=20, shards=2, progress=stop)
        return {path.name for path in (tmp_path / POINT).iterdir()}

    assert interrupt(after=1) == {UNFINISHED}
    with pytest.raises(UserError, match="was made with other parameters"):
        generate(POINT, tmp_path, episodes=5, length=20, shards=2)
    # in the middle of the second shard
    assert interrupt(after=5) == {f"{POINT}-000.npz", f"{POINT}-000-val.npz", UNFINISHED}
    assert not listing(tmp_path)[0].complete
    with pytest.raises(UserError, match="not finished"):
        tasks.load(tasks.find(POINT), POINT, tmp_path)
    assert contents(generate(POINT, tmp_path, episodes=4, length=20, shards=2)) == whole


# refusals


@pytest.mark.parametrize(
    "dataset, settings, message",
    [
        ("antmaze-large-navigate-v0", {}, "needs a trained locomotion expert; get the official data"),
        ("cube-single-play-singletask-v0", {}, "is a task; its data is called cube-single-play-v0"),
        ("cube-single-paly-v0", {}, "did you mean cube-single-play-v0"),
        (POINT, {"shards": 3}, "3 shards need at least as many episodes, not 2"),
        (POINT, {"length": 0}, "length: 0 is less than 1"),
        (POINT, {"name": "../y"}, r"'\.\./y' is no name for data: it must be that of a folder inside "),
        (POINT, {"name": ".."}, "'..' is no name for data"),
    ],
)
def test_what_cannot_be_made_is_refused(tmp_path, dataset, settings, message):
    with pytest.raises(UserError, match=message):
        generate(dataset, tmp_path, episodes=2, **settings)
    assert list(tmp_path.iterdir()) == []


def test_folders_of_other_data_are_refused(tmp_path):
    folder = generate(POINT, tmp_path, episodes=2, length=10)
    with pytest.raises(UserError, match=r"was made with other parameters \(seed 0\)"):
        generate(POINT, tmp_path, episodes=2, length=10, seed=1)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["versions"]["mujoco"] = "1.0"
    (folder / MANIFEST).write_text(json.dumps(manifest))
    generate(POINT, tmp_path, episodes=2, length=10)  # whole, so nothing is to be made
    (folder / MANIFEST).unlink()
    with pytest.raises(UserError, match="holds data that was not made here"):
        generate(POINT, tmp_path, episodes=2, length=10)


def test_shards_of_different_physics_are_not_mixed(tmp_path):
    folder = generate(POINT, tmp_path, episodes=2, length=10, shards=2)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["versions"]["mujoco"] = "1.0"
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder / f"{POINT}-001.npz").unlink()
    with pytest.raises(UserError, match=r"other shards were made with mujoco 1\.0, now"):
        generate(POINT, tmp_path, episodes=2, length=10, shards=2)


# what there is


def test_manifest_listing_and_verification(tmp_path):
    folder = generate(POINT, tmp_path, episodes=3, length=10, seed=2, name="mine")
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["parameters"] == {
        "generator": 1,
        "dataset": POINT,
        "kind": "navigate",
        "seed": 2,
        "episodes": 3,
        "length": 10,
        "shards": 1,
        "noise": 0.5,
    }
    assert set(manifest["versions"]) == {"ogbench", "mujoco", "gymnasium", "dm_control", "numpy"}
    training = folder / f"{POINT}.npz"
    assert manifest["files"][training.name] == {"rows": 33, "episodes": 3, "sha256": sha256(training)}
    for end in ("", "-val"):  # the same files, as if they were downloaded
        (tmp_path / f"official{end}.npz").write_bytes(training.read_bytes())
    mine, official = listing(tmp_path)
    assert (mine.name, mine.files, mine.rows, mine.episodes) == ("mine", 2, 33, 3)
    assert mine.generated and mine.complete
    assert mine.bytes == sum(path.stat().st_size for path in folder.glob("*.npz"))
    assert (official.name, official.files, official.rows, official.episodes) == ("official", 2, 33, 3)
    assert not official.generated and official.complete
    assert verify(tmp_path, "mine") == verify(tmp_path, "official") == []

    damaged = bytearray(training.read_bytes())
    damaged[damaged.index(columns(training)["qvel"].tobytes()) + 50] ^= 1
    training.write_bytes(damaged)
    (tmp_path / "official.npz").write_bytes(damaged)
    assert "is not the file that was made" in verify(tmp_path, "mine")[0]
    assert "cannot be read" in verify(tmp_path, "official")[0]
    training.unlink()
    assert verify(tmp_path, "mine") == [f"{training}: is missing; call `mac-bench data generate` as before"]
    assert not listing(tmp_path)[0].complete
    assert "neither" in verify(tmp_path, "nothing")[0]
    for content, told in (
        ("{", "cannot be read (Exp"),
        ('{"source": "x"}', "is not a manifest of mac-bench; give it an"),
    ):
        (folder / MANIFEST).write_text(content)
        (problem,) = verify(tmp_path, "mine")
        assert problem.startswith(f"{folder / MANIFEST}: {told}") and "\n" not in problem
        assert not listing(tmp_path)[0].complete
    (folder / MANIFEST).write_text("[")
    assert "; remove it where data were fetched (they can stay), and the folder where" in verify(tmp_path, "mine")[0]
