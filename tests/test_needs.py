"""What data a suite's runs need is said, and asked for, before anything is queued."""

import shutil
import sys
from pathlib import Path

import pytest
import submitit  # noqa: F401 - here, because it closes what absl writes to, which in a test is pytest's own file
from conftest import DATA, TASK
from slurm_fakes import fake_slurm

from mac_bench import needs, suite
from mac_bench.errors import UserError
from mac_bench.manifest import MANIFEST
from mac_bench.prepare import prepare

GOALS = DATA.replace("-v0", "-oraclerep-v0")
FAR = "humanoidmaze-medium-navigate-v0"
WHY = "it takes an expert"
LEFT = f"{FAR}: left out with its 1 run: {WHY}"


def write(tasks: str) -> list[suite.Member]:
    Path("small.yaml").write_text(
        f"name: small\nabout: x\nsteps: 20\nseeds: [0]\ntasks:\n{tasks}"
        "evaluation: {every: 10, episodes: 1}\nagents: {random_actions: }\n"
    )
    return suite.expand(suite.load(Path("small.yaml")))


LARGE = f"  {TASK}: {{resident: {{blocks: 2}}}}\n  {GOALS}: {{resident: {{blocks: 2}}}}\n"
OPTIONAL = f"  {TASK}:\n  {FAR}: {{optional: {WHY}}}\n"


@pytest.fixture
def call(monkeypatch, tmp_path, capsys, data_root):
    """Calls `mac-bench` in a folder of its own, with data that a test may change."""
    from mac_bench.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAC_BENCH_DATA", "data")
    monkeypatch.delenv("MAC_BENCH_PREPARED", raising=False)
    shutil.copytree(data_root / DATA, tmp_path / "data" / DATA)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mac-bench", *arguments])
        try:
            main()
            code = 0
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        return (code, *capsys.readouterr())

    return call


def submitted(monkeypatch, tmp_path) -> tuple[Path, tuple[str, ...]]:
    """A cluster that takes what it is given, and the words that submit."""
    Path("node.yaml").write_text("cpus: 1\nmemory_gb: 1\ntime_minutes: 10\nkeeper: false\n")
    return fake_slurm(monkeypatch, tmp_path), ("submit", "small.yaml", "--profile", "node.yaml")


# data too large to load


def test_unprepared_data_are_shown_and_refused_until_they_are_prepared(call, monkeypatch, tmp_path):
    members = write(LARGE)
    problem = (
        f"{DATA}: not prepared for {TASK}, {GOALS}, and too large to load; "
        "prepare it with `mac-bench data prepare small.yaml`"
    )
    kept, submit = submitted(monkeypatch, tmp_path)
    for _ in range(2):  # the second time for one of the tasks alone
        code, out, _ = call("plan", "small.yaml")
        assert code == 0 and f"✗ {problem}\n" in out and "✓" not in out
        for verb in (("run", "small.yaml"), submit):
            assert call(*verb) == (2, "", f"mac-bench: {problem}\n")
        assert not Path("runs").exists() and list(kept.iterdir()) == []
        prepare(DATA, [TASK], Path("data"))
        problem = problem.replace(f"{TASK}, ", "")
    assert call("data", "prepare", "small.yaml") == (0, "data/prepared/" + DATA + "\n", "")
    assert {path.name for path in Path("data/prepared", DATA).iterdir()} == {"lock", "rows", TASK, GOALS}
    assert f"✓ {DATA}" in call("plan", "small.yaml")[1]
    needs.require(members, Path("data"), Path("small.yaml"))
    assert call(*submit)[0] == 0 and len(list(kept.iterdir())) == 1
    for file in Path("data", DATA).glob("*.npz"):  # other files than those that were prepared
        file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(UserError, match=f"^{DATA}: not prepared for {TASK}, {GOALS}, and too large"):
        needs.require(members, Path("data"), Path("small.yaml"))


def test_what_is_prepared_is_not_prepared_again_and_what_is_missing_is_said(call):
    write(LARGE + "  pointmaze-large-navigate-v0:\n  hopper-medium-v2:\n")
    code, out, err = call("data", "prepare", "small.yaml")
    assert (code, out) == (1, f"data/prepared/{DATA}\n")
    assert [line.partition(": ")[2].split(":")[0] for line in err.splitlines()] == [
        "no data 'pointmaze-large-navigate-v0'",
        "no data 'hopper-medium-v2'",
    ]
    before = {path: path.stat().st_mtime_ns for path in Path("data/prepared").rglob("*.npy")}
    call("data", "prepare", "small.yaml")
    assert before == {path: path.stat().st_mtime_ns for path in Path("data/prepared").rglob("*.npy")}


def test_a_task_tells_data_from_a_suite_of_the_same_name(call):
    shutil.copytree(Path("data") / DATA, Path("data") / "quickstart")
    assert "quickstart" in suite.names()
    assert call("data", "prepare", "quickstart", "--task", GOALS) == (0, "data/prepared/quickstart\n", "")
    assert {path.name for path in Path("data/prepared/quickstart").iterdir()} == {"lock", "rows", GOALS}
    code, _, err = call("data", "prepare", DATA)
    assert code == 2 and "no task given" in err


