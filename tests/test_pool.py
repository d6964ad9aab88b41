"""The queue, with children that play a run in milliseconds: they keep the run folder's protocol and train nothing."""

import io
import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from mac_bench import overview
from mac_bench.config import EvalConfig, RunConfig
from mac_bench.errors import UserError
from mac_bench.record import RunFolder
from mac_bench.suite import Member
from slurm import child, places, pool

CHILD = """
import json, os, signal, sys, time
folder, does = sys.argv[1], sys.argv[2]

def event(**fields):
    with open(folder + "/events.jsonl", "a") as file:
        file.write(json.dumps({"time": time.time(), "attempt": ATTEMPT, "step": 5, **fields}) + "\\n")

def status(state, reason=None, cause=None):
    if state != "running":
        event(kind="end", state=state, reason=reason, cause=cause)
    with open(folder + "/status.json", "w") as file:
        json.dump({"state": state, "step": 5, "steps": 10, "attempt": ATTEMPT, "reason": reason,
                   "heartbeat": time.time(), "host": "here", "pid": os.getpid()}, file)

def stop(number, frame):
    status("stopped", "SIGTERM", "signalled")
    sys.exit(143)

try:
    ATTEMPT = json.load(open(folder + "/status.json"))["attempt"] + 1
except FileNotFoundError:
    ATTEMPT = 1
print("attempt", ATTEMPT, flush=True)
begin = time.time()
if does == "wait":
    signal.signal(signal.SIGTERM, stop)
    status("running")
    open(folder + "/ready", "w").close()
    time.sleep(60)
if does == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if does == "fail":
    status("failed", "loss is nan", "refused")
    sys.exit(1)
if does == "beaten":
    with open(folder + "/status.json", "w") as file:
        json.dump({"state": "running", "step": 5, "steps": 10, "attempt": ATTEMPT, "heartbeat": time.time(),
                   "host": "far", "pid": 7}, file)
    sys.exit("mac-bench: another process is training this run; leaving it alone")
if does == "refuse":
    print("mac-bench: no data 'x'")
    sys.exit(2)
if does == "slow":
    time.sleep(0.8)
event(kind="evaluation", tasks=[{"success": 0.25}, {"success": 0.75}])
with open(folder + "/times.json", "w") as file:
    json.dump([begin, time.time()], file)
if hasattr(os, "sched_getaffinity"):
    print("cores", sorted(os.sched_getaffinity(0)), flush=True)
status("finished")
"""


def members(count: int, task: str = "a-maze-v0") -> list[Member]:
    evaluation = EvalConfig(every=10)
    return [
        Member(
            "BC",
            RunConfig(
                agent="bc",
                version=1,
                task=task,
                dataset="d",
                seed=seed,
                steps=10,
                settings={},
                evaluation=evaluation,
            ),
        )
        for seed in range(count)
    ]


def play(
    root: Path, count: int, does: dict[int, str], jobs: int = 1, task: str = "a-maze-v0"
) -> tuple[pool.Outcome, str]:
    """Queue runs whose children do what `does` says for their seed, or else finish; the outcome and what was said."""
    runs = members(count, task)
    by_folder = {member.run.id: does.get(member.run.seed, "finish") for member in runs}
    said = io.StringIO()
    outcome = pool.run_pool(
        runs,
        root,
        Path("data"),
        jobs,
        console=Console(file=said, width=160),
        command=lambda folder: [sys.executable, "-S", "-c", CHILD, str(folder), by_folder[folder.name]],
    )
    return outcome, said.getvalue()


def states(outcome: pool.Outcome) -> list[str]:
    return [result.state for result in outcome.results]


