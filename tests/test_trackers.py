"""Trackers show what the log holds, and nothing that they do can change a run."""

import importlib.metadata
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import TASK
from runs import STEPS, arrays, numbers, small_run, stop_before_evaluation

from mac_bench import cli, trackers
from mac_bench.errors import UserError
from mac_bench.record import RunFolder
from mac_bench.train import Options, train


class Fake(NamedTuple):
    """Remembers what it was told, and raises where it is to."""

    raises_in: str
    lines: list[tuple[dict[str, float], int]]
    finished: list[bool]

    def _maybe(self, verb: str) -> None:
        if verb == self.raises_in:
            raise OSError(28, "No space\nleft")

    def log(self, values, step, seconds):
        self._maybe("log")
        self.lines.append((dict(values), step))

    def close(self, finished):
        self._maybe("close")
        self.finished.append(finished)

    def told(self) -> dict[tuple[int, str], float]:
        """The numbers by step and name; each must have come once, and steps must not have fallen."""
        steps = [step for _, step in self.lines]
        assert steps == sorted(steps)
        pairs = [((step, name), value) for values, step in self.lines for name, value in values.items()]
        assert len(pairs) == len(dict(pairs)), "a number was told twice"
        return dict(pairs)


@pytest.fixture
def fakes(monkeypatch) -> dict[str, list[Fake]]:
    """All that were opened, by name. `good` does what it is told; the others raise in what they are called."""
    opened: dict[str, list[Fake]] = {name: [] for name in ("open", "log", "close", "good")}

    def opening(name: str):
        def open_one(run, folder):
            fake = Fake(name, [], [])
            fake._maybe("open")
            opened[name].append(fake)
            return fake

        return open_one

    monkeypatch.setattr(trackers, "KINDS", {name: opening(name) for name in opened})
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name, version=importlib.metadata.version: "1.0" if name in opened else version(name),
    )
    return opened


def logged(folder: Path) -> dict[tuple[int, str], float]:
    """The numbers of the log by step and name, as trackers show them; of a repeated step the later line counts."""
    found = {}
    for event in RunFolder(folder).read():
        values = {}
        if event["kind"] == "metrics":
            values = event["values"] | {"updates_per_s": event["updates_per_s"]}
        if event["kind"] == "evaluation":
            (only,) = event["tasks"]
            for name in ("success", "return", "length"):
                values[f"evaluation/{name}"] = values[f"evaluation/{name}/task{only['task']}"] = only[name]
            values |= {"evaluation/seconds": event["seconds"]} | event["memory"]
        found |= {(event["step"], name): value for name, value in values.items()}
    return found


def test_a_run_is_the_same_beside_trackers_that_fail_and_one_that_shows_all_of_it(tmp_path, data_root, fakes, capsys):
    run = small_run()
    train(run, tmp_path / "alone", data_root)
    assert capsys.readouterr().out == "" and not any(fakes.values()), "off by default"

    order = ("open", "log", "close", "good", "good")
    assert train(run, tmp_path / "shown", data_root, Options(trackers=order)).state == "finished"
    assert arrays(tmp_path / "shown" / run.id) == arrays(tmp_path / "alone" / run.id)
    assert numbers(tmp_path / "shown" / run.id) == numbers(tmp_path / "alone" / run.id)

    (good,), (close,) = fakes["good"], fakes["close"]
    assert good.told() == close.told() == logged(tmp_path / "shown" / run.id)
    assert {(STEPS, "evaluation/success"), (STEPS, "updates_per_s"), (1, "loss/actor")} <= set(good.told())
    assert good.finished == [True]
    said = [line for line in capsys.readouterr().out.splitlines() if "tracker" in line]
    assert said == [f"tracker {name} is off, the run goes on: OSError: [Errno 28] No space left" for name in order[:3]]

    train(run, tmp_path / "shown", data_root, Options(trackers=("good",)))
    assert len(fakes["good"]) == 1, "a finished run is left alone"


def test_even_the_line_about_a_failure_may_fail(tmp_path, data_root, fakes, monkeypatch):
    class Full:
        def write(self, text):
            raise OSError(28, "No space left on device")

        flush = write

    monkeypatch.setattr(sys, "stdout", Full())
    assert train(small_run(), tmp_path, data_root, Options(trackers=("log",))).state == "finished"


