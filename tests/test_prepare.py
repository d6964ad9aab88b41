"""Prepared data equal loaded data to the bit, survive what kills a call, and are used only while they are true."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import DATA, TASK
from runs import arrays, numbers, small_run, stop_before_evaluation

from mac_bench import foresight, prepared, tasks
from mac_bench import prepare as writing
from mac_bench.config import GoalMix, Residency
from mac_bench.data import COLUMNS, Dataset, fit, statistics
from mac_bench.errors import UserError
from mac_bench.generate import generate
from mac_bench.inventory import listing, verify
from mac_bench.prepare import prepare
from mac_bench.record import RunFolder
from mac_bench.train import train
from mac_bench.types import GoalSampling, Sampling

REWARDS, ORACLE, WHOLE = TASK, DATA.replace("-v0", "-oraclerep-v0"), DATA
MIX = GoalMix(current=0.2, future=0.4, random=0.4, geometric=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Three shards, nothing prepared."""
    root = tmp_path_factory.mktemp("made")
    generate(DATA, root, episodes=6, length=40, shards=3)
    return root


@pytest.fixture
def root(made, tmp_path) -> Path:
    """A copy of them."""
    shutil.copytree(made, tmp_path / "data")
    return tmp_path / "data"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the lock."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def load(root: Path, name: str, resident: Residency | None = None) -> Dataset:
    return tasks.load(tasks.find(name), DATA, root, resident)


def assert_same(one: Dataset, two: Dataset) -> None:
    """Columns, digests, scalings and batches, to the bit."""
    goals = None if one.goals is None else GoalSampling(MIX, MIX, 0.9)
    for ours, theirs in ((one, two), (one.validation, two.validation)):
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), name)
        assert ours.digest == theirs.digest
        for step in range(5):
            batch, again = (data.sample(Sampling(64, 7, goals, path=True), 3, step) for data in (ours, theirs))
            for a, b in zip([*batch, *(batch.goals or ())], [*again, *(again.goals or ())], strict=True):
                assert type(a) is type(b)
                if isinstance(a, np.ndarray):
                    np.testing.assert_array_equal(a, b)
                    assert a.dtype == b.dtype
    for kind in ("minmax", "meanstd"):
        for split in ("train", "validation"):
            for a, b in zip(fit(kind, split, one), fit(kind, split, two), strict=True):
                np.testing.assert_array_equal(a, b)


# the same data


@pytest.mark.parametrize("name", [REWARDS, ORACLE, WHOLE])
@pytest.mark.parametrize("resident", [None, Residency(blocks=2, rows=82, every=2)])
def test_prepared_equals_loaded_to_the_bit(root, name, resident):
    loaded = replace(load(root, name), resident=resident)
    assert loaded.task == name
    assert not isinstance(loaded.observations, np.memmap)
    prepare(DATA, [name], root)
    mapped = load(root, name, resident)
    assert isinstance(mapped.observations, np.memmap) and mapped.resident == resident
    assert mapped.task == name
    assert_same(loaded, mapped)
    assert (mapped.goals is mapped.observations) == (name == WHOLE)


def test_starting_reads_no_column(root, monkeypatch):
    """Digest and statistics come from the manifest, and are those of the columns."""
    prepare(DATA, [ORACLE], root)
    monkeypatch.setattr("mac_bench.data.statistics", None)
    data = load(root, ORACLE)
    fit("meanstd", "train", data)
    assert vars(data)["digest"] and vars(data.validation)["digest"]
    for split in (data, data.validation):
        for name in ("observations", "goals"):
            for ours, theirs in zip(split.statistics(name), statistics(getattr(split, name)), strict=True):
                np.testing.assert_array_equal(ours, theirs)
                assert ours.dtype == theirs.dtype


def test_statistics_by_blocks_are_those_of_the_whole(monkeypatch):
    column = np.random.default_rng(0).normal(5, 3, (1000, 4)).astype(np.float32)
    monkeypatch.setattr("mac_bench.data.STATISTICS_ROWS", 64)
    low, high, mean, deviation = statistics(column)
    np.testing.assert_array_equal(low, column.min(axis=0))
    np.testing.assert_array_equal(high, column.max(axis=0))
    np.testing.assert_allclose(mean, column.mean(axis=0, dtype=np.float64), rtol=1e-13)
    np.testing.assert_allclose(deviation, column.std(axis=0, dtype=np.float64), rtol=1e-13)


