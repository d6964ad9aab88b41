"""The scheduler on a real SLURM: what is sent, what dies in which way, and that every run ends in the right state."""

import os
import signal

import pytest
from cluster_runs import Bench, ends, starts
from runs import arrays, numbers

from mac_bench.record import RunFolder
from slurm import submission


@pytest.fixture
def bench(tmp_path, data_root, cluster):
    return Bench(tmp_path / "a bench", data_root, cluster)


def training(root) -> list[int]:
    """Processes that train runs under this root."""
    return _processes(b"mac_bench\0train\0--run\0" + os.fsencode(root))


def supervisors(root) -> list[int]:
    """Processes that look after the runs of a job."""
    return _processes(b"submitit.core._submit\0" + os.fsencode(root))


def _processes(words: bytes) -> list[int]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                line = file.read()
        except OSError:
            continue
        if words in line and not line.startswith(b"srun"):
            found.append(int(pid))
    return found


def test_a_suite_is_submitted_watched_and_collected_and_equals_the_local_one(bench, tmp_path, data_root):
    suite = bench.suite({"fast": {}, "tanh": {"settings": {"slow": 0.5}}})
    said = bench.submit(suite, bench.profile())
    assert "6 runs of 6 submitted as 1 array" in said
    assert "0 runs of 6 submitted" in bench.submit(suite, bench.profile()), "what is queued is not sent again"
    said = bench.call("watch", "small", "--every", 1)
    assert "6 runs: 6 finished" in said
    bench.call("collect")
    assert "6 runs: 6 finished" in bench.call("status", "small")
    jobs = {event["job"] for folder in bench.folders() for event in folder.read() if event["kind"] == "attempt"}
    assert len(jobs) == 3, "two runs in each job"
    local = Bench(tmp_path / "local", data_root, None)
    local.call("run", local.suite({"fast": {}, "tanh": {"settings": {"slow": 0.5}}}), "--jobs", 2, data=True)
    for here, there in zip(bench.folders(), local.folders(), strict=True):
        assert here.path.name == there.path.name
        assert numbers(here.path) == numbers(there.path) and arrays(here.path) == arrays(there.path)


def test_what_runs_bring_on_themselves(bench):
    """Each kind of death has its reason and its policy, and no other run suffers."""
    agents = {
        "fine": {},
        "defect": {"settings": {"dies": "error", "at": 10}},
        "wrong": {"settings": {"dies": "refused", "at": 10}},
        "killed": {"settings": {"dies": "kill", "at": 1}},
        "large": {"settings": {"dies": "memory", "at": 40, "until_memory_gb": 0.4}},
        "crowded": {"settings": {"dies": "gpu", "at": 40, "until_alone": True}, "resources": {"gpus": 1}},
    }
    suite = bench.suite(agents, seeds=(0, 1))
    bench.submit(suite, bench.profile(runs_per_job=2))
    assert "12 runs: 6 finished, 6 failed" in bench.call("watch", "small", "--every", 1, code=1)
    lines = {}
    for folder in bench.folders():
        settings = folder.config().settings
        lines.setdefault(settings["dies"], []).append((folder, folder.status()))
    assert {kind: {status.state for _, status in found} for kind, found in lines.items()} == {
        "never": {"finished"},
        "error": {"failed"},
        "refused": {"failed"},
        "kill": {"failed"},
        "memory": {"finished"},
        "gpu": {"finished"},
    }
    reasons = {kind: {status.reason for _, status in found} for kind, found in lines.items()}
    assert reasons["error"] == {"the same error 2 times: RuntimeError: a defect"}
    assert reasons["refused"] == {"this needs another setting"}
    killed = "no progress in 3 attempts: killed by SIGKILL, perhaps for lack of memory"
    assert reasons["kill"] == {killed}
    for folder, _ in lines["error"]:
        assert ends(folder) == [("failed", "error"), ("failed", "error")]
    for folder, _ in lines["refused"]:
        assert ends(folder) == [("failed", "refused")], "what the user must put right is not tried again"
    for folder, _ in lines["kill"]:
        assert starts(folder) == [0, 0, 0]
    for folder, _ in lines["memory"]:
        assert ends(folder) == [("failed", "out of memory"), ("finished", None)]
        assert starts(folder)[1] >= 30, "it goes on from its checkpoint"
    for folder, _ in lines["gpu"]:
        assert ends(folder)[-2:] == [("failed", "out of GPU memory"), ("finished", None)]
    sent = submission.everything(bench.root)
    asked = [array.profile for each in sent[1:] for array in each.arrays]
    again = {(round(profile.memory_gb, 3), profile.runs_per_job) for profile in asked}
    assert again == {(0.45, 2), (0.3, 1)}, "more memory, or less company"


