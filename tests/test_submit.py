"""What sbatch is given: the same text as ever, nothing from a name ever read as shell, arrays as the cluster allows."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_fakes import fake_slurm, program

from mac_bench.config import Resources, parse
from mac_bench.errors import UserError
from slurm import profile, submission, submit
from slurm.policy import Decision
from slurm.profile import Profile
from slurm.submission import Array, Options, Submission
from slurm.submit import Ask

GOLDEN = Path(__file__).parent / "reference" / "sbatch"
NASTY = """it's "a" $(touch pwned) `touch pwned`; touch pwned & é #\t*"""
CPU = profile.load("cpu")


def fresh(root: Path, suite: str = "small") -> Submission:
    code = str(root / "code" / "c0de")
    options = Options(data="/data")
    return Submission(
        id="20300102-030405-abcd", suite=suite, place="slurm", time=0, host="h", pid=1, options=options, code=code
    )


def asks(count: int, asked: Profile, decision: Decision = Decision(True, "")) -> list[Ask]:  # noqa: B008
    return [Ask(f"run{number}", asked, decision) for number in range(count)]


EXTRA = {"constraint": "a100&nvlink", "exclude": "n[1-3]", "exclusive": True, "contiguous": False, "nice": 50}
PROFILES = {
    "cpu": CPU,
    "a100-shared": profile.load("a100-shared"),
    "container": profile.load("container"),
    "no-requeue": CPU.model_copy(update={"requeue": False}),
    "extra": parse(Profile, {"time_minutes": 60, "extra": EXTRA, "account": "lab", "qos": "long"}, "extra"),
}


@pytest.mark.parametrize("name", PROFILES)
def test_the_text_for_sbatch_is_the_one_on_record(name):
    root = Path("/scratch/me/runs")
    found = submit.arrays(asks(9, PROFILES[name]), 1001)
    text = submit.text(fresh(root), root, found[0], "afterany:7" if name == "cpu" else None)
    assert text.replace(shlex.quote(sys.executable), "PYTHON") == (GOLDEN / f"{name}.sh").read_text()


def run_as_sbatch_would(text: str, folder: Path, **environment: str) -> tuple[list[str], str]:
    """The words that srun gets, and PYTHONPATH there."""
    program(folder / "bin", "srun", f'printf "%s\\0" "$@" > {folder}/words; printf "%s" "$PYTHONPATH" > {folder}/path')
    (folder / "job.sh").write_text(text)
    subprocess.run(["bash", "-n", folder / "job.sh"], check=True)
    subprocess.run(
        ["bash", folder / "job.sh"], cwd=folder, check=True, env={"PATH": f"{folder}/bin:/usr/bin:/bin", **environment}
    )
    return (folder / "words").read_text().split("\0")[:-1], (folder / "path").read_text()


@pytest.mark.parametrize("suite", [NASTY, "two\nlines", "\n#SBATCH --wrap=x", "%j", "-rf", ""])
def test_no_name_is_read_as_shell(tmp_path, suite):
    root = tmp_path / NASTY
    text = submit.text(fresh(root, suite), root, submit.arrays(asks(1, CPU), 9)[0])
    words, path = run_as_sbatch_would(text, tmp_path, PYTHONPATH="before it")
    log = f"{root}/jobs/20300102-030405-abcd/log"
    python = [sys.executable, "-u", "-m", "submitit.core._submit", log]
    assert words == ["--unbuffered", "--output", f"{log}/%j_%t_log.out", "--cpus-per-task=4", *python]
    assert path == f"{root}/code/c0de:before it:{tmp_path}", "the copy of the code, what was there, where it was sent"
    assert not list(tmp_path.rglob("pwned"))
    options = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert len(options) == 9, "no name adds an option"
    assert shlex.split(next(line for line in options if "--output" in line)) == [
        "#SBATCH", f"--output={log}/%j_0_log.out",
    ]  # fmt: skip
    assert all(ord(letter) < 128 for line in options if "--job-name" in line for letter in line)