def test_any_number_of_workers_and_of_calls_gives_the_same_files(root):
    one = prepare(DATA, [REWARDS, ORACLE], root, out=root / "1")
    prepare(DATA, [ORACLE], root, out=root / "2", workers=2)
    two = prepare(DATA, [REWARDS], root, out=root / "2", workers=2)
    assert contents(one) == contents(two)
    assert set(contents(one)) == {
        *(f"rows/{start}{name}.npy" for name in ("observations", "actions", "ends") for start in ("", "val-")),
        *(f"{REWARDS}/{start}{name}.npy" for name in ("rewards", "alive") for start in ("", "val-")),
        *(f"{ORACLE}/{start}goals.npy" for start in ("", "val-")),
        *(f"{part}/manifest.json" for part in ("rows", REWARDS, ORACLE)),
    }
    manifest = json.loads((one / "rows" / "manifest.json").read_text())
    first = manifest["shards"][0]
    assert (first["file"], first["rows"], first["episodes"]) == (f"{DATA}-000.npz", 82, 2)
    assert manifest["ogbench"] == "1.2.2" and len(manifest["shards"]) == 6


def test_one_official_file_is_prepared_too(made, tmp_path):
    for end in ("", "-val"):
        shutil.copy(made / DATA / f"{DATA}-001{end}.npz", tmp_path / f"{DATA}{end}.npz")
    loaded = load(tmp_path, REWARDS)
    prepare(DATA, [REWARDS], tmp_path)
    assert_same(loaded, load(tmp_path, REWARDS))
    assert not load(tmp_path, REWARDS).observations.flags.writeable


def test_a_run_begun_on_files_is_continued_on_prepared_data(root, tmp_path, monkeypatch):
    """And drawing from blocks, a run that is stopped ends as one that is not."""
    plain = small_run("bc")
    blocks = plain.model_copy(update={"resident": Residency(blocks=2, rows=82, every=7)})
    here, other = tmp_path / "runs", tmp_path / "other"
    here.mkdir()
    other.mkdir()
    train(plain, other, root)
    with monkeypatch.context() as patch:
        stop_before_evaluation(patch)
        assert train(plain, here, root).state == "stopped"
    prepare(DATA, [TASK], root)
    train(blocks, other, root)
    stop_before_evaluation(monkeypatch)
    assert train(blocks, here, root).state == "stopped"
    for run in (plain, blocks):
        assert train(run, here, root).state == "finished"
        for what in (numbers, arrays):
            assert what(here / run.id) == what(other / run.id)
    assert arrays(here / plain.id) != arrays(here / blocks.id), "blocks play a part"


def test_data_too_large_to_load_are_not_loaded(root, tmp_path, monkeypatch):
    """Memory would not hold them: neither where nothing is prepared, nor where that was of other files."""
    run = small_run("bc").model_copy(update={"resident": Residency(blocks=2)})
    (tmp_path / "runs").mkdir()
    advice = f"prepare them with `mac-bench data prepare {DATA} --task {TASK}`"
    prepare(DATA, [WHOLE], root)
    for change_them in (False, True):
        if change_them:
            prepare(DATA, [TASK], root)
            assert load(root, TASK, run.resident)
            change(root / DATA / f"{DATA}-001.npz")
        with monkeypatch.context() as patch, pytest.raises(UserError) as error:
            patch.setattr(tasks, "read", None)
            train(run, tmp_path / "runs", root)
        assert str(error.value) == f"data '{DATA}' are too large to load, and not prepared for {TASK}; {advice}"
        with pytest.raises(UserError, match="too large to load"):  # nor to measure a model's error
            foresight._group([foresight.Line("MAC", RunFolder(tmp_path / "runs" / run.id), run)], root, 10, 1, [])


# killed, and continued


