"""What state runs are in by all that is known, in the order of truth, and what is done about those that died."""

import os
import re
import time
from pathlib import Path

import pytest
from run_folders import write_suite
from slurm_fakes import NODE, answer, fake_slurm, folders, program, say, sent

from mac_bench.config import Resources
from mac_bench.errors import UserError
from mac_bench.overview import status_of
from mac_bench.record import SILENCE_S, RunFolder
from slurm import cluster, jobs, orders, probe, submission, tend
from slurm.cluster import Job

RUNNING, PENDING, OVER = Job("RUNNING", node="n1"), Job("PENDING", "Resources"), Job("FAILED", node="n1")
SILENT = UserError("squeue: no answer")
LONG = SILENCE_S + 60


def look(monkeypatch, root: Path, known, said: str | None = None, **words) -> tend.Seen:
    """One run of job 7, which has said this, of a job of which this is known."""
    (folder,) = folders(root, 1)
    sent(root, [[folder.path.name]])
    if said:
        say(folder, said, **words)
    answer(monkeypatch, {"7": known} if isinstance(known, Job) else known)
    return tend.look(root, [folder.path.name])[folder.path.name]


TRUTH = [
    # what SLURM knows, what the run said last, in which job -> state, whether it may be sent again, whether it died
    (PENDING, None, "7", "queued", False, False),
    (PENDING, "stopped", "7", "queued", False, False),  # it is queued again
    (PENDING, "running", "7", "queued", False, False),  # its node died, and it comes again
    (PENDING, "running", "hand", "running", False, False),  # somebody trains it meanwhile
    (PENDING, "lost", "7", "queued", False, False),
    (PENDING, "finished", "7", "finished", False, False),
    (RUNNING, None, "7", "starting", False, False),
    (RUNNING, "stopped", "6", "starting", False, False),
    (RUNNING, "running", "7", "running", False, False),
    (RUNNING, "lost", "6", "starting", False, False),
    (RUNNING, "lost", "7", "running", False, False),
    (RUNNING, "finished", "7", "finished", False, False),
    (OVER, None, "7", "ending", False, True),
    (OVER, "running", "7", "ending", False, True),
    (OVER, "stopped", "6", "ending", False, True),
    (OVER, "running", "hand", "running", False, False),
    (OVER, "stopped", "7", "stopped", True, False),
    (OVER, "finished", "7", "finished", False, False),
    ({}, None, "7", "unknown", False, False),
    ({}, "stopped", "6", "unknown", False, False),
    ({}, "running", "7", "running", False, False),
    ({}, "lost", "7", "lost", False, True),
    ({}, "stopped", "7", "stopped", True, False),
    ({}, "finished", "7", "finished", False, False),
    (SILENT, None, "7", "unknown", False, False),
    (SILENT, "stopped", "7", "unknown", False, False),
    (SILENT, "lost", "7", "unknown", False, False),
    (SILENT, "running", "7", "running", False, False),
    (SILENT, "finished", "7", "finished", False, False),
]


@pytest.mark.parametrize(("known", "said", "job", "state", "free", "died"), TRUTH)
def test_the_order_of_truth(monkeypatch, root, known, said, job, state, free, died):
    silent_s = LONG if said == "lost" else 0
    seen = look(monkeypatch, root, known, "running" if said == "lost" else said, job=job, silent_s=silent_s)
    assert (seen.state, seen.free, seen.dead is not None) == (state, free, died)
    assert seen.open == (
        died or state not in ("finished", "lost", "unknown") or (state == "unknown" and known is SILENT)
    )


def test_what_is_not_known_is_said_to_be_unknown(monkeypatch, root):
    assert look(monkeypatch, root, SILENT).reason == "SLURM gives no answer"
    assert look(monkeypatch, root, {}).reason == "SLURM knows nothing of job 7"


def test_an_element_that_slurm_has_no_record_of_was_taken_out_of_the_queue(monkeypatch, tmp_path, root):
    began, removed = folders(root, 2)
    names = [began.path.name, removed.path.name]
    made = sent(root, [[name] for name in names] + [["other"]])
    log = submission.folder(root, made.id) / "log"
    log.mkdir()
    (log / "7_0_0_log.out").write_text("")
    answer(monkeypatch, {})
    assert [tend.look(root, names)[name].state for name in names] == ["unknown", "unknown"]
    assert [tend.look(root, names)[name].dead for name in names] == [Job(""), None]
    answer(monkeypatch, SILENT)
    assert tend.look(root, names)[names[0]].dead is None
    monkeypatch.setattr(cluster, "jobs", lambda wanted: {"7": RUNNING, "7_2": RUNNING})
    seen = tend.look(root, names)
    assert seen[names[1]].dead == Job("CANCELLED") and seen[names[0]].dead == Job("")
    fake_slurm(monkeypatch, tmp_path)
    assert tend.tend(root).continued == 1
    assert status_of(began).cause == "job lost" and removed.order().wish == "cancel"