def test_what_happens_to_runs(bench, cluster):
    """Everything from outside: each run ends as was asked for, with the true reason, and as if nothing had happened."""
    roles = ["training killed", "job killed", "requeued", "scancelled", "cancelled", "held"]
    bench.environment["COUNTING_NAP_MS"] = "250"
    suite = bench.suite({f"run {i}": {"settings": {"slow": 1 + i / 1000}} for i in range(8)}, seeds=(0,))
    bench.submit(suite, bench.profile(runs_per_job=1))
    everyone = sorted(bench.folders(), key=lambda folder: folder.config().settings["slow"])
    bench.wait(lambda: all(len(starts(folder)) == 1 for folder in everyone), "all runs")
    bench.wait(lambda: all((folder.path / "checkpoint.npz").exists() for folder in everyone), "checkpoints")
    node = {folder.path.name: _node(cluster, folder.status().job) for folder in everyone}
    # two that share no node, since all on one are preempted together
    lost = everyone[0]
    preempted = next(folder for folder in everyone if node[folder.path.name] != node[lost.path.name])
    folders = dict(zip(roles, (folder for folder in everyone if folder not in (lost, preempted)), strict=True))
    folders |= {"preempted": preempted, "node lost": lost}
    job = {role: folder.status().job for role, folder in folders.items()}
    label = {role: f"run {everyone.index(folder)}" for role, folder in folders.items()}
    os.kill(folders["training killed"].status().pid, signal.SIGKILL)
    _kill_supervisor(folders["job killed"])
    assert cluster.run("scontrol", "requeue", job["requeued"]).returncode == 0
    assert cluster.run("scancel", job["scancelled"]).returncode == 0
    bench.call("cancel", "small", "--agent", label["cancelled"])
    bench.call("hold", "small", "--agent", label["held"])
    bench.wait(lambda: folders["held"].status().state == "held", "the hold")
    urgent = ["--partition=urgent", "--exclusive", f"--nodelist={node[preempted.path.name]}", "--wrap=sleep 1"]
    assert cluster.run("sbatch", "--output=/dev/null", *urgent).returncode == 0
    bench.wait(lambda: ("stopped", "preempted") in ends(preempted), "the preemption")
    cluster.kill_node(node[lost.path.name], hard=True, report=True)
    cluster.restart_node(node[lost.path.name])
    bench.call("release", "small")
    said = bench.call("watch", "small", "--every", 1, code=1)
    assert "8 runs: 6 finished, 2 cancelled" in said
    states = {label: (folder.status().state, ends(folder)[0]) for label, folder in folders.items()}
    assert states == {
        "training killed": ("finished", ("failed", "killed")),
        "job killed": ("finished", ("stopped", "signalled")),
        "requeued": ("finished", ("stopped", "requeued")),
        "scancelled": ("cancelled", ("cancelled", "ordered")),
        "cancelled": ("cancelled", ("cancelled", "ordered")),
        "held": ("finished", ("held", "ordered")),
        "preempted": ("finished", ("stopped", "preempted")),
        "node lost": ("finished", ("stopped", "node failed")),
    }
    assert folders["scancelled"].status().reason == "cancelled by scancel"
    for label, folder in folders.items():
        if folder.status().state == "finished":
            assert starts(folder)[1] > 0, f"{label}: continued from its checkpoint"
    assert "2 runs retried, 2 submitted again" in bench.call("retry", "small")
    assert "8 runs: 8 finished" in bench.call("watch", "small", "--every", 1)


def _kill_supervisor(folder: RunFolder) -> None:
    """The process that started the one which trains this run."""
    pid = folder.status().pid
    with open(f"/proc/{pid}/stat") as file:
        parent = int(file.read().rsplit(")", 1)[1].split()[1])
    os.kill(parent, signal.SIGKILL)


def _node(cluster, job: str) -> str:
    return cluster.run("squeue", "--noheader", f"--jobs={job}", "--format=%N").stdout.strip()