def test_one_that_fails_stops_no_other(tmp_path):
    outcome, said = play(tmp_path, 5, {0: "fail", 1: "die", 3: "refuse"})
    assert states(outcome) == ["failed", "failed", "finished", "failed", "finished"]
    assert [result.reason for result in outcome.results] == [
        "loss is nan",
        "no progress in 3 attempts: killed by SIGKILL, perhaps for lack of memory",
        None,
        "no data 'x'",
        None,
    ]
    assert outcome.signal is None
    assert re.search(r"✗ BC a-maze-v0 seed 0: failed after \d+ s: loss is nan", said)
    assert re.search(r"✓ BC a-maze-v0 seed 2: finished in \d+ s, success 50%", said)


@pytest.mark.parametrize(
    ("task", "measure"), [("hopper-medium-v2", "normalised score"), ("antmaze-umaze-v2", "success")]
)
def test_a_score_is_called_what_it_is(tmp_path, task, measure):
    _, said = play(tmp_path, 1, {}, task=task)
    assert f" s, {measure} 50%" in said
    shown = io.StringIO()
    overview.show(Console(file=shown, width=160), overview.entries(tmp_path), tmp_path, live=True)
    header, row = (line.rstrip() for line in shown.getvalue().splitlines()[1:3])
    assert header.endswith(measure) and row.endswith("50%")


def test_one_that_cannot_be_started_stops_no_other(tmp_path):
    (tmp_path / members(1)[0].run.id / "log.txt").mkdir(parents=True)
    outcome, said = play(tmp_path, 3, {})
    assert states(outcome) == ["failed", "finished", "finished"]
    assert "✗ BC a-maze-v0 seed 0: cannot be started: [Errno 21] Is a directory" in said


def test_so_many_at_a_time_and_no_more(tmp_path):
    outcome, _ = play(tmp_path, 6, dict.fromkeys(range(6), "slow"), jobs=3)
    assert states(outcome) == ["finished"] * 6
    times = [json.loads((tmp_path / m.run.id / "times.json").read_text()) for m in members(6)]
    at_once = [sum(begin <= moment < end for begin, end in times) for moment, _ in times]
    assert max(at_once) in (2, 3)


def test_what_is_finished_is_left_alone_and_the_rest_is_tried_again(tmp_path):
    play(tmp_path, 3, {1: "fail"})
    outcome, said = play(tmp_path, 3, {})
    assert states(outcome) == ["finished"] * 3
    assert said.count("finished in") == 1 and "seed 1" in said
    logs = [(tmp_path / m.run.id / "log.txt").read_text() for m in members(3)]
    assert [log.count("attempt") for log in logs] == [1, 2, 1], "logs are appended to, and finished runs not repeated"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_and_the_next_call_continues(tmp_path, number):
    waiting = [tmp_path / member.run.id / "ready" for member in members(2)]

    def interrupt():
        while not all(path.exists() for path in waiting):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    before = signal.getsignal(number)
    outcome, said = play(tmp_path, 3, {0: "wait", 1: "wait"}, jobs=2)
    thread.join()
    assert signal.getsignal(number) == before
    assert states(outcome) == ["stopped", "stopped", "waiting"] and outcome.signal == number
    assert said.count("stopped after") == 2
    outcome, said = play(tmp_path, 3, {}, jobs=2)
    assert states(outcome) == ["finished"] * 3 and "continued from 5" in said


def test_a_run_that_another_process_trains_is_left_alone(tmp_path):
    run = members(1)[0].run
    RunFolder.create(tmp_path, run)
    status = {
        "state": "running",
        "step": 1,
        "steps": 10,
        "attempt": 1,
        "heartbeat": time.time(),
        "host": "far",
        "pid": 7,
    }
    (tmp_path / run.id / "status.json").write_text(json.dumps(status))
    outcome, said = play(tmp_path, 2, {})
    assert states(outcome) == ["running", "finished"]
    assert "seed 0: left alone: process 7 on far is training it" in said


def test_two_queues_never_train_the_same_run(tmp_path):
    outcome, said = play(tmp_path, 1, {0: "beaten"})
    assert states(outcome) == ["running"] and "left alone: process 7 on far is training it" in said


