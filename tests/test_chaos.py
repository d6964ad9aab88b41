"""Two hundred runs in packs on a real SLURM, while everything dies that can die.

At the end each run is finished, or in the state that was asked for, with the right reason; its numbers are those of an
undisturbed run; nothing was trained twice beyond the last checkpoint; no file is torn.
"""

import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy
from cluster_runs import Bench, ends, starts, whole
from runs import arrays, numbers
from slurm_cluster import require_slurm

from mac_bench.overview import entries
from mac_bench.record import RunFolder, Status
from mac_bench.train import train
from slurm import submission
from slurm.one_machine.cluster import Cluster, started

RUNS = 200
STEPS = 40
PACK = 5
LONG = 4
"""runs that a time limit of two minutes does not suffice for; SLURM warns up to a minute early"""
STORM_S = 100.0
CALM_S = 420.0
"""until all must be done after the storm, on a machine that is busy"""
SETTLED = ("finished", "cancelled", "failed")


@pytest.fixture
def chaos_cluster():
    """Arrays of at most eleven, so that they have to be split; and few enough nodes for something to wait."""
    require_slurm()
    # a short name: sockets lie in it
    with (
        tempfile.TemporaryDirectory(prefix="chaos") as folder,
        started(Path(folder) / "cluster", nodes=4, cpus=4, gpus=0, max_array_size=11) as cluster,
    ):
        yield cluster