@pytest.mark.parametrize("wish", ["hold", "cancel"])
def test_an_order_counts_whatever_the_job_does(monkeypatch, root, wish):
    (folder,) = folders(root, 1)
    folder.give_order(wish, "by me")
    seen = look(monkeypatch, root, PENDING)
    assert (seen.state, seen.reason, seen.open) == ({"hold": "held", "cancel": "cancelled"}[wish], "by me", False)


def test_squeue_and_sacct_are_asked_once_and_understood(monkeypatch, tmp_path):
    fake_slurm(monkeypatch, tmp_path)
    asked = tmp_path / "asked"
    program(
        tmp_path / "bin",
        "squeue",
        f"echo squeue $@ >> {asked}; printf '7_0|PENDING|Dependency|\\n7_1|RUNNING|None|n1\\n99|RUNNING|None|n2\\n'",
    )
    program(
        tmp_path / "bin",
        "sacct",
        f"echo sacct >> {asked}; printf '8|CANCELLED by 0|None|n3\\n9_2|NODE_FAIL|None|n4\\n'",
    )
    found = cluster.jobs(["7_0", "7_1", "8", "9_2", "10"])
    assert found.keys() - {"7", "9"} == {"7_0", "7_1", "8", "9_2"}, "and of arrays that they are known at all"
    assert {name: job for name, job in found.items() if name not in ("7", "9")} == {
        "7_0": Job("PENDING", "Dependency"),
        "7_1": Job("RUNNING", node="n1"),
        "8": Job("CANCELLED", node="n3"),
        "9_2": Job("NODE_FAIL", node="n4"),
    }
    assert [line.split()[0] for line in asked.read_text().splitlines()] == ["squeue", "sacct"]
    assert "--array" in asked.read_text().split(), "else waiting elements come as 7_[0-9%2]"
    program(tmp_path / "bin", "sacct", "echo 'sacct: error: Slurm accounting storage is disabled' >&2; exit 1")
    assert cluster.jobs(["8"]) == {}, "without accounting nothing more is known"
    (tmp_path / "bin" / "sacct").unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "bin") + os.pathsep + "/usr/bin:/bin")
    monkeypatch.setattr(cluster.shutil, "which", lambda name: None)
    assert cluster.jobs(["8"]) == {}


def test_a_controller_that_is_busy_is_asked_again_and_one_that_says_no_is_not(monkeypatch, tmp_path):
    fake_slurm(monkeypatch, tmp_path)
    monkeypatch.setattr(cluster.time, "sleep", lambda seconds: None)
    count = tmp_path / "count"
    busy = "squeue: error: slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    program(
        tmp_path / "bin", "squeue", f"echo >> {count}; [ $(wc -l < {count}) -ge 3 ] || {{ echo '{busy}' >&2; exit 1; }}"
    )
    assert cluster.jobs(["7"]) == {} and count.read_text().count("\n") == 3
    program(tmp_path / "bin", "squeue", f"echo >> {count}; echo 'squeue: error: Invalid user' >&2; exit 1")
    with pytest.raises(UserError, match="squeue: Invalid user"):
        cluster.jobs(["7"])
    assert count.read_text().count("\n") == 4


@pytest.fixture
def quick(monkeypatch):
    """No time to wait for files that come late."""
    monkeypatch.setattr(tend, "GRACE_S", 0)