def test_stopped_and_continued_it_shows_the_whole_run_once(tmp_path, data_root, fakes, monkeypatch):
    run, options = small_run(), Options(trackers=("good",))
    stop_before_evaluation(monkeypatch)
    assert train(run, tmp_path, data_root, options).state == "stopped"
    assert train(run, tmp_path, data_root, options).state == "finished"
    stopped, finished = fakes["good"]
    assert (stopped.finished, finished.finished) == ([False], [True])
    assert finished.told() == logged(tmp_path / run.id)
    assert stopped.told().items() <= finished.told().items()


def test_a_run_that_fails_is_closed_as_such(tmp_path, data_root, fakes):
    with pytest.raises(UserError, match="a smaller learning rate"):
        train(small_run(learning_rate=1e30), tmp_path, data_root, Options(trackers=("good",)))
    assert fakes["good"][0].finished == [False]


def write_attempt(folder: RunFolder, number: int, first: int, last: int) -> None:
    """An attempt that logged every ten updates, and was killed; its numbers are its own."""
    folder.append("attempt", attempt=number, step=first, environment={})
    for step in range(first + 10, last + 1, 10):
        folder.append("metrics", attempt=number, step=step, values={"loss": step + number / 10}, updates_per_s=1.0)


def test_what_killed_attempts_did_in_vain_is_not_shown(tmp_path, fakes):
    folder = RunFolder.create(tmp_path, small_run())
    write_attempt(folder, 1, 0, 90)
    write_attempt(folder, 2, 50, 70)
    with trackers.following(["good"], small_run(), folder) as hear:
        hear(folder.append("attempt", attempt=3, step=60, environment={}))
        hear(folder.append("metrics", attempt=3, step=70, values={"loss": 70.3}, updates_per_s=None))
    told = {step: value for (step, name), value in fakes["good"][0].told().items() if name == "loss"}
    assert told == {10: 10.1, 20: 20.1, 30: 30.1, 40: 40.1, 50: 50.1, 60: 60.2, 70: 70.3}
    assert math.isnan(fakes["good"][0].told()[70, "updates_per_s"])


def test_numbers_of_an_event():
    both = [{"task": 1, "episodes": 2, "success": 0.5, "return": -8.0, "length": 9.0}]
    both.append({"task": 2, "episodes": 2, "success": 1.0, "return": -2.0, "length": 3.0})
    event = {"kind": "evaluation", "step": 7, "seconds": 1.5, "tasks": both, "memory": {"memory_mb": 300.0}}
    assert trackers.numbers(event) == {
        "evaluation/success": 0.75,
        "evaluation/success/task1": 0.5,
        "evaluation/success/task2": 1.0,
        "evaluation/return": -5.0,
        "evaluation/return/task1": -8.0,
        "evaluation/return/task2": -2.0,
        "evaluation/length": 6.0,
        "evaluation/length/task1": 9.0,
        "evaluation/length/task2": 3.0,
        "evaluation/seconds": 1.5,
        "memory_mb": 300.0,
    }
    diverged = {"kind": "metrics", "step": 7, "values": {"model_error/10": None}, "updates_per_s": 2.0}
    assert str(trackers.numbers(diverged)) == "{'model_error/10': nan, 'updates_per_s': 2.0}"
    assert trackers.numbers({"kind": "end", "step": 7}) == {}


SUITE = f"""\
name: tiny
about: one run of random actions
steps: 20
seeds: [0]
tasks: [{TASK}]
evaluation: {{every: 20, episodes: 1, parallel: 1}}
agents: {{random_actions: }}
"""


@pytest.fixture
def call(tmp_path, monkeypatch, capsys, data_root):
    """Calls `mac-bench` in a folder with a suite; its exit code and what it says on stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAC_BENCH_DATA", str(data_root))
    for name in ("MAC_BENCH_TRACE", "MAC_BENCH_RUNS"):
        monkeypatch.delenv(name, raising=False)
    Path("tiny.yaml").write_text(SUITE)

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["mac-bench", *arguments])
        monkeypatch.setattr(sys, "path", list(sys.path))
        try:
            cli.main()
        except SystemExit as leaving:
            return int(leaving.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    return call


@pytest.mark.parametrize("verb", ["run", "train"])
def test_a_tracker_that_cannot_be_is_one_line_before_anything_is_written(verb, call, monkeypatch):
    error = "mac-bench: no tracker 'comet'; there are: tensorboard, wandb\n"
    assert call(verb, "tiny.yaml", "--track", "tensorboard", "--track", "comet") == (2, error)

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    Path("wandb").mkdir()  # as wandb itself makes them in many places: no package
    error = "mac-bench: tracker wandb needs a package that is not installed; pip install wandb\n"
    assert call(verb, "tiny.yaml", "--track", "wandb") == (2, error)
    assert not Path("runs").exists()


def test_whoever_calls_train_is_told_before_anything_is_written(tmp_path, data_root):
    with pytest.raises(UserError, match="no tracker 'comet'"):
        train(small_run(), tmp_path / "runs", data_root, Options(trackers=("comet",)))
    assert not (tmp_path / "runs").exists()


def test_the_queue_hands_trackers_on_to_its_runs(call):
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    assert call("run", "tiny.yaml", "--track", "tensorboard") == (0, "")
    (folder,) = (path.parent for path in Path("runs").glob("*/config.json"))
    assert shown_by_tensorboard(folder) == as_float32(logged(folder))


def as_float32(numbers: dict[tuple[int, str], float]) -> dict[tuple[int, str], float]:
    """TensorBoard's files hold no more."""
    return {key: float(np.float32(value)) for key, value in numbers.items()}