class Storm:
    """Does something at random every now and then, and remembers what."""

    def __init__(self, bench: Bench, cluster: Cluster, seed: int):
        self.bench, self.cluster, self.random = bench, cluster, random.Random(seed)
        self.done: Counter[str] = Counter()
        self.left: list[Callable[[], bool]] = []
        self.killed: Counter[bytes] = Counter()
        """command lines of the processes that were killed"""
        self.scancelled: set[str] = set()
        """runs of jobs that were cancelled by scancel"""
        self.cancelled: set[str] = set()
        """runs that were cancelled by us"""
        self.blows = (
            *(self.kill_training, self.kill_training, self.kill_supervisor, self.kill_supervisor),
            *(self.requeue, self.preempt, self.lose_node, self.scancel, self.cancel, self.kill_collector),
        )

    def blow(self) -> None:
        """One of them: each of them before any comes again."""
        self.left = self.left or self.random.sample(self.blows, len(self.blows))
        what = self.left.pop()
        if what():
            self.done[what.__name__] += 1

    def kill_training(self) -> bool:
        """Nobody more than twice: a run that is killed three times before it saves anything is given up."""
        return self._kill(b"mac_bench\0train\0--run\0", most=2)

    def kill_supervisor(self) -> bool:
        return self._kill(b"submitit.core._submit\0")

    def kill_collector(self) -> bool:
        """In the middle of its work."""
        process = subprocess.Popen(
            self.bench.command("collect", "--runs", self.bench.root),
            env=self.bench.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(self.random.uniform(0.3, 1.2))
        process.kill()
        process.wait()
        return True

    def requeue(self) -> bool:
        job = self._job("RUNNING")
        return job is not None and self.cluster.run("scontrol", "requeue", job).returncode == 0

    def scancel(self) -> bool:
        """A few only: they do not come back."""
        job = self._job(self.random.choice(["RUNNING", "PENDING"])) if self.done["scancel"] < 3 else None
        if job is None:
            return False
        pack = {
            name: pack
            for sent in submission.everything(self.bench.root)
            for a in sent.arrays
            for name, pack in a.elements()
        }
        self.scancelled |= set(pack[job])
        return self.cluster.run("scancel", job).returncode == 0

    def cancel(self) -> bool:
        """A run, with the command that users have for it."""
        line = self.random.choice(entries(self.bench.root, "small"))
        if line.state in SETTLED or line.label == "long" or self.done["cancel"] >= 3:
            return False
        self.bench.call("cancel", "small", "--agent", line.label, "--seed", line.seed)
        self.cancelled.add(line.run)
        return True

    def preempt(self) -> bool:
        """A whole node is wanted by somebody more important."""
        node = f"--nodelist=n{self.random.randint(1, self.cluster.nodes)}"
        urgent = ["--partition=urgent", "--exclusive", "--output=/dev/null", node, "--wrap=sleep 2"]
        return self.cluster.run("sbatch", *urgent).returncode == 0

    def lose_node(self) -> bool:
        """With all its processes, as in a power cut, or its slurmd alone."""
        name = f"n{self.random.randint(1, self.cluster.nodes)}"
        if f"slurmd-{name}" not in self.cluster.running():
            return False
        self.cluster.kill_node(name, hard=self.random.random() < 0.5, report=True)
        time.sleep(1)
        self.cluster.restart_node(name)
        return True

    def _packs(self) -> dict[str, list[str]]:
        """Job -> its runs."""
        arrays = [array for sent in submission.everything(self.bench.root) for array in sent.arrays]
        return {name: pack for array in arrays for name, pack in array.elements()}

    def _job(self, state: str) -> str | None:
        """One of the jobs that train, in this state."""
        asked = ["squeue", "--noheader", "--array", f"--states={state}", "--name=mac-bench-small", "--format=%i"]
        known = {
            name for sent in submission.everything(self.bench.root) for a in sent.arrays for name, _ in a.elements()
        }
        jobs = sorted(known & set(self.cluster.run(*asked).stdout.split()))
        return self.random.choice(jobs) if jobs else None

    def _kill(self, words: bytes, most: int = 1000) -> bool:
        mine = os.fsencode(self.bench.root)
        found = [(pid, line) for pid, line in commands() if words in line and mine in line]
        found = [(pid, line) for pid, line in found if not line.startswith(b"srun") and self.killed[line] < most]
        if not found:
            return False
        pid, line = self.random.choice(found)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.killed[line] += 1
        return True


def commands() -> list[tuple[int, bytes]]:
    """All processes and their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append((int(path.parent.name), path.read_bytes()))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("seed", [int(os.environ.get("MAC_BENCH_CHAOS_SEED", "1"))])
def test_chaos(tmp_path, data_root, chaos_cluster, seed, capsys):
    bench = Bench(tmp_path / "bench", data_root, chaos_cluster, COUNTING_NAP_MS="100")
    long = {"settings": {"slow": 30}, "resources": {"time_minutes": 2, "runs_per_job": 2}}
    agents = {"many": {}, "more": {"settings": {"slow": 0.5}}}
    suite = bench.suite(agents, seeds=range(RUNS // 2), steps=STEPS)
    patient = bench.suite({"long": long}, seeds=range(LONG), steps=STEPS, name="patient")
    profile = bench.profile(runs_per_job=PACK, memory_gb=1.2, max_jobs=6, signal_s=25)
    assert f"{RUNS} runs of {RUNS} submitted as 4 arrays" in bench.submit(suite, profile)
    bench.submit(patient, profile, "--seed", 0, "--seed", 1)
    once = bench.profile("once", runs_per_job=PACK, memory_gb=1.2, signal_s=25, requeue=False)
    assert "2 runs of 2 submitted" in bench.submit(patient, once, "--seed", 2, "--seed", 3)
    storm = Storm(bench, chaos_cluster, seed)
    calm = time.monotonic() + STORM_S
    while time.monotonic() < calm:
        storm.blow()
        time.sleep(storm.random.uniform(0.1, 1.5))
    end = time.monotonic() + CALM_S
    while not all(line.state in SETTLED for line in entries(bench.root)):
        assert time.monotonic() < end, bench.report()
        bench.call("watch", "small", "--once", code=1)
        time.sleep(2)
    with capsys.disabled():
        print(f"\nchaos: {dict(storm.done)}; attempts {Counter(len(starts(folder)) for folder in bench.folders())}")
    assert sum(storm.done.values()) > 20 and len(storm.done) >= 8, storm.done
    check_states(bench, storm)
    check_numbers(bench, tmp_path / "undisturbed", data_root)
    for folder in bench.folders():
        check_attempts(folder)
        check_files(folder)
    check_database(bench)


def check_states(bench: Bench, storm: Storm) -> None:
    """Finished, or what was asked for."""
    for line in entries(bench.root):
        if line.run in storm.cancelled or line.run in storm.scancelled:
            assert line.state in ("cancelled", "finished"), f"{line.run}: {line.state} {line.reason}"
            if line.state == "cancelled":
                assert line.reason.startswith("cancelled by")
        else:
            assert line.state == "finished", (
                f"{line.run}: {line.state} {line.reason}; {ends(RunFolder(bench.root / line.run))}"
            )
    causes = Counter(cause for folder in bench.folders() for _, cause in ends(folder))
    assert causes["time limit"] >= 2, "the long ones"
    for blow, cause in {"kill_training": "killed", "requeue": "requeued", "lose_node": "node failed"}.items():
        assert causes[cause] or storm.done[blow] < 3, f"{storm.done}: {causes}"
    # a signal can hit what a run starts while it loads its libraries, which is then an error of theirs
    assert causes["error"] < 5 and not causes["refused"], causes


def check_numbers(bench: Bench, root: Path, data: Path) -> None:
    """Every number of a finished run is that of a run that nothing happened to."""
    for folder in bench.folders():
        if (folder.path / "checkpoint.npz").exists() and folder.status().state == "finished":
            train(folder.config(), root, data)
            assert numbers(folder.path) == numbers(root / folder.path.name), folder.path.name
            assert arrays(folder.path) == arrays(root / folder.path.name), folder.path.name


def check_attempts(folder: RunFolder) -> None:
    """One at a time, each from a checkpoint of the one before: from the very end of one that could save."""
    events = list(folder.read())
    begun = [event for event in events if event["kind"] == "attempt"]
    for before, after in pairwise(begun):
        own = [event for event in events if event["attempt"] == before["attempt"]]
        steps = [event["step"] for event in own if event["kind"] == "metrics"]
        assert before["attempt"] < after["attempt"]
        assert max(event["time"] for event in own if event["kind"] != "end") <= after["time"], "two at a time"
        assert before["step"] <= after["step"] <= max(steps, default=before["step"])
        said = [event for event in own if event["kind"] == "end"][:1]
        if said and said[0]["cause"] == "signalled" and steps:
            assert after["step"] == max(steps), "what was saved is not trained again"


def check_files(folder: RunFolder) -> None:
    """No file is torn, and nothing half-written is left of a finished run."""
    assert not folder.events.exists() or whole(folder.events)
    if (folder.path / "status.json").exists():
        Status.model_validate_json((folder.path / "status.json").read_text())
        if folder.status().state == "finished":
            assert not list(folder.path.glob(".*.tmp"))


def check_database(bench: Bench) -> None:
    """Collected while everything died, it holds what one has that is made anew."""
    bench.call("collect")
    bench.call("collect", "--rebuild", "--db", bench.folder / "rebuilt.db")
    assert _tables(bench.root / "results.db") == _tables(bench.folder / "rebuilt.db")


def _tables(path: Path) -> dict[str, list]:
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        names = sqlalchemy.inspect(engine).get_table_names()
        return {name: sorted(map(repr, connection.exec_driver_sql(f'select * from "{name}"').all())) for name in names}