def test_what_died_is_written_down_and_goes_on(monkeypatch, tmp_path, root, quick):
    fake_slurm(monkeypatch, tmp_path)
    died, unborn, done, refused = folders(root, 4)
    sent(root, [[died.path.name, unborn.path.name, done.path.name, refused.path.name]])
    say(died, "running", step=30)
    say(done, "finished", step=1000)
    say(refused, "failed", cause="refused", reason="no such thing")
    answer(monkeypatch, {"7": Job("NODE_FAIL", node="n1")})
    assert str(tend.tend(root)) == "2 continued, 0 given up, 0 undecided"
    assert [status_of(folder).reason for folder in (died, unborn)] == ["the node failed (n1)"] * 2
    assert [status_of(folder).step for folder in (died, unborn)] == [30, 0]
    new = submission.everything(root)[-1]
    assert list(new.all_runs()) == [died.path.name, unborn.path.name] and new.code == "/code"
    assert (status_of(done).state, status_of(refused).state) == ("finished", "failed")
    answer(monkeypatch, {"7": OVER, "100": PENDING})
    assert str(tend.tend(root)) == "0 continued, 0 given up, 0 undecided", "once is enough"


def test_what_dies_again_and_again_is_given_up(monkeypatch, tmp_path, root, quick):
    fake_slurm(monkeypatch, tmp_path)
    (folder,) = folders(root, 1)
    sent(root, [[folder.path.name]])
    given_up = 0
    for job in ("7", *range(100, 112)):
        answer(monkeypatch, {str(job): OVER})
        given_up += tend.tend(root).given_up
    assert given_up == 1 and len(submission.everything(root)) == 10
    assert status_of(folder).state == "failed" and list(folder.read())[-1]["final"] is True
    assert (
        status_of(folder).reason
        == "no progress in 10 attempts: its job ended as FAILED, without a word of this run (n1)"
    )


def hide(folder: RunFolder):
    """As a network disk that shows the status of a run late; returns what shows it."""
    aside = folder.path / "late"
    (folder.path / "status.json").rename(aside)
    return lambda: aside.rename(folder.path / "status.json")


@pytest.mark.parametrize("last", ["finished", "stopped"])
def test_files_that_come_late_are_waited_for(monkeypatch, tmp_path, root, last):
    fake_slurm(monkeypatch, tmp_path)
    clock = [time.time()]
    monkeypatch.setattr(tend.time, "time", lambda: clock[0])
    (folder,) = folders(root, 1)
    sent(root, [[folder.path.name]])
    say(folder, last, step=1000, cause=None if last == "finished" else "signalled")
    show = hide(folder)
    answer(monkeypatch, {"7": Job("COMPLETED")})
    for _ in range(3):
        clock[0] += 29
        assert tend.tend(root) == tend.Tended(late=1), "its job is over, and it has said nothing: nothing is decided"
        assert tend.look(root, [folder.path.name])[folder.path.name].state == "ending"
    show()
    done = tend.tend(root)
    assert done.late == 0 and done.continued == (last == "stopped")
    assert status_of(folder).state == last and len(submission.everything(root)) == 1 + (last == "stopped")


def test_after_the_grace_it_is_decided(monkeypatch, tmp_path, root):
    fake_slurm(monkeypatch, tmp_path)
    (folder,) = folders(root, 1)
    sent(root, [[folder.path.name]])
    answer(monkeypatch, {"7": OVER})
    assert tend.tend(root).late == 1
    now = time.time()
    monkeypatch.setattr(tend.time, "time", lambda: now + tend.GRACE_S + 1)
    assert tend.tend(root) == tend.Tended(continued=1)


def test_a_run_that_finished_as_its_job_was_cancelled_stays_finished(monkeypatch, tmp_path, root):
    fake_slurm(monkeypatch, tmp_path)
    (folder,) = folders(root, 1)
    sent(root, [[folder.path.name]])
    say(folder, "running")  # as a network disk still shows it
    answer(monkeypatch, {"7": Job("CANCELLED")})
    assert tend.tend(root).late == 1 and folder.order() is None
    say(folder, "finished", step=1000)
    tend.tend(root)
    assert status_of(folder).state == "finished" and folder.order() is None


def test_scancel_means_it_until_it_is_taken_back(monkeypatch, tmp_path, root):
    fake_slurm(monkeypatch, tmp_path)
    (folder,) = folders(root, 1)
    name = folder.path.name
    sent(root, [[name]])
    answer(monkeypatch, {"7": Job("CANCELLED")})
    assert tend.tend(root) == tend.Tended() and folder.status() is None
    seen = tend.look(root, [name])[name]
    assert (seen.state, seen.reason) == ("cancelled", "cancelled by scancel")
    done = orders.go(root, [name], "retried by me")
    assert done.continued == 1 and submission.latest(submission.everything(root))[name][1] == "100"
    answer(monkeypatch, {"7": Job("CANCELLED"), "100": PENDING})
    assert tend.tend(root) == tend.Tended() and tend.look(root, [name])[name].state == "queued"