def test_a_run_that_another_process_has_had_for_long_is_no_failure(tmp_path, monkeypatch):
    """As a job finds it that starts late: it waits for the other, and takes over when that is done."""
    run = members(1)[0].run
    folder = RunFolder.create(tmp_path, run)
    status = {
        "state": "running",
        "step": 1,
        "steps": 10,
        "attempt": 1,
        "heartbeat": time.time(),
        "host": "far",
        "pid": 7,
    }
    (folder.path / "status.json").write_text(json.dumps(status))
    said, tried = io.StringIO(), []

    def command(path: Path) -> list[str]:
        tried.append(path)
        if len(tried) == 3:
            (folder.path / "status.json").write_text(json.dumps(status | {"state": "stopped"}))
        return [sys.executable, "-S", "-c", CHILD, str(path), "refuse" if len(tried) < 3 else "finish"]

    monkeypatch.setattr(pool, "RETURN_S", 0.3)
    queue = pool.Queue(members(1), tmp_path, command, Console(file=said, width=160), patient=True)
    queue.go(places.places(1))
    assert [result.state for result in queue.results.values()] == ["finished"] and len(tried) == 3
    assert not any(event.get("state") == "failed" for event in folder.read())


def test_what_the_kernel_killed_for_its_memory_is_known_as_such_and_not_tried_with_as_little(tmp_path, monkeypatch):
    kills = iter(range(100))
    monkeypatch.setattr(child, "_oom_kills", lambda: next(kills))
    outcome, _ = play(tmp_path, 1, {0: "die"})
    assert [result.reason for result in outcome.results] == ["killed by SIGKILL for lack of memory"]
    ends = [event for event in RunFolder(tmp_path / members(1)[0].run.id).read() if event["kind"] == "end"]
    assert [event["cause"] for event in ends] == ["out of memory"]


def test_a_broken_terminal_leaves_no_run_behind(tmp_path, monkeypatch):
    children = []

    class Gone(Console):
        def print(self, *args, **kwargs):
            raise OSError("the terminal is gone")

    def command(folder: Path) -> list[str]:
        return [sys.executable, "-S", "-c", CHILD, str(folder), "wait"]

    class Watched(pool.Child):
        def __init__(self, *args):
            super().__init__(*args)
            children.append(self)

    monkeypatch.setattr(pool, "Child", Watched)
    with pytest.raises(OSError, match="the terminal is gone"):
        pool.run_pool(members(1), tmp_path, Path("data"), console=Gone(), command=command)
    assert children[0].process.wait(timeout=20) != 0


def test_no_jobs_is_an_error(tmp_path):
    with pytest.raises(UserError, match="--jobs is 0; it must be at least 1"):
        play(tmp_path, 1, {}, jobs=0)


def test_folders_that_cannot_be_written_are_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write there"):
        play(tmp_path / "file", 1, {})


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system pins no processes")
def test_the_share_of_cores_reaches_the_process(tmp_path):
    jobs = 2 * len(os.sched_getaffinity(0)) + 1  # so that every share is a single core
    play(tmp_path, jobs, {}, jobs=jobs)
    logs = "".join((tmp_path / member.run.id / "log.txt").read_text() for member in members(jobs))
    expected = [f"cores {sorted(place.cores or ())}" for place in places.places(jobs)]
    assert sorted(line for line in logs.splitlines() if line.startswith("cores")) == sorted(expected)


def test_the_command_is_a_list_of_arguments(tmp_path):
    folder = tmp_path / "a folder; rm -rf"
    command = pool.train_command(Path("my data"), 2, 1)(folder)
    assert command[:5] == [sys.executable, "-m", "mac_bench", "train", "--run"]
    assert str(folder) in command and "my data" in command and "--track" not in command
    tracked = pool.train_command(Path("my data"), 2, 1, ["tensorboard", "wandb"])(folder)
    assert tracked == [*command, "--track", "tensorboard", "--track", "wandb"]
