"""The command line on a real SLURM: what is wrong is said in one line before anything is queued, and what a cluster
without accounting, or with a poor one, cannot tell is still known."""

import os
import signal
import tempfile
from pathlib import Path

import pytest
from cluster_runs import Bench
from slurm_cluster import require_slurm

from mac_bench.record import RunFolder
from slurm.one_machine.cluster import started


@pytest.fixture
def bench(tmp_path, data_root, cluster):
    return Bench(tmp_path / "bench", data_root, cluster)


def refused(bench: Bench, verb: str, *arguments: object, data: bool = False) -> str:
    """What a call says that leaves with 2: one line."""
    said = bench.call(verb, *arguments, code=2, data=data).strip()
    assert said.startswith("mac-bench: ") and len(said.splitlines()) == 1, said
    return said.removeprefix("mac-bench: ")


def test_what_is_wrong_is_said_before_anything_is_queued(bench, cluster, tmp_path):
    suite = bench.suite({"fast": {}}, seeds=(0,))
    node = bench.profile()
    assert refused(bench, "submit", suite, "--profile", "gpuu", data=True).startswith(
        "no profile 'gpuu'; there are: a100-"
    )
    wrong = bench.profile("wrong", gpuss=1)
    assert refused(bench, "submit", suite, "--profile", wrong, data=True).startswith(
        "wrong.yaml: no setting 'gpuss'; there"
    )
    said = refused(bench, "submit", suite, "--profile", bench.profile("fast", partition="fast"), data=True)
    assert "invalid partition specified: fast; there are: normal, urgent" in said
    said = refused(bench, "submit", suite, "--profile", bench.profile("large", memory_gb=4000), data=True)
    assert "Memory specification can not be satisfied" in said or "node configuration is not available" in said
    data, bench.data = bench.data, tmp_path / "nothing"
    assert "pointmaze-medium-navigate-v0" in refused(bench, "submit", suite, "--profile", node, data=True)
    bench.data = data
    assert bench.folders() == [] or all(folder.status() is None for folder in bench.folders())
    assert cluster.run("squeue", "--noheader").stdout == "" and not list(bench.root.glob("jobs/*/submission.json"))
    root, bench.root = bench.root, tmp_path / "100%"
    assert "jobs cannot be in a folder with %" in refused(bench, "submit", suite, "--profile", node, data=True)
    bench.root = root
    bench.environment["PATH"] = str(tmp_path)
    assert refused(bench, "submit", suite, "--profile", node, data=True).startswith("no sbatch on this machine: log in")
    assert refused(bench, "doctor", "--profile", node).startswith("no sbatch on this machine")
    before = set(bench.root.rglob("*"))
    text = bench.call("submit", suite, "--profile", node, "--dry-run", data=True)
    assert text.startswith("#!/bin/bash") and "#SBATCH --mem=308MB" in text, "a dry run needs no SLURM"
    assert set(bench.root.rglob("*")) == before


def test_names_that_no_run_has_are_answered_with_those_that_are(bench):
    bench.environment["COUNTING_NAP_MS"] = "500"
    suite = bench.suite({"fast": {}}, seeds=(0,))
    bench.call("submit", suite, "--profile", bench.profile(keeper=False), "--agent", "fast", data=True)
    assert refused(bench, "cancel", "small", "--agent", "slow") == "no label 'slow'; there are: fast"
    assert refused(bench, "cancel", "small", "--state", "dead").startswith(
        "no state 'dead'; there are: cancelled, ending"
    )
    assert refused(bench, "hold", "small", "--seed", 9) == "no seed '9'; there are: 0"
    assert refused(bench, "watch", "large").startswith("suite 'large' has not been started under")
    bench.call("cancel", "small")
    assert "1 run: 1 cancelled" in bench.call("watch", "small", "--every", 1, code=1)


def test_a_profile_is_tried(bench, cluster):
    said = bench.call("doctor", "--profile", bench.profile())
    assert "accepted as job" in said and "ran on" in said


def accident(bench: Bench) -> list[tuple[str, str]]:
    """One run whose job is killed with all its processes, one that is taken out of the queue; state and reason."""
    bench.environment["COUNTING_NAP_MS"] = "200"
    suite = bench.suite({"killed": {}, "removed": {"settings": {"slow": 1.5}}}, seeds=(0,), steps=30)
    bench.submit(suite, bench.profile(runs_per_job=1, max_jobs=1, keeper=False))
    by_label = {folder.config().settings["slow"]: folder for folder in bench.folders()}
    killed, removed = by_label[1.0], by_label[1.5]
    bench.wait(lambda: killed.status() and (killed.path / "checkpoint.npz").exists(), "the first run")
    job = killed.status().job.split("_")[0]
    assert bench.cluster.run("scancel", f"{job}_1").returncode == 0
    for pid in (_parent(killed), killed.status().pid):
        os.kill(pid, signal.SIGKILL)
    assert "2 runs: 1 finished, 1 cancelled" in bench.call("watch", "small", "--every", 1, code=1)
    assert removed.status() is None and removed.order().reason == "cancelled by scancel"
    return [(event["state"], event["cause"]) for event in killed.read() if event["kind"] == "end"]


def _parent(folder: RunFolder) -> int:
    with open(f"/proc/{folder.status().pid}/stat") as file:
        return int(file.read().rsplit(")", 1)[1].split()[1])


def test_a_cluster_without_accounting(bench):
    assert accident(bench) == [("stopped", "job lost"), ("finished", None)]


@pytest.mark.parametrize("accounting", ["shim", "dbd"])
def test_a_cluster_with_accounting(tmp_path, data_root, accounting):
    require_slurm(database=accounting == "dbd")
    with (
        tempfile.TemporaryDirectory() as folder,
        started(Path(folder) / "c", nodes=2, gpus=0, accounting=accounting) as cluster,
    ):
        assert accident(Bench(tmp_path / "bench", data_root, cluster)) == [("stopped", "job lost"), ("finished", None)]


def test_jobs_run_from_the_copy_whatever_lies_where_they_are_sent_from_and_however_that_is_called(
    tmp_path, data_root, cluster
):
    """Python puts the folder in which it starts before all others; and sbatch reads names in its own way."""
    bench = Bench(tmp_path / """it's "a" $(touch pwned); `touch pwned` & é""", data_root, cluster)
    (bench.folder / "mac_bench").mkdir()
    (bench.folder / "mac_bench" / "__init__.py").write_text("raise RuntimeError('the working tree, in mid-edit')\n")
    # for whoever submits; the jobs do not get it from there
    bench.environment["PYTHONSAFEPATH"] = "1"
    bench.submit(bench.suite({"fast": {}}, seeds=(0, 1)), bench.profile(setup=["unset PYTHONSAFEPATH"]))
    assert "2 runs: 2 finished" in bench.call("watch", "small", "--every", 1)
    attempt = next(event for event in bench.folders()[0].read() if event["kind"] == "attempt")
    assert attempt["environment"]["git"], "its code is known by its commit, though there is no .git beside it"
    assert not list(tmp_path.rglob("pwned"))
