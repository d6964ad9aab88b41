"""The loop: exact resume whatever kills it, and one clear line for whatever is wrong."""

import errno
import os
import random
import signal
import sys
import threading
import time

import numpy as np
import pytest
from conftest import DATA, GOAL_TASK, TASK
from runs import STEPS, arrays, numbers, small_run, start, stop_before_evaluation

from mac_bench import files, record, registry, tasks
from mac_bench import train as train_module
from mac_bench.config import EvalConfig, RunConfig
from mac_bench.errors import UserError
from mac_bench.generate import generate
from mac_bench.record import Journal, RunFolder
from mac_bench.train import Options, train

OFTEN = Options(checkpoint_minutes=0)


def wait_for(ready, process, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, f"the run ended before it could be interrupted: {process.returncode}"
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.01)


def last_metrics(folder) -> int:
    return max((event["step"] for event in RunFolder(folder).read() if event["kind"] == "metrics"), default=0)


# in a short time one of each framework
KILLED = [pytest.param(name, marks=[pytest.mark.slow] * (name not in ("mac", "mopo"))) for name in registry.names()]


@pytest.mark.parametrize("agent", KILLED)
def test_killed_at_a_random_moment_and_run_again_equals_uninterrupted(agent, tmp_path, data_root):
    task = GOAL_TASK if agent == "gciql" else TASK
    run = small_run(agent, task=task)
    assert train(run, tmp_path / "whole", data_root).state == "finished"

    moment = random.Random().randint(3, STEPS - 20)  # late enough for a checkpoint, early enough to be caught
    # one compiles for itself: on another node nobody has done it before
    own = {"JAX_ENABLE_COMPILATION_CACHE": "false"} if agent == "flow_bc" else {}
    process = start(run, tmp_path / "killed", data_root, **own)
    wait_for(lambda: last_metrics(tmp_path / "killed" / run.id) >= moment, process)
    process.kill()
    process.communicate()
    killed = RunFolder(tmp_path / "killed" / run.id)
    assert killed.status().state == "lost"
    assert train(run, tmp_path / "killed", data_root).state == "finished"

    attempts = [event for event in killed.read() if event["kind"] == "attempt"]
    assert len(attempts) == 2 and attempts[1]["step"] > 0, f"killed at {moment}, it began again from nothing"
    assert numbers(killed.path) == numbers(tmp_path / "whole" / run.id), f"killed at update {moment}"
    assert arrays(killed.path) == arrays(tmp_path / "whole" / run.id), f"killed at update {moment}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_so(number, tmp_path, data_root):
    run = small_run(steps=2000)
    process = start(run, tmp_path, data_root, checkpoint_minutes=60)
    wait_for(lambda: last_metrics(tmp_path / run.id) > 0, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and output.split() == ["stopped"]
    status = RunFolder(tmp_path / run.id).status()
    assert (status.state, status.reason) == ("stopped", signal.Signals(number).name)
    saved = int(files.read_arrays(tmp_path / run.id / "checkpoint.npz")["step"])
    assert saved == status.step > 0


def test_finished_runs_are_left_alone(tmp_path, data_root):
    run = small_run()
    train(run, tmp_path, data_root)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / run.id).iterdir() if path.name != "lock"}
    assert train(run, tmp_path, data_root).state == "finished"
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / run.id).iterdir() if path.name != "lock"}


def test_stopped_during_an_evaluation_it_is_made_up_for(tmp_path, data_root, monkeypatch):
    run = small_run()
    train(run, tmp_path / "whole", data_root)
    waves = stop_before_evaluation(monkeypatch)
    assert train(run, tmp_path / "cut", data_root) == ("stopped", signal.SIGTERM)
    assert waves == [STEPS // 2] and ("evaluation", STEPS // 2) not in numbers(tmp_path / "cut" / run.id)
    assert train(run, tmp_path / "cut", data_root).state == "finished"
    assert numbers(tmp_path / "cut" / run.id) == numbers(tmp_path / "whole" / run.id)


def test_a_signal_between_any_two_lines_still_saves(tmp_path, data_root, monkeypatch):
    run, original, sent = small_run(), Journal.metrics, []

    def interrupted(self, step, metrics, write):
        original(self, step, metrics, write)
        if not sent:  # after the loop has looked whether a signal has come, before it looks again
            sent.append(step)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Journal, "metrics", interrupted)
    assert train(run, tmp_path, data_root, Options(checkpoint_minutes=60)) == ("stopped", signal.SIGTERM)
    saved = int(files.read_arrays(tmp_path / run.id / "checkpoint.npz")["step"])
    assert saved == RunFolder(tmp_path / run.id).status().step == sent[0] + 1


