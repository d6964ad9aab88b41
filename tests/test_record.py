"""Who may train a run, and what is said of it by those who did not: claims, last words, orders."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from run_folders import planned

from mac_bench import record
from mac_bench.errors import UserError
from mac_bench.record import JOB, SILENCE_S, Journal, Order, RunFolder, Status, standing


@pytest.fixture
def folder(root) -> RunFolder:
    return RunFolder.create(root, planned())


@pytest.fixture
def many_hosts(monkeypatch):
    """Locks that other machines do not see; returns what moves this thread to another machine."""
    here = threading.local()
    monkeypatch.setattr(record.fcntl, "flock", lambda file, how: None)
    monkeypatch.setattr(record.socket, "gethostname", lambda: getattr(here, "name", "n0"))

    @contextmanager
    def on(host: str, job: str | None = None):
        here.name = host
        if job:
            monkeypatch.setenv(JOB, job)
        yield
        monkeypatch.delenv(JOB, raising=False)
        here.name = "n0"

    return on


def begin(folder: RunFolder, attempt: int) -> Journal:
    """Say that this attempt runs."""
    journal = Journal(folder, 1000, attempt, folder.status())
    journal.status("running")
    return journal


def age(folder: RunFolder, seconds: float) -> None:
    """As if the last sign of life was so long ago."""
    path = folder.path / "status.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "heartbeat": time.time() - seconds}))
    for ticket in (folder.path / "attempts").iterdir():
        os.utime(ticket, (time.time() - seconds,) * 2)


def test_attempts_are_numbered(folder):
    for attempt in (1, 2, 3):
        with folder.claim() as number:
            assert number == attempt
            begin(folder, number).end("stopped", "SIGTERM", "signalled")


def test_on_one_machine_the_lock_decides(folder):
    with folder.claim() as attempt:
        begin(folder, attempt)
        taken = f"another process .process {os.getpid()} on .*is training this run"
        with pytest.raises(UserError, match=taken), folder.claim():
            pass
    with folder.claim() as attempt:
        assert attempt == 2, "it died with its owner, whatever its status says"


def test_two_machines_that_start_at_the_same_moment(folder, many_hosts):
    """Neither sees the other's lock or status: the ticket decides."""
    together, won, lost = threading.Barrier(8), [], []

    def start(number: int) -> None:
        with many_hosts(f"n{number}"):
            together.wait()
            try:
                with folder.claim() as attempt:
                    won.append(attempt)
                    time.sleep(0.5)
                    begin(folder, attempt)
            except UserError as error:
                lost.append(str(error))

    threads = [threading.Thread(target=start, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [1] and len(lost) == 7
    assert all("another process is training this run" in words for words in lost)


def test_another_machine_is_believed_until_it_is_silent(folder, many_hosts):
    with many_hosts("n1"), folder.claim() as attempt:
        begin(folder, attempt)
    with many_hosts("n2"):
        with pytest.raises(UserError, match="on n1"), folder.claim():
            pass
        age(folder, SILENCE_S + 1)
        with folder.claim() as attempt:
            assert attempt == 2


def test_a_ticket_of_another_machine_is_believed_until_it_is_old(folder, many_hosts):
    tickets = folder.path / "attempts"
    tickets.mkdir()
    (tickets / "1").write_text(json.dumps({"host": "n1", "job": None}))
    with many_hosts("n2"):
        with pytest.raises(UserError, match="leaving it alone"), folder.claim():
            pass
        (tickets / "1").write_text("")  # it is just being written
        with pytest.raises(UserError, match="leaving it alone"), folder.claim():
            pass
        os.utime(tickets / "1", (1, 1))
        with folder.claim() as attempt:
            assert attempt == 2
            begin(folder, attempt)
    assert json.loads((tickets / "2").read_text()) == {"host": "n2", "job": None}


def test_a_job_that_was_queued_again_goes_on_at_once_on_another_machine(folder, many_hosts):
    with many_hosts("n1", "7_3"), folder.claim() as attempt:
        begin(folder, attempt)
    with many_hosts("n2", "7_4"), pytest.raises(UserError), folder.claim():
        pass
    with many_hosts("n2", "7_3"), folder.claim() as attempt:
        assert attempt == 2
        # it dies before it says anything, and the job comes once more
        (folder.path / "attempts" / "3").write_text(json.dumps({"host": "n2", "job": "7_3"}))
    with many_hosts("n3", "7_3"), folder.claim() as attempt:
        begin(folder, attempt)
        assert attempt == 2, "its number was given back"
    with many_hosts("n4", "7_3"), folder.claim() as attempt:
        assert attempt == 4


def test_who_only_looked_leaves_the_run_to_others_at_once(folder, many_hosts):
    with many_hosts("n1"), folder.claim() as first:
        pass
    with many_hosts("n2"), folder.claim() as second:
        assert first == second == 1


def test_a_file_system_without_locks_is_said(folder, monkeypatch):
    def refuse(file, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(record.fcntl, "flock", refuse)
    words = r"this file system cannot lock files \(Function not implemented\)"
    with pytest.raises(UserError, match=words), folder.claim():
        pass


def test_last_words_take_the_place_of_what_was_said(folder):
    with folder.claim() as attempt:
        begin(folder, attempt).end("stopped", "SIGTERM", "signalled")
    assert folder.conclude(1, "stopped", "the job's time limit", "time limit")
    status = folder.status()
    assert (status.state, status.cause, status.reason) == ("stopped", "time limit", "the job's time limit")
    assert [event["cause"] for event in folder.read()] == ["signalled", "time limit"]
    assert not folder.conclude(2, "failed", "x", "error"), "no such attempt"
    with folder.claim() as attempt:
        begin(folder, attempt)
        assert not folder.conclude(2, "failed", "x", "error"), "it is in hands"
    assert not folder.conclude(1, "failed", "x", "error"), "there is a later one"
    assert folder.conclude(2, "failed", "given up", "killed", final=True)
    assert list(folder.read())[-1]["final"] is True


def test_nothing_is_said_against_a_finished_run(folder):
    assert not folder.conclude(1, "failed", "x", "error"), "it has not begun"
    with folder.claim() as attempt:
        begin(folder, attempt).end("finished")
    assert not folder.conclude(1, "failed", "x", "error") and not folder.bury(1000, "failed", "x", "error")
    assert folder.status().state == "finished" and len(list(folder.read())) == 1
    with folder.claim() as attempt:
        assert attempt == 2, "and no number was used up"


def test_what_a_killed_writer_left_is_cleared_before_last_words(folder):
    with folder.claim() as attempt:
        begin(folder, attempt)
    with open(folder.events, "a") as events:
        events.write('{"kind": "metr')
    (folder.path / ".status.json.99.tmp").write_text("{")
    assert folder.conclude(1, "stopped", "killed", "killed")
    assert [event["kind"] for event in folder.read()] == ["end"] and not list(folder.path.glob(".*.tmp"))


def test_an_attempt_that_never_began_is_written_down(folder):
    assert folder.bury(1000, "stopped", "the node failed", "node failed", "7_1")
    status = folder.status()
    assert (status.attempt, status.step, status.state, status.job) == (1, 0, "stopped", "7_1")
    with folder.claim() as attempt:
        assert not folder.bury(1000, "failed", "x", "error"), "it is in other hands"
        journal = begin(folder, attempt)
        journal.step = 30
        journal.end("stopped", "SIGTERM", "signalled")
    assert folder.bury(1000, "failed", "exit code 1", "error") and folder.status().step == 30


def said(state, at=10.0, step=5) -> Status:
    return Status(state=state, step=step, steps=10, attempt=1, reason="said", heartbeat=at, host="h", pid=1)


HOLD, CANCEL = (Order(wish=wish, time=20.0, reason="by me") for wish in ("hold", "cancel"))
GO = Order(wish="go", time=20.0, reason="again")


@pytest.mark.parametrize(
    ("status", "order", "expected"),
    [
        (None, None, ("waiting", "")),
        (said("failed"), None, ("failed", "said")),
        (None, HOLD, ("held", "by me")),
        (said("stopped"), CANCEL, ("cancelled", "by me")),
        (said("failed"), HOLD, ("held", "by me")),
        (said("cancelled"), HOLD, ("held", "by me")),
        (said("running"), CANCEL, ("running", "said")),  # it will obey in seconds
        (said("lost"), CANCEL, ("lost", "said")),
        (said("finished"), CANCEL, ("finished", "said")),
        (None, GO, ("waiting", "")),
        (said("stopped"), GO, ("stopped", "said")),
        (said("failed"), GO, ("stopped", "again")),
        (said("held", step=0), GO, ("waiting", "again")),
        (said("failed", at=30.0), GO, ("failed", "said")),  # that was after it
        (said("running"), GO, ("running", "said")),
    ],
)
def test_what_was_said_last_and_what_was_ordered_since(status, order, expected):
    assert standing(status, order) == expected


def test_an_order_that_cannot_be_read_is_none(folder):
    assert folder.order() is None
    folder.give_order("hold", "by me")
    assert folder.order().wish == "hold"
    for text in ("", "{", '{"wish": "fly", "time": 1, "reason": ""}'):
        (folder.path / "order.json").write_text(text)
        assert folder.order() is None


def test_the_lock_is_let_go_when_its_owner_dies(folder):
    code = (
        "import os, sys; from pathlib import Path; from mac_bench.record import Journal, RunFolder\n"
        "folder = RunFolder(Path(sys.argv[1]))\n"
        "with folder.claim() as attempt:\n"
        "    Journal(folder, 1000, attempt, None).status('running')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder.path)]).returncode == -9
    assert folder.status().state == "lost" and folder.status().host == socket.gethostname()
    with open(folder.path / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with folder.claim() as attempt:
        assert attempt == 2