def test_a_retry_waits_for_whoever_tends(monkeypatch, tmp_path, root):
    fake_slurm(monkeypatch, tmp_path)
    (folder,) = folders(root, 1)
    sent(root, [[folder.path.name]])
    answer(monkeypatch, {})
    held = []
    monkeypatch.setattr(RunFolder, "give_order", lambda self, wish, reason: held.append(locked(root)))
    orders.go(root, [folder.path.name], "retried")
    assert held == [True], "else a keeper may see the cancelled job after the order, and cancel again"


def locked(root: Path) -> bool:
    try:
        with submission.lock(root, wait_s=0):
            return False
    except UserError:
        return True


def test_an_array_that_was_refused_is_sent_later(monkeypatch, tmp_path, root):
    fake_slurm(monkeypatch, tmp_path)
    (folder,) = folders(root, 1)
    sent(root, [[folder.path.name]], job=None)
    answer(monkeypatch, {})
    seen = tend.look(root, [folder.path.name])[folder.path.name]
    assert (seen.state, seen.free, seen.open) == ("waiting", True, True)
    assert tend.tend(root) == tend.Tended(continued=1)


def test_what_is_refused_again_is_said_and_stays(monkeypatch, tmp_path, root):
    fake_slurm(monkeypatch, tmp_path, accepts=0)
    (folder,) = folders(root, 1)
    sent(root, [[folder.path.name]], job=None)
    answer(monkeypatch, {})
    assert str(tend.tend(root)).endswith("; sbatch: QOSMaxSubmitJobPerUserLimit")
    assert tend.look(root, [folder.path.name])[folder.path.name].free
    monkeypatch.setattr(cluster, "limits", lambda: (_ for _ in ()).throw(UserError("scontrol: no answer")))
    assert tend.tend(root).refused == "scontrol: no answer", "silence ends no watch"


def test_one_folder_that_cannot_be_written_keeps_no_other_waiting(monkeypatch, tmp_path, root, quick):
    fake_slurm(monkeypatch, tmp_path)
    damaged, fine = folders(root, 2)
    sent(root, [[damaged.path.name, fine.path.name]])
    (damaged.path / "config.json").write_text("{")
    answer(monkeypatch, {"7": OVER})
    assert tend.tend(root).continued == 1
    assert list(submission.everything(root)[-1].all_runs()) == [fine.path.name], "and it is not sent for ever"


def test_a_run_in_other_hands_is_not_sent_again(monkeypatch, tmp_path, root, quick):
    fake_slurm(monkeypatch, tmp_path)
    (folder,) = folders(root, 1)
    sent(root, [[folder.path.name]])
    (folder.path / "attempts").mkdir()
    (folder.path / "attempts" / "1").write_text('{"host": "elsewhere", "job": null}')  # and it is just beginning
    answer(monkeypatch, {"7": OVER})
    assert tend.tend(root) == tend.Tended() and len(submission.everything(root)) == 1


def test_a_queue_on_some_machine_has_its_runs_for_as_long_as_it_lives(monkeypatch, root):
    waiting, failed, done = folders(root, 3)
    names = [folder.path.name for folder in (waiting, failed, done)]
    say(failed, "failed", job=None, cause="error", reason="a defect")
    say(done, "finished", job=None)
    answer(monkeypatch, SILENT)
    queue = submission.new("first", "local", submission.Options(data="/d"))
    queue.runs = names
    with submission.working(root, queue):
        assert [tend.look(root, names)[name].state for name in names] == ["queued", "queued", "finished"]
    assert [tend.look(root, names)[name].state for name in names] == ["waiting", "failed", "finished"]
    assert not any(tend.look(root, names)[name].open for name in names)