def test_a_second_process_leaves(tmp_path, data_root):
    run = small_run()
    folder = RunFolder.create(tmp_path, run)
    with folder.claim(), pytest.raises(UserError, match=r"another process.* is training this run; leaving it alone"):
        train(run, tmp_path, data_root)
    assert not folder.events.exists()
    assert train(run, tmp_path, data_root).state == "finished"


def test_a_loss_that_is_not_finite_stops_the_run_with_its_reason(tmp_path, data_root):
    run = small_run(learning_rate=1e30)
    with pytest.raises(UserError, match=r"loss/actor is (nan|inf) at update \d+"):
        train(run, tmp_path, data_root, OFTEN)
    folder = RunFolder(tmp_path / run.id)
    assert folder.status().state == "failed" and "loss/actor is" in folder.status().reason
    if (folder.path / "checkpoint.npz").exists():  # what was saved before is finite
        saved = files.read_arrays(folder.path / "checkpoint.npz")
        assert all(np.isfinite(array).all() for array in saved.values())


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, data_root, monkeypatch):
    run = small_run()
    train(run, tmp_path / "whole", data_root)
    original, calls = np.savez, []

    def full(file, *arguments, **arrays):
        calls.append(file)
        if len(calls) == 20:
            file.write(b"half a check")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(file, *arguments, **arrays)

    monkeypatch.setattr(files.np, "savez", full)
    with pytest.raises(UserError, match="No space left on device; the last checkpoint is kept"):
        train(run, tmp_path / "full", data_root, OFTEN)
    folder = RunFolder(tmp_path / "full" / run.id)
    assert folder.status().state == "failed" and "No space left" in folder.status().reason
    assert not [path for path in folder.path.iterdir() if "tmp" in path.name]
    assert int(files.read_arrays(folder.path / "checkpoint.npz")["step"]) == 19
    assert train(run, tmp_path / "full", data_root).state == "finished"
    assert arrays(folder.path) == arrays(tmp_path / "whole" / run.id)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, data_root):
    run = small_run()
    train(run, tmp_path / "whole", data_root)
    folder = RunFolder(tmp_path / "whole" / run.id)
    newest, previous = folder.path / "checkpoint.npz", folder.path / "checkpoint.previous.npz"
    step = folder.load_checkpoint(lambda path: int(files.read_arrays(path)["step"]))
    assert step == STEPS and int(files.read_arrays(previous)["step"]) == STEPS // 2
    whole = newest.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", whole[:200] + bytes(64) + whole[264:]):
        newest.write_bytes(damage)
        assert folder.load_checkpoint(lambda path: int(files.read_arrays(path)["step"])) == STEPS // 2
        assert not newest.exists()  # or the next save would push it over the good one
        newest.with_suffix(".damaged").unlink()
    (folder.path / "checkpoint.new.npz").write_bytes(whole)  # killed between the two renames of a save
    assert folder.load_checkpoint(lambda path: int(files.read_arrays(path)["step"])) == STEPS
    (folder.path / "checkpoint.new.npz").unlink()
    previous.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="no other checkpoint is left"):
        folder.load_checkpoint(lambda path: int(files.read_arrays(path)["step"]))


def test_other_data_than_it_began_with_are_refused(tmp_path, data_root):
    run = small_run()
    process = start(run, tmp_path / "runs", data_root)
    wait_for(lambda: last_metrics(tmp_path / "runs" / run.id) > 1, process)
    process.kill()
    process.communicate()
    generate(DATA, tmp_path / "other", episodes=3, length=100, seed=1)
    with pytest.raises(UserError, match=r"this run began with data .*, but here are"):
        train(run, tmp_path / "runs", tmp_path / "other")
    assert train(run, tmp_path / "runs", data_root).state == "finished"


def test_a_checkpoint_of_other_dimensions_is_refused(tmp_path, data_root):
    small, large = small_run(steps=4), small_run(steps=4, hidden=[48, 48])
    train(small, tmp_path, data_root)
    folder = RunFolder.create(tmp_path, large)
    (folder.path / "checkpoint.npz").write_bytes((tmp_path / small.id / "checkpoint.npz").read_bytes())
    with pytest.raises(UserError, match=r"has shape .* there and .* here"):
        train(large, tmp_path, data_root)


def test_wrong_input_is_one_line_before_anything_is_lost(tmp_path, data_root):
    cases = {
        "no task 'pointmaze": small_run().model_copy(update={"task": "pointmaze-tiny-navigate-v0"}),
        "planned for version 99 of bc": small_run().model_copy(update={"version": 99}),
        "mac-bench data generate": small_run().model_copy(update={"dataset": "pointmaze-large-navigate-v0"}),
    }
    for words, run in cases.items():
        with pytest.raises(UserError, match=words) as caught:
            train(run, tmp_path, data_root)
        assert "\n" not in str(caught.value)
        assert RunFolder(tmp_path / run.id).status().state == "failed"