def test_damaged_prepared_data_are_told_in_the_plan(call):
    members = write(LARGE)
    call("data", "prepare", "small.yaml")
    (Path("data/prepared") / DATA / "rows" / MANIFEST).write_text("{")
    found = needs.missing(needs.of(members), Path("data"), Path("small.yaml"))
    assert "manifest.json: cannot be read" in found[DATA] and "prepare again" in found[DATA]


# optional tasks


def test_runs_of_an_optional_task_are_left_out_while_there_are_no_data(call, monkeypatch, tmp_path):
    other = write(OPTIONAL.replace(WHY, "something else"))
    members = write(OPTIONAL)
    assert [member.run.id for member in members] == [member.run.id for member in other]
    assert members[1].optional == WHY
    code, out, _ = call("plan", "small.yaml")
    assert code == 0 and f"- {LEFT}\n" in out and "✗" not in out and "2 runs: 2 waiting" in out
    code, _, err = call("data", "fetch", "small.yaml")
    assert (code, err) == (0, f"{LEFT}\n{DATA}: made here, 303 rows\n")
    _, submit = submitted(monkeypatch, tmp_path)
    code, out, err = call(*submit, "--dry-run")
    assert code == 0 and err == f"{LEFT}\n" and "#SBATCH --array" not in out
    code, out, err = call(*submit)
    assert code == 0 and err == f"{LEFT}\n" and "1 run of 1 submitted" in out
    assert [path.name for path in Path("runs").glob("*/config.json")] == ["config.json"]
    call("cancel", "small")
    code, out, err = call("run", "small.yaml", "--jobs", "1")
    assert err.startswith(f"{LEFT}\n") and "✗" not in out
    status = call("status", "small")[1]
    assert FAR in status, "it belongs to the suite, and has not been run"
    assert call(*submit, "--task", FAR) == (2, "", f"{LEFT}\nmac-bench: nothing is left to run\n")


def test_data_of_an_optional_task_that_were_begun_are_asked_for(call):
    members = write(OPTIONAL)
    folder = Path("data") / FAR
    folder.mkdir()
    kept, left = needs.left_out(members, Path("data"))
    assert (kept, left) == (members, {})
    with pytest.raises(UserError, match=f"^no data '{FAR}'"):
        needs.require(kept, Path("data"), Path("small.yaml"))


def test_the_same_data_may_be_optional_for_one_task_alone(call):
    members = write(f"  {FAR}: {{optional: {WHY}}}\n  {FAR.replace('-v0', '-oraclerep-v0')}:\n")
    kept, left = needs.left_out(members, Path("data"))
    assert kept == members[1:] and list(left) == [FAR]
    assert list(needs.missing(needs.of(kept), Path("data"), Path("small.yaml"))) == [FAR]


# whose data they are


def test_data_made_here_are_not_shown_as_official_ones(call):
    write(f"  {TASK}:\n")
    assert f"✓ {DATA}: made here, 303 rows\n" in call("plan", "small.yaml")[1]
    assert call("data", "fetch", "small.yaml") == (0, "", f"{DATA}: made here, 303 rows\n")
    (Path("data") / DATA / MANIFEST).unlink()
    assert f"✓ {DATA}\n" in call("plan", "small.yaml")[1]


def test_data_of_another_environment_are_refused_before_anything_is_queued(call):
    shutil.copytree(Path("data") / DATA, Path("data") / "mine")
    write("  pointmaze-large-navigate-v0: {dataset: mine}\n")
    said = "data 'mine' are of pointmaze-medium, but pointmaze-large-navigate-v0 is a task of pointmaze-large"
    assert call("run", "small.yaml") == (2, "", f"mac-bench: {said}\n")
    write(f"  {GOALS}: {{dataset: mine}}\n")
    assert "✓ mine: made here, 303 rows\n" in call("plan", "small.yaml")[1]


@pytest.mark.parametrize(
    "content, told", [('{"source": "x"}', "is not a manifest of mac-bench; give it another name"), ("{", "cannot be r")]
)
def test_a_foreign_manifest_is_one_line(call, content, told):
    write(f"  {TASK}:\n")
    path = Path("data") / DATA / MANIFEST
    path.write_text(content)
    for verb in (("data", "verify"), ("data", "list"), ("data", "fetch", "small.yaml"), ("run", "small.yaml")):
        code, out, err = call(*verb)
        assert "Traceback" not in err and ": made here" not in out + err
        assert code == {"list": 0, "verify": 1}.get(verb[1], 2)
        said = " ".join((out + err).split())  # a narrow terminal breaks lines
        assert f"{path}: {told}" in said or f"not complete; see `mac-bench data verify {DATA}`" in said
    assert f"✗ {path}: {told}" in call("plan", "small.yaml")[1]


def test_data_in_d4rl_s_own_folder_are_listed_and_verified(call, monkeypatch):
    from test_fetch import hopper

    Path("d4rl").mkdir()
    (Path("d4rl") / "hopper_medium-v2.hdf5").write_bytes(hopper())
    monkeypatch.setenv("D4RL_DATASET_DIR", "d4rl")
    assert "hopper-medium-v2" in call("data", "list")[1]
    assert call("data", "verify")[1].splitlines() == ["✓ hopper-medium-v2", f"✓ {DATA}"]


def test_no_workers_are_refused_by_their_name(call):
    code, _, err = call("data", "generate", DATA, "--episodes", "2", "--workers", "0")
    assert code == 2 and "--workers" in err and "shards" not in err