def test_a_killed_call_is_continued_with_the_same_result(root):
    whole = contents(prepare(DATA, [REWARDS], root, out=root / "whole"))
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom mac_bench.prepare import prepare\n"
        f"prepare({DATA!r}, [{REWARDS!r}], Path(sys.argv[1]), progress=lambda done, total: print(done, flush=True))"
    )
    kept = 0
    for _ in range(3):  # each dies once it has done one file more
        command = [sys.executable, "-c", code, str(root)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            begun = int(process.stdout.readline())
            assert begun >= kept, "what was done is not done again, told or not"
            kept = int(process.stdout.readline())
            time.sleep(0.002 * kept)
            process.send_signal(signal.SIGKILL)
            kept = max([kept, *map(int, process.stdout.read().split())])
        folder = root / "prepared" / DATA
        if kept == 6:
            break
        assert [path.name for path in folder.iterdir() if path.is_dir()] == ["rows.partial"]
        assert not isinstance(load(root, REWARDS).observations, np.memmap)
    assert contents(prepare(DATA, [REWARDS], root)) == whole
    assert isinstance(load(root, REWARDS).observations, np.memmap)


def test_what_a_killed_writer_left_half_written_becomes_no_part_of_the_whole(root):
    whole = contents(prepare(DATA, [REWARDS], root, out=root / "whole"))

    def stop(done, total):
        if done == 2:
            (root / "prepared" / DATA / "rows.partial" / ".manifest.json.1.tmp").write_text("{")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(DATA, [REWARDS], root, progress=stop)
    assert contents(prepare(DATA, [REWARDS], root)) == whole


@pytest.mark.parametrize("after", [1, 2, 5, 7, 8, 9, 14])
def test_interrupted_after_any_file_and_between_parts(root, after):
    """Each of the two parts reports seven times: what was done before, and each of six files."""
    whole = contents(prepare(DATA, [REWARDS], root, out=root / "whole"))
    calls, again = [], []

    def stop(done, total):
        calls.append(done)
        if len(calls) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(DATA, [REWARDS], root, progress=stop)
    prepare(DATA, [REWARDS], root, progress=lambda done, total: again.append(done))
    assert contents(root / "prepared" / DATA) == whole
    assert again[0] == (after - 1) % 7 and len(again) == 14 - after + 1


def test_killed_just_before_a_part_gets_its_name(root, monkeypatch):
    whole = contents(prepare(DATA, [REWARDS], root, out=root / "whole"))

    def die(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(writing, "os", SimpleNamespace(replace=die, fsync=os.fsync))
        prepare(DATA, [REWARDS], root)
    again = []
    assert contents(prepare(DATA, [REWARDS], root, progress=lambda done, total: again.append(done))) == whole
    assert again[0] == 6, "no file is converted twice"


def test_a_full_disk_is_one_line_and_the_call_continues(root, monkeypatch):
    whole = contents(prepare(DATA, [REWARDS], root, out=root / "whole"))
    put, number = writing._put, []

    def full(job, name, column):
        number.append(name)
        if len(number) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return put(job, name, column)

    monkeypatch.setattr(writing, "_put", full)
    with pytest.raises(UserError, match=r"No space left on device; call again to continue") as error:
        prepare(DATA, [REWARDS], root)
    assert "\n" not in str(error.value)
    assert [path.name for path in (root / "prepared" / DATA).iterdir() if path.is_dir()] == ["rows.partial"]
    assert contents(prepare(DATA, [REWARDS], root)) == whole


def test_too_small_a_disk_is_seen_before_anything_is_written(root, monkeypatch):
    monkeypatch.setattr("mac_bench.prepared.shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(UserError, match=r"needs 0\.0 GB, and 0\.0 GB are free; choose another disk"):
        prepare(DATA, [REWARDS], root)
    assert not list(root.rglob("*.npy"))


def test_two_calls_at_once(root):
    with (
        prepared.claimed(root / "prepared" / DATA),
        pytest.raises(UserError, match="another process is preparing these data"),
    ):
        prepare(DATA, [REWARDS], root)


# only while it is true


def change(path: Path) -> None:
    """One action is another."""
    with np.load(path) as file:
        columns = {name: file[name] for name in file.files}
    columns["actions"][3] /= 2
    np.savez(path, **columns)


@pytest.mark.parametrize("end", ["", "-val"])
def test_other_files_than_it_was_made_of_are_loaded_and_prepared_anew(root, end):
    prepare(DATA, [REWARDS], root)
    old = load(root, REWARDS)
    change(root / DATA / f"{DATA}-001{end}.npz")
    new = load(root, REWARDS)
    assert not isinstance(new.observations, np.memmap)
    assert (new.digest != old.digest) == (end == "")
    assert listing(root)[0].prepared == {REWARDS: False}
    prepare(DATA, [REWARDS], root)
    assert isinstance(load(root, REWARDS).observations, np.memmap)
    assert_same(new, load(root, REWARDS))


def test_another_ogbench_or_format_is_not_used(root, monkeypatch):
    prepare(DATA, [REWARDS], root)
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "ogbench_version", lambda: "9")
        assert not isinstance(load(root, REWARDS).observations, np.memmap)
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "FORMAT", 9)
        assert not isinstance(load(root, REWARDS).observations, np.memmap)
    assert isinstance(load(root, REWARDS).observations, np.memmap)


def test_a_copied_file_is_the_same_file(root):
    prepare(DATA, [REWARDS], root)
    for path in (root / DATA).glob("*.npz"):
        os.utime(path)
    assert isinstance(load(root, REWARDS).observations, np.memmap)


def test_listing_and_verification(root):
    assert listing(root)[0].prepared == {} and verify(root, DATA) == []
    folder = prepare(DATA, [REWARDS, ORACLE], root)
    assert listing(root)[0].prepared == {ORACLE: True, REWARDS: True}
    assert [each.name for each in listing(root)] == [DATA] and verify(root, DATA) == []
    for path in (folder / "rows" / "val-actions.npy", folder / REWARDS / "rewards.npy", folder / "rows" / "ends.npy"):
        whole = path.read_bytes()
        path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
        (problem,) = verify(root, DATA)
        assert f"{path}: is not as it was prepared from {DATA}-002" in problem
        path.write_bytes(whole[:-50])
        assert f"{path}: prepared column cannot be read" in verify(root, DATA)[0]
        with pytest.raises(UserError, match=r"prepared column cannot be read.*prepare again"):
            load(root, REWARDS)
        path.unlink()
        with pytest.raises(UserError, match=r"prepared column cannot be read.*prepare again"):
            load(root, REWARDS)
        path.write_bytes(whole)
    change(root / DATA / f"{DATA}-001.npz")
    (root / DATA / "manifest.json").unlink()
    expected = f"{DATA}: prepared for {ORACLE} from other files than these; prepare again, or remove that"
    assert verify(root, DATA)[0] == expected
    (folder / "rows" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest.json: cannot be read .*; remove .*rows, and prepare again"):
        load(root, REWARDS)


# staging


def test_staging_copies_verifies_and_is_used(root, tmp_path, monkeypatch):
    folder = prepare(DATA, [REWARDS, ORACLE], root)
    copy = prepared.stage(folder, [REWARDS], tmp_path / "node")
    assert {path.name for path in copy.iterdir()} == {"lock", "rows", REWARDS}
    kept = {path: path.stat().st_mtime_ns for path in copy.rglob("*.npy")}
    prepared.stage(folder, [REWARDS], tmp_path / "node")
    assert kept == {path: path.stat().st_mtime_ns for path in copy.rglob("*.npy")}
    monkeypatch.setenv(prepared.VARIABLE, str(tmp_path / "node"))
    assert Path(load(root, REWARDS).observations.filename).is_relative_to(tmp_path / "node")
    assert Path(load(root, ORACLE).observations.filename).is_relative_to(root), "what is not staged is used where it is"


def test_a_copy_that_is_not_the_same_is_not_staged(root, tmp_path):
    folder = prepare(DATA, [REWARDS], root)
    with open(folder / "rows" / "observations.npy", "r+b") as file:
        file.seek(500)
        file.write(b"bad!")
    with pytest.raises(UserError, match=r"copying .*rows: .*observations.npy: is not as it was prepared"):
        prepared.stage(folder, [REWARDS], tmp_path / "node")
    assert not (tmp_path / "node" / DATA / "rows").exists()


def test_a_full_disk_while_staging_is_one_line_and_the_call_continues(root, tmp_path):
    folder = prepare(DATA, [REWARDS], root)
    node, before = tmp_path / "node", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(UserError, match=r"rows\.partial: File too large; make room, and call again$") as error:
            prepared.stage(folder, [REWARDS], node)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(error.value) and not (node / DATA / "rows").exists()
    prepared.stage(folder, [REWARDS], node)
    assert contents(node / DATA) == contents(folder)


# refusals


@pytest.mark.parametrize("end", ["", "-val"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_file_in_the_middle_leaves_nothing_under_a_final_name_and_can_be_replaced(root, end, workers):
    """Its dimensions are other ones; its bytes are damaged where only all of it being read shows that."""
    whole = contents(prepare(DATA, [REWARDS], root, out=root / "whole"))
    (root / DATA / "manifest.json").unlink()
    path = root / DATA / f"{DATA}-001{end}.npz"
    right = path.read_bytes()
    with np.load(path) as file:
        columns = {name: file[name] for name in file.files}
    np.savez(path, **columns | {"observations": np.hstack([columns["observations"]] * 2)})
    at = right.index(columns["actions"].tobytes()) + 40
    wide, damaged = path.read_bytes(), right[:at] + bytes([right[at] ^ 1]) + right[at + 1 :]
    for content, reason in ((wide, r"observations has shape \(\d+, 4\), but"), (damaged, "the file is damaged")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"^{path}: .*{reason}") as error:
            prepare(DATA, [REWARDS], root, workers=workers)
        assert "\n" not in str(error.value) and not list((root / "prepared").glob("*/*/manifest.json"))
    path.write_bytes(right)
    assert contents(prepare(DATA, [REWARDS], root, workers=workers)) == whole


def test_only_npz_files_are_prepared(root, monkeypatch):
    path = root / "hopper.hdf5"
    monkeypatch.setattr(tasks, "files", lambda dataset, root: [(path, path)])
    with pytest.raises(UserError, match=r"hopper\.hdf5: only \.npz files are prepared"):
        prepare("hopper", [REWARDS], root)


def test_what_cannot_be_prepared_is_one_line_that_names_it(root):
    def refused(*names: str) -> str:
        with pytest.raises(UserError) as error:
            prepare(DATA, list(names), root)
        assert "\n" not in str(error.value) and not list(root.glob("prepared/*/*/manifest.json"))
        return str(error.value)

    assert "no task given" in refused()
    assert "no task 'pointmaze'" in refused("pointmaze")
    assert "data 'pointmaze-medium-navigate-v0' are of pointmaze-medium, but pointmaze-large-navigate-v0" in refused(
        REWARDS, "pointmaze-large-navigate-v0"
    )
    with pytest.raises(UserError, match=r"^'\.\./data2' is no name for data: it must be that of a folder inside "):
        shutil.copytree(root / DATA, root.parent / "data2")
        prepare("../data2", [REWARDS], root)
    shard = root / DATA / f"{DATA}-001.npz"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:3000])
    assert f"{shard}: cannot be read, the file is damaged" in refused(REWARDS)
    shard.write_bytes(whole[:400] + b"\xff" * 8 + whole[408:])
    assert f"{shard}: cannot be read, the file is damaged" in refused(REWARDS)
    shard.write_bytes(whole)
    (root / DATA / "manifest.json").unlink()
    shutil.copytree(root / DATA, root / "mine")
    with pytest.raises(
        UserError, match=r"observations has shape \(41, 2\), but antmaze-medium-navigate-v0 has \[N, 29"
    ):
        prepare("mine", ["antmaze-medium-navigate-singletask-v0"], root)
    (root / DATA / f"{DATA}-001-val.npz").unlink()
    assert f"the validation file that belongs to {shard.name} is missing" in refused(REWARDS)
