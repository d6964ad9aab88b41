"""What a job does with its runs when it comes again, and before it asks to."""

import pytest
from slurm_fakes import fake_slurm, folders, say, sent

from slurm import jobs, submission


@pytest.fixture
def pack(monkeypatch, tmp_path, root):
    """A job with five runs, in this order: fine, out of memory, refused, stuck, and sent elsewhere since."""
    fake_slurm(monkeypatch, tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    runs = folders(root, 5)
    fine, large, wrong, stuck, away = runs
    made = sent(root, [[folder.path.name for folder in runs]], at=1.0)
    say(fine, "stopped", cause="time limit")
    say(large, "failed", cause="out of memory")
    say(wrong, "failed", cause="refused", reason="loss is nan")
    for attempt in (1, 2, 3):
        say(stuck, "stopped", attempt=attempt, cause="time limit", reason="the job's time limit")
    say(away, "stopped", cause="time limit")
    sent(root, [[away.path.name]], "9", name="later", at=2.0)
    return made, runs


def test_a_job_that_comes_again_trains_what_may_go_on_there_and_sends_on_the_rest(root, pack):
    made, runs = pack
    fine, large, wrong, stuck, _ = runs
    assert jobs._mine(root, made, made.arrays[0].profile, runs) == [fine]
    again = [each for each in submission.everything(root) if each.id not in ("sent", "later")]
    assert [list(each.all_runs()) for each in again] == [[large.path.name]]
    assert again[0].arrays[0].profile.memory_gb == 1.5 * made.arrays[0].profile.memory_gb
    assert stuck.status().state == "failed" and stuck.status().reason.startswith("no progress in 3 attempts")
    assert wrong.status().reason == "loss is nan"


def test_the_first_time_a_job_trains_all_of_its_runs(root, pack, monkeypatch):
    """Somebody has submitted them, what failed before too."""
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    made, runs = pack
    assert jobs._mine(root, made, made.arrays[0].profile, runs) == runs


@pytest.mark.parametrize("allowed", [True, False])
def test_a_job_is_queued_again_only_for_runs_that_may_go_on(root, pack, monkeypatch, allowed):
    made, runs = pack
    told = []
    monkeypatch.setattr(jobs.cluster, "tell", lambda verb, names: told.append((verb, names)) or [])
    profile = made.arrays[0].profile.model_copy(update={"requeue": allowed})
    fine, _, wrong, stuck, _ = runs
    jobs._queue_again(root, made, "7", profile, [wrong, stuck])
    assert told == [] and len(submission.everything(root)) == 2, "nobody is left to come again for"
    jobs._queue_again(root, made, "7", profile, [fine, stuck])
    assert told == ([("requeue", ["7"])] if allowed else [])
    sent_on = [
        run for each in submission.everything(root) if each.id not in ("sent", "later") for run in each.all_runs()
    ]
    assert sent_on == ([] if allowed else [fine.path.name])