def test_a_folder_that_cannot_be_written_is_named(tmp_path, data_root):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file.*: cannot write there .*choose another --runs"):
        train(small_run(), tmp_path / "file", data_root)


def counting(steps: int) -> RunConfig:
    """A run that takes a long time, and does nothing in it."""
    agent = "toy_agents.counting"
    settings = registry.settings(agent, {}, "test").model_dump(mode="json")
    return RunConfig(
        agent=agent,
        version=registry.module(agent).VERSION,
        task=TASK,
        dataset=DATA,
        seed=0,
        steps=steps,
        settings=settings,
        evaluation=EvalConfig(every=steps, episodes=1),
    )


def test_an_attempt_after_which_another_began_writes_no_more(tmp_path, data_root, monkeypatch):
    """As on a node that the cluster has lost, and that has not died."""
    run = small_run(steps=400)
    folder = RunFolder.create(tmp_path, run)
    original, seen = Journal.beat, []

    def beat(journal):
        original(journal)
        if not seen:
            (folder.path / "attempts" / str(journal.attempt + 1)).touch()
            seen.extend([(folder.path / "status.json").read_bytes(), folder.events.read_bytes()])

    monkeypatch.setattr(Journal, "beat", beat)
    monkeypatch.setattr(train_module, "ORDERS_S", -1.0)
    assert train(run, tmp_path, data_root).state == "running"
    assert [(folder.path / "status.json").read_bytes(), folder.events.read_bytes()] == seen
    assert not (folder.path / "checkpoint.npz").exists()


def test_there_are_signs_of_life_while_data_are_loaded(tmp_path, data_root, monkeypatch):
    run = small_run()
    original, beats = tasks.load, []

    def slow(*arguments):
        before = RunFolder(tmp_path / run.id).status().heartbeat
        deadline = time.monotonic() + 20
        while RunFolder(tmp_path / run.id).status().heartbeat == before and time.monotonic() < deadline:
            time.sleep(0.01)
        beats.append(RunFolder(tmp_path / run.id).status().heartbeat > before)
        return original(*arguments)

    monkeypatch.setattr(record, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(tasks, "load", slow)
    assert train(run, tmp_path, data_root).state == "finished" and beats == [True]


@pytest.mark.parametrize(("wish", "state"), [("hold", "held"), ("cancel", "cancelled")])
def test_an_order_is_obeyed_in_the_middle_and_before_it_begins(tmp_path, data_root, monkeypatch, wish, state):
    monkeypatch.setenv("COUNTING_NAP_MS", "20")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # where the agent is
    monkeypatch.setattr(train_module, "ORDERS_S", 0.05)
    run = counting(20_000)
    folder = RunFolder.create(tmp_path, run)

    def order() -> None:
        while not (folder.path / "checkpoint.npz").exists():
            time.sleep(0.02)
        folder.give_order(wish, "by me")

    thread = threading.Thread(target=order)
    thread.start()
    assert train(run, tmp_path, data_root, OFTEN) == (state, None)
    thread.join()
    status = folder.status()
    assert (status.state, status.reason, status.cause) == (state, "by me", "ordered")
    assert 0 < status.step < 20_000 and int(files.read_arrays(folder.path / "checkpoint.npz")["step"]) == status.step
    log = list(folder.read())
    assert train(run, tmp_path, data_root, OFTEN) == (state, None)
    assert list(folder.read()) == log and folder.status() == status, "nothing was begun"
    folder.give_order("go", "on")
    process = start(run, tmp_path, data_root)
    wait_for(lambda: len([event for event in folder.read() if event["kind"] == "attempt"]) == 2, process)
    process.terminate()
    assert process.communicate(timeout=120)[0].strip() == "stopped"
    attempts = [event["step"] for event in folder.read() if event["kind"] == "attempt"]
    assert attempts == [0, status.step], "it goes on where the order stopped it"


def test_signals_that_come_while_the_last_words_are_written_cut_nothing_off(tmp_path, data_root, monkeypatch):
    """A cluster and the queue in its job both send SIGTERM."""
    run = small_run(steps=400)
    original, sent = Journal.end, []

    def end(journal, *words):
        os.kill(os.getpid(), signal.SIGTERM)
        sent.append(words)
        original(journal, *words)

    stop_before_evaluation(monkeypatch)
    monkeypatch.setattr(Journal, "end", end)
    assert train(run, tmp_path, data_root).state == "stopped" and len(sent) == 1
    assert RunFolder(tmp_path / run.id).status().state == "stopped"