def test_a_run_continued_here_after_the_cluster_and_the_other_way_round(monkeypatch, tmp_path, root, quick):
    fake_slurm(monkeypatch, tmp_path)
    (folder,) = folders(root, 1)
    name = folder.path.name
    sent(root, [[name]], at=time.time() - 100)
    say(folder, "stopped", cause="time limit")
    queue = submission.new("first", "local", submission.Options(data="/d"))
    queue.runs = [name]
    submission.write(root, queue)
    say(folder, "running", job=None, attempt=2)
    answer(monkeypatch, {"7": OVER})
    assert tend.look(root, [name])[name].state == "running" and tend.tend(root) == tend.Tended()
    say(folder, "stopped", job=None, attempt=2, cause="signalled")
    assert tend.tend(root) == tend.Tended(), "what somebody stopped here is not sent away"
    answer(monkeypatch, {"7": Job("PENDING", "Priority")})
    assert tend.look(root, [name])[name].state == "queued", "its job is still there, and will go on with it"
    sent(root, [[name]], "8", name="again", at=time.time() + 1)
    answer(monkeypatch, {"8": RUNNING})
    assert tend.look(root, [name])[name].state == "starting"
    say(folder, "running", job="8", attempt=3)
    assert tend.look(root, [name])[name].state == "running"


def test_a_submission_that_cannot_be_read_hides_no_other(root):
    (folder,) = folders(root, 1)
    sent(root, [[folder.path.name]])
    (root / "jobs" / "later").mkdir()
    (root / "jobs" / "later" / "submission.json").write_text('{"of": "a later version"}')
    assert [each.id for each in submission.everything(root)] == ["sent"]


def test_a_cluster_without_arrays_still_takes_single_jobs(monkeypatch, tmp_path):
    fake_slurm(monkeypatch, tmp_path, array_size=0)
    assert cluster.limits() == (1, 10_000)


def test_the_last_submission_is_the_last_in_time(root):
    (folder,) = folders(root, 1)
    sent(root, [[folder.path.name]], "7", name="20300102-0300", at=100)  # before the clock was set back
    sent(root, [[folder.path.name]], "8", name="20300102-0200", at=200)
    assert submission.latest(submission.everything(root))[folder.path.name][1] == "8"


def test_what_was_learned_of_memory_is_asked_for(monkeypatch, tmp_path, root, quick):
    fake_slurm(monkeypatch, tmp_path)
    large, crowded = folders(root, 2)
    before = sent(root, [[large.path.name, crowded.path.name]])
    say(large, "running")
    say(crowded, "failed", cause="out of GPU memory", reason="RESOURCE_EXHAUSTED")
    answer(monkeypatch, {"7": Job("OUT_OF_MEMORY")})
    assert tend.tend(root).continued == 2
    asked = [array.profile for array in submission.everything(root)[-1].arrays]
    assert [(profile.memory_gb, profile.runs_per_job) for profile in asked] == [(3, 2), (2, 1)]
    assert before.profile == NODE and submission.everything(root)[-1].profile == NODE, "not compounded"


def test_what_a_suite_asked_for_a_run_is_asked_again(monkeypatch, tmp_path, root, quick):
    fake_slurm(monkeypatch, tmp_path)
    special, other = folders(root, 2)
    before = sent(root, [[special.path.name], [other.path.name]])
    before.resources = {special.path.name: Resources(memory_gb=77)}
    submission.write(root, before)
    answer(monkeypatch, {"7_0": OVER, "7_1": OVER})
    assert tend.tend(root).continued == 2
    new = submission.everything(root)[-1]
    assert {array.profile.memory_gb: array.packs for array in new.arrays} == {
        77: [[special.path.name]],
        2: [[other.path.name]],
    }
    assert new.resources == before.resources


def test_what_failed_is_open_only_where_it_is_tried_again(monkeypatch, root):
    defect, unlucky, wanted = folders(root, 3)
    names = [folder.path.name for folder in (defect, unlucky, wanted)]
    sent(root, [names])
    say(defect, "failed", cause="refused", reason="no such thing")
    say(unlucky, "failed", cause="killed", reason="SIGKILL")
    say(wanted, "failed", cause="refused", reason="no such thing")
    wanted.give_order("go", "again")
    answer(monkeypatch, {"7": OVER})
    seen = tend.look(root, names)
    assert [(seen[name].state, seen[name].open) for name in names] == [
        ("failed", False),
        ("stopped", True),
        ("stopped", True),
    ]


