"""The command line as its users see it: what it says, where it says it, and the exit code."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import DATA, TASK
from run_folders import a_whole_run, planned, write_run, write_suite
from test_model_error import FORESEER

from mac_bench import __version__, cli, doctor, tasks
from mac_bench.record import RunFolder

SUITE = f"""\
name: tiny
about: small enough for a test
steps: 40
seeds: [0]
tasks: [{TASK}]
evaluation: {{every: 20, episodes: 2, parallel: 2}}
agents:
  BC: {{agent: bc, settings: {{hidden: [8], batch_size: 8}}}}
  broken: {{agent: bc, settings: {{hidden: [8], batch_size: 8, learning_rate: 1e+30}}}}
  random_actions:
"""


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def call(tmp_path, monkeypatch, capsys, data_root):
    """Calls `mac-bench` in a folder of its own that holds a suite, with data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAC_BENCH_DATA", str(data_root))
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("MAC_BENCH_TRACE", "MAC_BENCH_RUNS"):
        monkeypatch.delenv(name, raising=False)
    Path("tiny.yaml").write_text(SUITE)

    def call(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["mac-bench", *arguments])
        monkeypatch.setattr(sys, "path", list(sys.path))
        try:
            cli.main()
            code = 0
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        return Said(code, *capsys.readouterr())

    return call