def shown_by_tensorboard(folder: Path) -> dict[tuple[int, str], float]:
    """What TensorBoard reads from a run folder, by step and name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    points = [((point.step, name), point.value) for name in read.Tags()["scalars"] for point in read.Scalars(name)]
    assert len(points) == len(dict(points)), "a step is shown twice"
    return dict(points)


def test_tensorboard_shows_the_log_and_no_step_twice(tmp_path, data_root, monkeypatch):
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    run, options = small_run(), Options(trackers=("tensorboard",))
    stop_before_evaluation(monkeypatch)
    assert train(run, tmp_path, data_root, options).state == "stopped"
    assert shown_by_tensorboard(tmp_path / run.id) == as_float32(logged(tmp_path / run.id))
    assert train(run, tmp_path, data_root, options).state == "finished"
    assert len(list((tmp_path / run.id / "tensorboard").iterdir())) == 2
    assert shown_by_tensorboard(tmp_path / run.id) == as_float32(logged(tmp_path / run.id))


TELL_WANDB = """
import socket, sys
from pathlib import Path

def connect(self, address, original=socket.socket.connect):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        print("CONNECTS", address, flush=True)
        raise OSError("no network here")
    return original(self, address)

socket.socket.connect = connect
from mac_bench import trackers
from mac_bench.record import RunFolder
folder, first = RunFolder(Path(sys.argv[1])), int(sys.argv[2])
with trackers.following(["wandb"], folder.config(), folder) as hear:
    hear({"kind": "attempt", "step": first})
    for event in folder.read():
        if event["step"] > first:
            hear(event)
"""

READ_WANDB = """
import json, sys
from wandb.proto.wandb_internal_pb2 import Record
from wandb.sdk.internal.datastore import DataStore
store, shown = DataStore(), []
store.open_for_scan(sys.argv[1])
while (data := store.scan_data()) is not None:
    record = Record.FromString(data)
    if record.HasField("run"):
        shown.append(["run", record.run.run_id, record.run.project])
    if record.HasField("history"):
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        shown.append(row)
    if record.HasField("exit"):
        shown.append(["exit", record.exit.exit_code])
store.close()
print(json.dumps(shown))
"""


def test_wandb_shows_the_log_offline_and_calls_nobody(tmp_path, data_root):
    pytest.importorskip("wandb", reason="pip install wandb")
    run = small_run()
    train(run, tmp_path / "runs", data_root)
    folder = tmp_path / "runs" / run.id
    with socket.create_server(("127.0.0.1", 0)) as proxy:  # whatever is not Python would go out through it
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
        proxies = dict.fromkeys(names, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        done = subprocess.run(
            [sys.executable, "-c", TELL_WANDB, str(folder), str(STEPS // 2)],
            env=kept | proxies | {"HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1,localhost"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    read = subprocess.run([sys.executable, "-c", READ_WANDB, str(path)], capture_output=True, text=True, check=True)
    begun, *shown, ended = json.loads(read.stdout)
    assert (begun, ended) == (["run", run.id, "mac-bench"], ["exit", 0])
    steps = [row["_step"] for row in shown]
    assert steps == sorted(set(steps)), "a step is shown twice"
    own = ("_step", "_runtime", "_timestamp")
    told = {(row["_step"], name): value for row in shown for name, value in row.items() if name not in own}
    assert told == logged(folder)
    times = {(event["step"], event["time"]) for event in RunFolder(folder).read()}
    assert {(row["_step"], round(row["_timestamp"], 3)) for row in shown} <= times
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "runs"], "it stays in the run folder"