def test_a_keeper_stays_while_anything_is_undecided(monkeypatch, capsys):
    came = [UserError("another process has been submitting"), tend.Tended(late=2), tend.Tended(continued=1)]
    naps = []

    def tend_(root):
        next_ = came.pop(0)
        if isinstance(next_, UserError):
            raise next_
        return next_

    monkeypatch.setattr(tend, "tend", tend_)
    monkeypatch.setattr(jobs.time, "sleep", naps.append)
    jobs.keep("runs")
    assert not came and len(naps) == 2
    assert "1 continued, 0 given up, 0 undecided" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        (None, "FAILED, and no output in .*: is .* on a disk that nodes share. name another --runs"),
        ("python: not found\n", "FAILED: python: not found .all of it: .*"),
        ("", "FAILED: it printed nothing .*"),
    ],
)
def test_a_trial_that_fails_says_why(monkeypatch, root, printed, said):
    monkeypatch.setattr(probe, "LATE_S", 0)
    answer(monkeypatch, {"7": OVER})
    folder = root / "jobs" / "trial"
    (folder / "log").mkdir(parents=True)
    if printed is not None:
        (folder / "log" / "7_0_log.out").write_text(printed)
    found = probe._awaited("7", root, folder / "answer.json", 60)
    assert found.level == "broken" and re.fullmatch(said, found.text)


def test_a_trial_that_works_or_waits_too_long(monkeypatch, root):
    told = []
    monkeypatch.setattr(cluster, "tell", lambda verb, names: told.append((verb, names)))
    monkeypatch.setattr(probe, "POLL_S", 0)
    answer(monkeypatch, {"7": PENDING})
    file = root / "jobs" / "trial" / "answer.json"
    file.parent.mkdir(parents=True)
    found = probe._awaited("7", root, file, 0.05)
    assert (found.level, told) == ("absent", [("cancel", ["7"])]) and "PENDING Resources" in found.text
    file.write_text('{"host": "n1", "jax": "0.5 on cpu"}')
    assert probe._awaited("7", root, file, 1).text == f"ran on n1 and sees {root}; jax 0.5 on cpu"


def test_jobs_in_which_others_wait_are_left_alone(monkeypatch, root):
    told = []
    monkeypatch.setattr(cluster, "available", lambda: True)
    monkeypatch.setattr(cluster, "tell", lambda verb, names: told.append((verb, list(names))) or [])
    a, b, c, d, done, e, f, go = folders(root, 8)
    sent(
        root,
        [
            [a.path.name, b.path.name],
            [c.path.name],
            [d.path.name],
            [done.path.name, e.path.name],
            [f.path.name, go.path.name],
        ],
    )
    say(done, "finished", step=1000)
    go.give_order("go", "on")
    answer(monkeypatch, {"7_0": PENDING, "7_1": PENDING, "7_2": RUNNING, "7_3": PENDING, "7_4": PENDING})
    orders.stop(root, [a.path.name, c.path.name], "cancel", "by me")
    orders.stop(root, [b.path.name], "cancel", "by me")
    orders.stop(root, [d.path.name], "cancel", "by me")
    orders.stop(root, [e.path.name], "hold", "by me")
    orders.stop(root, [f.path.name], "hold", "by me")
    assert told == [
        ("cancel", ["7_1"]),
        ("cancel", ["7_0"]),
        ("cancel", []),  # who trains it looks
        ("hold", ["7_3"]),  # the other one is done
        ("hold", []),  # the other one is to go on, as was said
    ]
    assert all(folder.order().wish == "cancel" for folder in (a, b, c))


def test_only_what_was_held_is_released(monkeypatch, tmp_path, root):
    fake_slurm(monkeypatch, tmp_path)
    told = []
    monkeypatch.setattr(cluster, "tell", lambda verb, names: told.append((verb, list(names))) or [])
    a, b = folders(root, 2)
    sent(root, [[a.path.name], [b.path.name]])
    answer(monkeypatch, {"7_0": Job("PENDING", "JobHeldUser"), "7_1": PENDING})
    done = orders.go(root, [a.path.name, b.path.name], "by me")
    assert told == [("release", ["7_0"])] and done.continued == 0


def test_watch_ends_when_nothing_is_left_to_come(monkeypatch, root):
    import typer

    from mac_bench import cli_jobs

    stopped, done = folders(root, 2)
    write_suite(root, [("mac", folder.config()) for folder in (stopped, done)])
    queue = submission.new("first", "local", submission.Options(data="/d"))
    queue.runs = [stopped.path.name, done.path.name]
    submission.write(root, queue)
    say(stopped, "stopped", job=None, cause="signalled")
    say(done, "finished", job=None, step=1000)
    monkeypatch.setattr(cli_jobs.time, "sleep", lambda seconds: pytest.fail("it waits for what nobody will do"))
    with pytest.raises(typer.Exit) as end:
        cli_jobs.watch("first", once=False, every=1, runs=root)
    assert end.value.exit_code == 1