@pytest.mark.parametrize("letter", ["%", "\\", "\n", "\r", ":"])
def test_a_folder_that_sbatch_would_read_otherwise_is_refused(tmp_path, letter):
    with pytest.raises(UserError, match=r"--runs .*: jobs cannot be in a folder with %"):
        submit.send(fresh(tmp_path), tmp_path / f"a{letter}b", asks(1, CPU))


@pytest.mark.parametrize("text", ["a100\nrm -rf x #", "a100'", "a;b", "$(x)", "a b", ""])
def test_what_a_suite_says_of_gpus_cannot_end_a_line(text):
    with pytest.raises(UserError, match="gpu_type: String should match pattern"):
        parse(Resources, {"gpu_type": text}, "suite.yaml: agents.mac")


def test_arrays_are_split_below_what_the_cluster_allows_and_share_max_jobs():
    asked = CPU.model_copy(update={"runs_per_job": 2, "max_jobs": 5})
    found = submit.arrays(asks(21, asked), 4)
    assert [len(array.packs) for array in found] == [4, 4, 3]
    assert [run for array in found for pack in array.packs for run in pack] == [f"run{number}" for number in range(21)]
    assert {len(pack) for array in found for pack in array.packs} == {1, 2}
    assert [array.at_a_time for array in found] == [2, 2, 1], "five at a time, over all"
    assert [submit.chain(number, found) for number in range(3)] == [None, None, None]


def test_more_arrays_than_jobs_at_a_time_wait_for_each_other():
    found = submit.arrays(asks(10, CPU.model_copy(update={"runs_per_job": 1, "max_jobs": 2})), 2)
    assert len(found) == 5 and [array.at_a_time for array in found] == [1] * 5
    assert [submit.chain(number, found) for number in range(5)] == [None, None, 0, 1, 2]


def test_runs_that_ask_for_something_else_are_in_other_arrays():
    large = CPU.with_(Resources(memory_gb=99, runs_per_job=1))
    mixed = [Ask("a", CPU), Ask("b", large), Ask("c", CPU), Ask("d", large)]
    found = submit.arrays(mixed, 1001)
    assert [array.packs for array in found] == [[["a", "c"]], [["b"], ["d"]]]
    assert [array.profile.memory_gb for array in found] == [16, 99]


@pytest.mark.parametrize(("sharing", "shared"), [(1.0, 4), (0.5, 2), (0.25, 1), (0.125, 1)])
def test_what_was_learned_changes_what_is_asked_for(sharing, shared):
    asked = CPU.model_copy(update={"runs_per_job": 4})
    wanted = Ask("a", asked, Decision(True, "", 2.25, sharing)).wanted
    assert (wanted.memory_gb, wanted.runs_per_job) == (36, shared)
    text = submit.text(fresh(Path("/r")), Path("/r"), Array(profile=wanted, packs=[["a"]]))
    assert "#SBATCH --mem=36864MB" in text


def test_memory_is_never_less_than_asked_for():
    asked = CPU.model_copy(update={"memory_gb": 0.3})
    assert "#SBATCH --mem=308MB" in submit.text(fresh(Path("/r")), Path("/r"), Array(profile=asked, packs=[["a"]]))


def test_a_small_cluster_refuses_the_second_array_and_its_runs_stay(monkeypatch, tmp_path, root):
    kept = fake_slurm(monkeypatch, tmp_path, accepts=1, array_size=2)
    asked = CPU.model_copy(update={"runs_per_job": 2, "keeper": False})
    done = submit.send(fresh(root), root, asks(7, asked))
    assert done.accepted == 4 and done.refused == "sbatch: QOSMaxSubmitJobPerUserLimit"
    known = submission.everything(root)[0]
    assert [array.job for array in known.arrays] == ["100", None]
    where = submission.latest([known])
    assert [where[f"run{number}"][1] for number in (0, 1, 2, 4, 6)] == ["100_0", "100_0", "100_1", None, None]
    assert "--array=0-1%2" in (kept / "1.sh").read_text()


