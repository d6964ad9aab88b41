"""The words that SLURM writes into the output of a job that it ends, as SLURM 22.05 to 24.11 write them."""

import pytest

from slurm import ends
from slurm.cluster import Job

AT = "CANCELLED AT 2030-01-02T03:04:05"
WORDS = {
    f"slurmstepd: error: *** JOB 12 ON n1 {AT} DUE TO TIME LIMIT ***": ends.TIME_LIMIT,
    f"slurmstepd-n1: error: *** JOB 12 ON n1 {AT} DUE TO PREEMPTION ***": ends.PREEMPTED,
    f"slurmstepd: error: *** JOB 12 ON n1 {AT} DUE TO JOB REQUEUE ***": ends.REQUEUED,
    f"error: *** JOB 12 ON n1 {AT} DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***": ends.NODE_FAILED,
    f"slurmstepd: error: *** JOB 12 ON n1 {AT} ***": ends.CANCELLED,
    "slurmstepd: error: Detected 1 oom_kill event in StepId=12.batch. Some of the step tasks have been OOM Killed.": (
        ends.OUT_OF_MEMORY
    ),
    "slurmstepd: error: Detected 1 oom-kill event(s) in step 12.0 cgroup.": ends.OUT_OF_MEMORY,
    "slurmstepd: error: Job 12 exceeded memory limit (2000 > 1000), being killed": ends.OUT_OF_MEMORY,
    "slurmstepd: error: Step 12.0 exceeded memory limit (2000 > 1000), being killed": ends.OUT_OF_MEMORY,
    "srun: Job step aborted: Waiting up to 32 seconds for job step to finish.": None,
    f"slurmstepd: error: *** STEP 12.0 ON n1 {AT} ***": None,
    f"slurmstepd: error: *** STEP 12.0 ON n1 {AT} DUE TO TIME LIMIT ***": None,
    f"slurmstepd: error: *** JOB 12 ON n1 {AT} DUE TO SOMETHING NEW ***": None,
    "the run cancelled its plans due to time limit": None,
    "": None,
}


@pytest.fixture
def log(tmp_path):
    return tmp_path / "7_0_log.out"


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (["slurmstepd-n1: error: execve(): nopython: No such file or directory", "srun: error: n1: task 0: Exited"],
         "execve(): nopython: No such file or directory"),
        (["/spool/script: line 9: module: command not found"], "/spool/script: line 9: module: command not found"),
        (["ModuleNotFoundError: No module named 'slurm'", "srun: error: n1: task 0: Exited with exit code 1"],
         "ModuleNotFoundError: No module named 'slurm'"),
        (["· bc seed 0: started", "✗ bc cube seed 1: error", "srun: error: n1: task 0: Killed"], None),
        (["slurmstepd-n1: error: *** STEP 12.0 ON n1 CANCELLED AT 2026-11-26T14:00:31 ***"], None),
    ],
)  # fmt: skip
def test_a_job_that_never_began_says_why(log, said, complaint):
    assert ends.complaint(log) is None
    log.write_text("\n".join([f"error of a start before {ends.START.decode()}", *said]))
    assert ends.complaint(log) == complaint
    end = ends.of(Job("FAILED"), log, began=False)
    assert (end.cause, complaint is None or complaint in end.reason) == ("error" if complaint else "job lost", True)
    assert ends.of(Job("FAILED"), log).cause == "job lost", "a run that had begun has its own words"


def test_a_job_that_came_again_has_a_word_for_each_start(log):
    start, lines = f"submitit INFO - {ends.START.decode()}(job_id=7)", list(WORDS)
    log.write_text("\n".join([start, lines[2], start, "it trains"]))
    assert ends.last_word(log) is None, "the word was of the start before"
    assert ends.last_word(log, start=2) == WORDS[lines[2]]
    assert ends.last_word(log, start=9) is None


@pytest.mark.parametrize("line", WORDS)
def test_each_line_means_what_it_says(log, line):
    log.write_text(f"mac-bench: something\n{line}\nsrun: error: n1: task 0: Terminated\n")
    assert ends.last_word(log) == WORDS[line]


def test_the_last_line_counts_and_a_log_may_be_absent_long_or_no_text(log):
    assert ends.last_word(log) is None
    lines = list(WORDS)
    log.write_text("\n".join([lines[2], "it was queued again", lines[0], lines[9]]))
    assert ends.last_word(log) == ends.TIME_LIMIT
    log.write_bytes(b"\xff\xfe" + "\n".join([lines[2], "x" * 5 * ends.TAIL_BYTES, lines[1], "y"]).encode())
    assert ends.last_word(log) == ends.PREEMPTED
    log.write_text("\n".join([lines[2], "x" * ends.TAIL_BYTES]))
    assert ends.last_word(log) is None, "only the end of it is read"


@pytest.mark.parametrize(
    ("state", "end"),
    [
        ("TIMEOUT", ends.TIME_LIMIT),
        ("DEADLINE", ends.TIME_LIMIT),
        ("PREEMPTED", ends.PREEMPTED),
        ("NODE_FAIL", ends.NODE_FAILED),
        ("BOOT_FAIL", ends.NODE_FAILED),
        ("CANCELLED", ends.CANCELLED),
        ("OUT_OF_MEMORY", ends.OUT_OF_MEMORY),
    ],
)
def test_slurms_state_comes_before_its_words(log, state, end):
    log.write_text(next(line for line, meaning in WORDS.items() if meaning not in (end, None)))
    assert ends.of(Job(state), log) == end
    assert ends.of(Job(state, node="n1"), log).reason == f"{end.reason} (n1)"


def test_what_is_not_known_is_not_made_up(log):
    log.write_text(next(iter(WORDS)))
    assert ends.of(Job("FAILED"), log) == ends.TIME_LIMIT
    log.write_text("nothing")
    killed = ends.of(Job("FAILED", node="n2"), log)
    assert killed == ("stopped", "job lost", "its job ended as FAILED, without a word of this run (n2)")
    gone = ends.of(Job(""), log)
    assert gone == ("stopped", "job lost", "its job is gone, and there is no sign of life, without a word of this run")