WRONG = {
    "plan nothing": r"no suite 'nothing'; give a \.yaml file, or one of: .*quickstart.*",
    "run tiny.yaml --data empty": rf"no data '{DATA}': .*make it with `mac-bench data generate {DATA}`",
    "train": "name a suite with --agent, --task and --seed, or one run with --run",
    "train tiny.yaml --run 1": "name a suite with --agent, --task and --seed, or one run with --run",
    "train tiny.yaml": "tiny has 3 such runs; give --agent, one of: BC, broken, random_actions",
    "train tiny.yaml --agent MAC": "tiny has no such run with --agent MAC; there are: BC, broken, random_actions",
    "train --run 123": "no run '123' under runs; `mac-bench status` lists them",
    "status": "no runs under runs; start some with `mac-bench run SUITE`, or name another --runs",
    "status tiny": "suite 'tiny' has not been started under runs; those that have been: none",
    "logs 123": "no run '123' under runs; `mac-bench status` lists them",
    "collect": "runs holds neither run folders nor suites; .*",
    "report tiny": "suite 'tiny' has not been started under runs; those that have been: none",
    "model-error 123": "no run '123' under runs; `mac-bench status` lists them",
    "model-error 123 --out curve.svg": r"--out curve.svg: curves are written as CSV; give a name that ends in .csv",
    "data generate nothing": "no task 'nothing'; .*",
    f"data generate {TASK}": rf"'{TASK}' is a task; its data is called {DATA}",
    f"data generate {DATA} --episodes 0": "episodes: 0 is less than 1",
    "data generate antmaze-large-navigate-v0 --episodes 1": "antmaze-large-navigate-v0: needs a trained .*",
    "data verify --data empty": "no data in empty; get some with `mac-bench data fetch NAME` or .*",
    "agents nobody": "no agent 'nobody'; there are: bc, .*",
    "check-agent nobody": "no agent 'nobody'; there are: bc, .*",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_an_error_is_one_line_on_stderr_and_exit_code_2(call, arguments):
    said = call(*arguments.split())
    assert said.code == 2
    assert re.fullmatch(f"mac-bench: {WRONG[arguments]}\n", said.err), said.err
    assert "Traceback" not in said.out + said.err


def test_a_trace_is_shown_to_those_who_ask(call, monkeypatch):
    monkeypatch.setenv("MAC_BENCH_TRACE", "")  # so that what --trace sets is forgotten after this test
    assert "Traceback" in call("--trace", "agents", "nobody").err
    monkeypatch.setenv("MAC_BENCH_TRACE", "1")
    said = call("agents", "nobody")
    assert said.code == 2 and "Traceback" in said.err


def test_wrong_usage_is_exit_code_2(call):
    assert call("run", "tiny.yaml", "--jobs", "0").code == 2
    assert call("fly").code == 2


def test_version_and_help(call):
    assert call("--version") == (0, f"mac-bench {__version__}\n", "")
    said = call("--help")
    assert said.code == 0 and all(verb in said.out for verb in ("plan", "run", "report", "doctor", "data"))


def test_a_suite_from_plan_to_report(call):
    planned = call("plan", "tiny.yaml")
    assert planned.code == 0 and "3 runs: 3 waiting" in planned.out and f"✓ {DATA}" in planned.out
    assert not Path("runs").exists(), "plan changes nothing"

    ran = call("run", "tiny.yaml", "--jobs", "2")
    assert ran.code == 1, "a run has failed"
    assert f"✓ BC {TASK} seed 0: finished in" in ran.out
    assert f"✗ broken {TASK} seed 0: failed after" in ran.out and "a smaller learning rate may help" in ran.out
    assert "3 runs: 2 finished, 1 failed" in ran.out
    assert "IQM over tasks" in ran.out, "it ends with the report"

    status = call("status", "tiny.yaml")
    assert status.code == 0 and "at update" in status.out and "a smaller learning rate" in status.out
    run = next(line.split()[0] for line in status.out.splitlines() if " BC " in line)
    assert "finished" in call("logs", run[:6]).out
    assert "is finished already" in call("train", "--run", run).out

    report = call("report", "tiny", "--format", "csv", "--out", "tables")
    assert report.code == 0 and report.out.startswith("label,rank,task,mean")
    written = {path.name for path in Path("tables").iterdir()}
    assert {"report.csv", "report.md", "report.tex", "aggregates.csv", "curves.svg", "curves.pdf"} <= written
    assert "3 runs: 2 finished, 1 failed" in call("collect", "--rebuild").out
    assert "1 own run" in call("plan", "tiny.yaml", "--cost").out
    assert "`reproduces: {table: data}`" in call("report", "tiny", "--reproduction", "tables/r.md").err
    assert "give a name that ends in .md" in call("report", "tiny", "--reproduction", "r.csv").err
    said = call("report", "tiny", "--reproduction", "nodir/r.md")
    assert said == (2, "", "mac-bench: --reproduction nodir/r.md: there is no folder nodir; make it first\n")
    Path("tiny.yaml").write_text(SUITE + "reproduces: {d4rl-antmaze: }\n")
    call("run", "tiny.yaml")
    assert call("report", "tiny", "--out", "tables").err.splitlines()[-1] == "tables/reproduction.md"
    assert "0 cells: none." in Path("tables/reproduction.md").read_text()

    again = call("run", "tiny.yaml")
    assert again.code == 1 and f"BC {TASK} seed 0: started" not in again.out, "what is finished stays so"


def test_a_verdict_of_the_terminal_says_how_much_speaks_against_it(call):
    Path("runs").mkdir()
    runs = [("MAC", planned(seed, "cube-double-play-singletask-task2-v0", "mac")) for seed in range(3)]
    for _, run in runs:
        write_run(Path("runs"), run, a_whole_run())
    write_suite(Path("runs"), runs)
    said = call("report", "first").out
    (row,) = [line for line in said.splitlines() if "mac-ablation" in line]
    assert re.search(r" agrees \(\?\) +6 +mac-ablation", row), row
    assert said.count("against: so many reasons") == 1
    call("report", "first", "--out", "tables")
    assert "What ran" in Path("tables/report.md").read_text()


def test_the_model_error_of_a_suite_or_of_a_run(call):
    Path("mine").mkdir()
    (Path("mine") / "foreseer.py").write_text(FORESEER.replace("GAIN", "0.2"))
    (Path("mine") / "blind.py").write_text(FORESEER.replace("GAIN", "np.nan"))
    agents = "  good: {agent: mine.foreseer}\n  blind: {agent: mine.blind}\n  BC: {agent: random_actions}\n  late:"
    Path("tiny.yaml").write_text(SUITE.split("  BC:")[0] + agents + " {agent: mine.foreseer, steps: 60}\n")
    for label in ("good", "blind", "BC"):
        call("train", "tiny.yaml", "--agent", label)
    said = call("model-error", "tiny", "--trajectories", "8", "--horizon", "90", "--out", "curves/all.csv")
    assert said.code == 0 and re.search(rf"{TASK}: [2-8] pieces of 90 actions", said.out)
    assert "nan*" in said.out and "nothing moves" in said.out
    assert re.search(r"passed over: .*: agent random_actions has no world model\n", said.err)
    assert re.search(r"passed over: .*: no checkpoint yet; train it first\n", said.err)

    lines = [line.split(",") for line in Path("curves/all.csv").read_text().splitlines()]
    assert lines[0][-3:] == ["actions_ahead", "model_error", "still"] and len(lines) == 1 + 2 * 90
    good, blind = ([line for line in lines if line[1] == label] for label in ("good", "blind"))
    assert [int(line[-3]) for line in good] == list(range(1, 91)) and {line[-2] for line in blind} == {"nan"}
    assert [line[-1] for line in good] == [line[-1] for line in blind], "all runs are measured on the same pieces"
    assert all(float(line[-2]) > 0 and line[6] == "40" for line in good)
    shown = [f"{float(good[k - 1][column]):.3g}" for column in (-1, -2) for k in (10, 50, 90)]
    assert all(number in said.out for number in shown)

    alone = call("model-error", good[0][0][:8], "--trajectories", "8", "--horizon", "20")
    assert alone.code == 0 and alone.err == "" and "pieces of 20 actions" in alone.out and "nan" not in alone.out


def test_what_has_no_model_error_says_why_and_leaves_with_2(call, monkeypatch):
    Path("mine").mkdir()
    (Path("mine") / "chunks.py").write_text(
        FORESEER.replace("GAIN", "0.2").replace("axis=1), 1)", "axis=1)[:, 29::30], 30)")
    )
    Path("tiny.yaml").write_text(SUITE.split("  BC:")[0] + "  chunks: {agent: mine.chunks}\n  random_actions:\n")
    ids = {}
    for label in ("chunks", "random_actions"):
        ids[label] = Path(call("train", "tiny.yaml", "--agent", label).out.split(":")[0])

    def refused(label: str, *options: str) -> str:
        said = call("model-error", ids[label].name, *options)
        assert said.code == 2 and said.out == "" and said.err.count("\n") == 1
        return said.err.removeprefix("mac-bench: ").rstrip()

    assert call("model-error", "tiny").code == 0, "the rest of the suite is measured"
    assert refused("random_actions") == f"{ids['random_actions']}: agent random_actions has no world model"
    expected = f"{ids['chunks']}: mine.chunks predicts over more than 29 actions at once"
    assert refused("chunks", "--horizon", "29") == expected

    load = tasks.load
    monkeypatch.setattr(tasks, "load", lambda *names: replace(load(*names), validation=None))
    assert refused("chunks").startswith(f"data '{DATA}': no validation split")
    monkeypatch.setattr(tasks, "load", lambda *names: replace(load(*names), actions=load(*names).actions / 2))
    assert "this run began with data" in refused("chunks")
    for path in Path("runs").glob("*/checkpoint*"):
        path.unlink()
    assert refused("chunks") == f"{ids['chunks']}: no checkpoint yet; train it first"
    said = call("model-error", "tiny.yaml")
    assert said == (2, "", f"mac-bench: {ids['chunks']}: no checkpoint yet; train it first (and 1 more)\n")


def test_a_single_run_of_a_suite(call):
    said = call("train", "tiny.yaml", "--agent", "random_actions")
    assert said.code == 0 and "finished after" in said.out
    assert "3 runs: 1 finished, 2 waiting" in call("status").out, "the rest of the suite is known too"


def test_a_run_folder_that_was_renamed_or_edited_is_refused(call):
    call("train", "tiny.yaml", "--agent", "random_actions")
    config = next(Path("runs").glob("*/config.json"))
    config.write_text(config.read_text().replace('"steps": 40', '"steps": 41'))
    said = call("train", "--run", str(config.parent))
    assert said.code == 2 and "was it renamed or edited by hand?" in said.err


def test_an_id_that_is_not_unique_is_refused(call):
    for name in ("abc1", "abc2"):
        folder = Path("runs") / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    assert call("logs", "ab").err == "mac-bench: 'ab' fits 2 runs under runs: abc1, abc2\n"
    assert call("logs", "abc1").err == f"mac-bench: runs{os.sep}abc1: not begun yet\n"


def test_data_is_made_listed_and_checked(call, monkeypatch, tmp_path):
    monkeypatch.setenv("MAC_BENCH_DATA", "made")
    said = call("data", "generate", DATA, "--episodes", "2", "--length", "10", "--name", "few")
    assert said.code == 0 and said.out == f"made{os.sep}few\n"
    assert "few" in call("data", "list").out
    assert call("data", "verify") == (0, "✓ few\n", "")
    prepare = ("data", "prepare", "few", "--task", TASK)
    assert call(*prepare) == (0, f"made{os.sep}prepared{os.sep}few\n", "")
    assert f"prepared for {TASK}" in call("data", "list").out and call("data", "verify").code == 0
    staged = call(*prepare, "--stage", "node")
    assert staged == (0, f"node{os.sep}few\n", "set MAC_BENCH_PREPARED=node to train from there\n")
    said = call("data", "prepare", "fwe", "--task", TASK)
    assert said.code == 2 and said.err.count("\n") == 1 and "no data 'fwe'" in said.err
    file = tmp_path / "made" / "few" / f"{DATA}.npz"
    file.write_bytes(file.read_bytes() + b"x")
    said = call("data", "verify", "few")
    assert said.code == 1 and said.out.startswith("✗ ")


def test_agents_are_listed_and_explained(call):
    listed = call("agents").out
    assert "random_actions" in listed and "Behaviour cloning" in listed
    explained = call("agents", "bc").out
    assert "0.0003" in explained and "float > 0" in explained and "sets how far ahead goals lie" in explained
    assert "GoalMix" in explained and "probability of s_t itself" in explained


def test_an_agent_of_ones_own_is_checked_without_a_fork(call, monkeypatch):
    source = Path(sys.modules["baselines"].__path__[0]) / "random_actions.py"
    Path("mine").mkdir()
    (Path("mine") / "good.py").write_text(source.read_text())
    (Path("mine") / "bad.py").write_text(source.read_text().replace("uniform(-1, 1", "uniform(-2, 2"))
    said = call("check-agent", "mine.good")
    assert said.code == 0 and "✗" not in said.out and said.out.count("✓") > 5
    said = call("check-agent", "mine.bad")
    assert said.code == 1 and "✗ rewards: actions are" in said.out and "actions must lie in [-1, 1]" in said.out


def test_the_doctor_never_fails(call, monkeypatch):
    monkeypatch.setattr(doctor, "_try", lambda code, **environment: (False, "it is broken"))
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    said = call("doctor", "--data", "empty")
    assert said.code == 0 and said.out.count("it is broken") >= 3
    assert "pip install mujoco==3.3.7" in said.out and "mac-bench data generate" in said.out


def test_what_the_doctor_tries_is_limited_in_time_and_cannot_hurt(monkeypatch):
    assert doctor._try("print('fine')") == (True, "fine")
    assert doctor._try("import os; os.abort()")[0] is False
    monkeypatch.setattr(doctor, "TIMEOUT_S", 0.1)
    assert doctor._try("import time; time.sleep(9)") == (False, "no answer within 0 s")


def test_status_of_real_runs_loads_nothing_heavy(call):
    call("train", "tiny.yaml", "--agent", "random_actions")
    code = (
        "import sys; from mac_bench.cli import main; sys.argv = ['mac-bench', 'status']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "1 finished" in done.stdout
    heavy = {"jax", "torch", "ogbench", "mujoco", "gymnasium", "pandas", "sqlalchemy", "scipy", "yaml"}
    assert not heavy & set(done.stderr.split())


def test_ctrl_c_saves_and_the_run_goes_on_afterwards(call, tmp_path):
    long = SUITE.replace("steps: 40", "steps: 100_000").replace("every: 20", "every: 100_000")
    Path("tiny.yaml").write_text(long)
    codes = []
    for number, verb in ((signal.SIGINT, ["run"]), (signal.SIGTERM, ["train", "--agent", "BC"])):
        command = [sys.executable, "-m", "mac_bench", *verb, "tiny.yaml"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        while not [event for event in events(tmp_path, "metrics") if event["attempt"] == len(codes) + 1]:
            time.sleep(0.1)
            assert process.poll() is None
        process.send_signal(number)
        said = process.communicate(timeout=60)[0]
        codes.append(process.returncode)
        assert ("the same command continues" in said) or ("stopped after" in said)
    assert codes == [128 + signal.SIGINT, 128 + signal.SIGTERM]
    ends, starts = events(tmp_path, "end"), events(tmp_path, "attempt")
    assert [end["reason"] for end in ends] == ["SIGTERM", "SIGTERM"], "the queue passes Ctrl-C on as SIGTERM"
    assert starts[0]["step"] == 0 and starts[1]["step"] == ends[0]["step"] > 0


def events(folder: Path, kind: str) -> list[dict]:
    """What the runs in a folder have written down so far."""
    return [
        event for path in folder.glob("runs/*/lock") for event in RunFolder(path.parent).read() if event["kind"] == kind
    ]