def test_what_is_refused_from_the_start_leaves_nothing_behind(monkeypatch, tmp_path, root):
    fake_slurm(monkeypatch, tmp_path, accepts=0)
    done = submit.send(fresh(root), root, asks(2, CPU))
    assert done.accepted == 0 and done.refused and submission.everything(root) == []


def test_arrays_that_must_wait_and_keepers_depend_on_those_before(monkeypatch, tmp_path, root):
    kept = fake_slurm(monkeypatch, tmp_path, array_size=1)
    asked = CPU.model_copy(update={"runs_per_job": 1, "max_jobs": 1, "gpus": 1, "keeper_partition": "cpu"})
    asked = asked.model_copy(update={"extra": {"constraint": "a100"}})
    done = submit.send(fresh(root), root, asks(2, asked))
    texts = [(kept / f"{number}.sh").read_text() for number in (1, 2, 3, 4)]
    assert [array.job for array in done.submission.arrays] == ["100", "102"] and done.submission.keepers == [
        "101",
        "103",
    ]
    found = [[line.split("=")[1] for line in text.splitlines() if "--dependency" in line] for text in texts]
    assert found == [[], ["afterany:100"], ["afterany:100"], ["afterany:102"]]
    assert "--partition=cpu" in texts[1] and "--gres" not in texts[1] and "--mem=2048MB" in texts[1]
    assert "--constraint" in texts[0] and "--constraint" not in texts[1], "the other partition has other nodes"
    shown = list(submit.texts(fresh(root), root, asks(2, asked), 1))
    names = {"JOB1": "100", "JOB2": "102"}
    for number, (text, there) in enumerate(zip(shown, texts, strict=True)):
        options = [line for line in text.splitlines() if line.startswith("#SBATCH")]
        assert [re.sub(r"JOB\d", lambda job: names[job[0]], line) for line in options] == [
            line for line in there.splitlines() if line.startswith("#SBATCH")
        ], f"a dry run shows text {number} as it is sent"


def test_a_node_that_failed_is_avoided_where_there_is_another(monkeypatch, tmp_path, root):
    kept = fake_slurm(monkeypatch, tmp_path)
    asked = CPU.model_copy(update={"keeper": False, "runs_per_job": 2})
    submit.send(fresh(root), root, [*asks(1, asked, Decision(True, "", avoid="n1")), Ask("other", asked)])
    texts = [(kept / f"{number}.sh").read_text() for number in (1, 2)]
    assert ["--exclude=n1" in text for text in texts] == [True, False]
    program(
        tmp_path / "bin",
        "sbatch",
        """if grep -q exclude "$1"; then echo 'sbatch: error: no such node' >&2; exit 1; fi
        echo 'Submitted batch job 300'""",
    )
    done = submit.send(fresh(root), root, asks(1, asked, Decision(True, "", avoid="n1")))
    assert [array.job for array in done.submission.arrays] == ["300"]


def test_a_wrong_partition_is_answered_with_the_right_ones(monkeypatch, tmp_path, root):
    fake_slurm(monkeypatch, tmp_path)
    program(tmp_path / "bin", "sbatch", "echo 'sbatch: error: invalid partition specified: fast' >&2; exit 1")
    done = submit.send(fresh(root), root, asks(1, CPU))
    assert done.refused == "sbatch: invalid partition specified: fast; there are: cpu, gpu"


def test_what_an_outer_job_left_in_the_environment_does_not_reach_sbatch(monkeypatch, tmp_path, root):
    fake_slurm(monkeypatch, tmp_path)
    program(tmp_path / "bin", "sbatch", f"env > {tmp_path}/env; echo 'Submitted batch job 5'")
    monkeypatch.setenv("SLURM_CPU_BIND", "quiet,mask_cpu:0x1")
    monkeypatch.setenv("SBATCH_PARTITION", "other")
    monkeypatch.setenv("SLURM_CONF", "/etc/here.conf")
    submit.send(fresh(root), root, asks(1, CPU.model_copy(update={"keeper": False})))
    seen = (tmp_path / "env").read_text()
    assert "CPU_BIND" not in seen and "SBATCH_PARTITION" not in seen and "SLURM_CONF=/etc/here.conf" in seen
