"""A real SLURM on this machine: a controller, some nodes and GPUs that are not there, on loopback and in one folder.

For tests, and for people without a cluster. `mac-bench cluster start` starts one; from Python:

    with started(folder, nodes=2) as cluster:
        subprocess.run(["sbatch", "job.sh"], env=os.environ | cluster.environment())

Every daemon writes its number to run/NAME.pid and carries the folder's name in its environment. Only a process that has
both is ever signalled, so any number of clusters, and a real one, can live side by side.
"""

import fcntl
import getpass
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mac_bench.errors import UserError, unknown
from slurm.one_machine import files as cluster_files
from slurm.one_machine import processes
from slurm.one_machine.machine import daemon_path, loopback_address, missing_packages

MARK = "MAC_BENCH_CLUSTER"
"""variable that every daemon inherits; its value is the cluster's folder"""
WAIT_S = 30.0
ENDING = {"slurmd": 2.0, "slurmctld": 10.0, "slurmdbd": 10.0, "mariadbd": 30.0, "munged": 5.0}
"""in which order the daemons end, and how many seconds each may take; nodes would wait for a controller that is gone"""
JOBS_S = 3.0
"""how long jobs may take to end when the cluster is stopped"""
SOCKET_LENGTH = 107
"""of a unix socket's path, at most"""
LAST_JOB = 67_043_328
"""SLURM's highest number of a job"""

Accounting = Literal["none", "shim", "dbd"]
"""no sacct; sacct answered by squeue; SLURM's own, with its database"""


class Daemon(NamedTuple):
    """One program of the cluster that runs in the background."""

    name: str
    """of its pid file"""
    command: list[str]
    ready: Callable[[], bool] = lambda: True
    """whether it answers, once it runs"""


@dataclass(frozen=True)
class Cluster:
    """A cluster in a folder. Making this object starts nothing."""

    dir: Path
    nodes: int = 3
    """they are called n1, n2, ..."""
    cpus: int = 4
    """per node; they need not exist"""
    gpus: int = 2
    """per node; none of them exists"""
    memory_mb: int = 4000
    """per node"""
    accounting: Accounting = "none"
    port: int | None = None
    """of the controller; the database's daemon and the nodes have the next ones. None: free ones are found"""
    max_array_size: int = 1001
    max_job_count: int = 10_000
    min_job_age_s: int = 300
    """how long squeue knows a job after its end"""
    job_requeue: bool = True
    """whether a job may be requeued that does not say"""
    node_timeout_s: int = 10
    """silence after which a node counts as lost"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dir", Path(self.dir).absolute())

    @classmethod
    def at(cls, dir: Path) -> "Cluster":
        """The cluster that was started in a folder. Raises UserError where there was none."""
        try:
            return cls(dir, **json.loads((dir / "cluster.json").read_text()))
        except FileNotFoundError:
            raise UserError(f"no cluster in {dir}; `mac-bench cluster start --dir {dir}` makes one") from None
        except (TypeError, ValueError):
            raise UserError(f"{dir}/cluster.json is damaged or of another version; stop the cluster there") from None

    def start(self) -> None:
        """Start what does not run yet, and wait until every node is there: 2 seconds from nothing.

        Raises UserError where packages are missing, where the host's name is not on loopback, where a port is taken,
        and where a cluster with other settings runs in the folder.
        """
        if missing := missing_packages(self.accounting == "dbd"):
            raise UserError(f"packages are missing; as root, --install installs them: {' '.join(missing)}")
        address = loopback_address()
        self._check()
        with self._locked():
            first = not self.running()
            if first:
                cluster_files.write(self, address)
            elif replace(Cluster.at(self.dir), port=self.port) != self:
                raise UserError(f"a cluster with other settings runs in {self.dir}; stop it first")
            try:
                if self.accounting == "dbd":
                    self._make_database()
                for daemon in self._daemons():
                    self._start(daemon)
                self._wait(lambda: self.nodes_up() == self.nodes, "the nodes")
            except BaseException:
                if first:
                    self._stop()
                raise

    def stop(self, clean: bool = True) -> list[int]:
        """Cancel all jobs, end the daemons and whatever is left of a job. Nothing happens where nothing runs.

        `clean` removes the folder; without it a new start continues, with the numbers of jobs too. Returns the
        processes of jobs that had to be killed.
        """
        if not (self.dir / "cluster.json").exists():
            return []
        with self._locked():
            killed = self._stop()
            if clean and self.dir.exists():  # another caller was faster
                shutil.rmtree(self.dir)
        return killed

    def environment(self) -> dict[str, str]:
        """The variables that point SLURM's programs, and what calls them, to this cluster."""
        path = os.environ.get("PATH", os.defpath)
        bin = str(self.dir / "bin")
        if self.accounting == "shim" and bin not in path.split(os.pathsep):
            path = bin + os.pathsep + path
        return {"SLURM_CONF": str(self.dir / "etc/slurm.conf"), "PATH": path}

    def kill_node(self, name: str, hard: bool = False, report: bool = False) -> None:
        """Lose a node. Its slurmd dies, as in a crash, while its jobs' processes run on; `hard`: they die too, as in a
        power cut.

        The controller notices half a minute later, a minute if the node is back before; with `report` at once.
        Raises UserError for a node that is not there or does not run.
        """
        self._check_node(name)
        with self._locked():
            daemon = f"slurmd-{name}"
            if daemon not in self.running():
                raise UserError(f"node {name} is not running")
            processes.end(lambda: [pid for other, pid in self.running().items() if other == daemon])
            if hard:
                self._end_jobs(name)
            if report:
                self.run("scontrol", "update", f"nodename={name}", "state=down", "reason=lost")

    def restart_node(self, name: str) -> None:
        """Bring a lost node back; nothing happens where it runs. Returns as soon as slurmd does."""
        self._check_node(name)
        with self._locked():
            if self.pid("slurmctld") is None:
                raise UserError(f"no cluster runs in {self.dir}")
            self._start(self._slurmd(name))

    def run(self, *command: str, timeout_s: float = 20.0) -> "subprocess.CompletedProcess[str]":
        """One of SLURM's programs, on this cluster; what it prints is captured."""
        environment = outside_slurm() | self.environment()
        return subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s
        )

    def running(self) -> dict[str, int]:
        """The daemons that run now: name -> process."""
        names = sorted(path.stem for path in (self.dir / "run").glob("*.pid"))
        return {name: pid for name in names if (pid := self.pid(name)) is not None}

    def pid(self, name: str) -> int | None:
        """A daemon's process; None where none of this cluster runs under that name."""
        with suppress(OSError, ValueError):
            pid = int((self.dir / "run" / f"{name}.pid").read_text())
            # Debian calls slurmctld slurmctld-wlm
            mine = processes.program(pid).startswith(_program(name))
            return pid if mine and processes.environment(pid).get(MARK) == str(self.dir) else None
        return None

    def nodes_up(self) -> int:
        """Number of nodes that the controller is in touch with, whether they are busy or not."""
        answer = self.run("sinfo", "--noheader", "--Node", "--partition=normal", "--format=%t")
        # a mark behind a state, such as mix*: the node does not answer
        return sum(state.isalpha() and state not in ("down", "fail", "unk") for state in answer.stdout.split())

    def job_processes(self, node: str | None = None) -> set[int]:
        """Processes of jobs, of all nodes or one, with those that a job left behind in the background."""
        found = set()
        for pid in processes.everyone():
            variables = processes.environment(pid)
            # both names: in the terminal of somebody who called salloc, SLURM sets only that of the cluster
            where = variables.get("SLURMD_NODENAME")
            if variables.get("SLURM_CLUSTER_NAME") == self.name and where and node in (None, where):
                found.add(pid)
        return found

    @property
    def name(self) -> str:
        """SLURM's name for it, which no other folder's cluster has."""
        return "one_" + hashlib.sha256(str(self.dir).encode()).hexdigest()[:12]

    @property
    def daemon_names(self) -> list[str]:
        """In the order in which they are started."""
        return [daemon.name for daemon in self._daemons()]

    @property
    def node_names(self) -> list[str]:
        """n1, n2, ..."""
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    # ---- starting

    def _check(self) -> None:
        for what in ("nodes", "cpus", "memory_mb", "max_array_size", "max_job_count", "min_job_age_s"):
            if getattr(self, what) < 1:
                raise UserError(f"{what} is {getattr(self, what)}; it must be at least 1")
        if self.gpus < 0:
            raise UserError(f"gpus is {self.gpus}; it must be at least 0")
        if self.port is not None and not 1 <= self.port <= 65_535 - self.nodes - 1:
            raise UserError(f"port is {self.port}; it must be between 1 and {65_535 - self.nodes - 1}")
        if any(letter.isspace() or letter in "#%,[]\"'\\" for letter in str(self.dir)):
            raise UserError(f"{self.dir}: SLURM's settings have no way to write such a path; choose a plain one")
        last = self.node_names[-1]
        # where the step of a job listens; where it cannot, jobs fail without a word
        longest = self.dir / f"spool/{last}/{last}_{LAST_JOB}.{2**32 - 1}"
        if (over := len(str(longest)) - SOCKET_LENGTH) > 0:
            raise UserError(
                f"{self.dir}: {over} letters too long, because sockets in it have long names; choose another"
            )
        if self.dir.exists() and self.dir.stat().st_uid != os.getuid():
            raise UserError(f"{self.dir} belongs to somebody else")
        names = {path.name for path in self.dir.iterdir()} if self.dir.exists() else set()
        if names - {"lock"} and "cluster.json" not in names:
            raise UserError(f"{self.dir} holds something else; choose a folder that is empty or not there yet")

    def _check_node(self, name: str) -> None:
        if name not in self.node_names:
            raise unknown("node", name, self.node_names)

    def _daemons(self) -> Iterator[Daemon]:
        """In the order in which they need each other."""
        munge = self.dir / "munge"
        yield Daemon(
            "munged",
            [
                *("munged", f"--socket={munge}/socket", f"--key-file={munge}/key", f"--seed-file={munge}/seed"),
                *(f"--pid-file={self.dir}/run/munged.pid", f"--log-file={self.dir}/log/munged.log", "--num-threads=2"),
                "--force",  # a folder in which only its owner may look is no reason to refuse
            ],
        )
        if self.accounting == "dbd":
            yield Daemon("mariadbd", self._mariadbd(), (self.dir / "mysql/socket").exists)
            yield Daemon("slurmdbd", ["slurmdbd"], lambda: self._answers("sacctmgr", "--noheader", "list", "cluster"))
        yield Daemon("slurmctld", ["slurmctld"], lambda: self._answers("sinfo", "--noheader"))
        for name in self.node_names:
            yield self._slurmd(name)

    def _mariadbd(self) -> list[str]:
        """A database without a network: its socket is in a folder of which only its owner knows the inside."""
        return [
            *("setsid", "--fork", "mariadbd", *self._database(), "--skip-networking"),
            *(f"--socket={self.dir}/mysql/socket", f"--pid-file={self.dir}/run/mariadbd.pid"),
            *(f"--log-error={self.dir}/log/mariadbd.log", "--performance-schema=OFF"),
            # what SLURM's manual asks for, and less care for a power cut than for speed
            *("--innodb-buffer-pool-size=32M", "--innodb-lock-wait-timeout=900", "--innodb-flush-log-at-trx-commit=0"),
        ]

    def _database(self) -> list[str]:
        return [
            *("--no-defaults", f"--datadir={self.dir}/mysql", f"--user={getpass.getuser()}"),
            "--innodb-log-file-size=8M",
        ]

    def _make_database(self) -> None:
        folder = self.dir / "mysql"
        if (folder / "mysql").exists():
            return
        folder.mkdir(mode=0o700, exist_ok=True)
        self._call(
            ["mariadb-install-db", *self._database(), "--auth-root-authentication-method=normal", "--skip-test-db"]
        )

    def _slurmd(self, node: str) -> Daemon:
        return Daemon(f"slurmd-{node}", ["slurmd", "-N", node])

    def _start(self, daemon: Daemon) -> None:
        if self.pid(daemon.name) is not None:
            return
        (self.dir / "run" / f"{daemon.name}.pid").unlink(missing_ok=True)
        self._call(daemon.command)
        self._wait(lambda: self.pid(daemon.name) is not None and daemon.ready(), daemon.name)

    def _call(self, command: list[str]) -> None:
        """Run a program as part of the cluster; what it leaves in the background carries the mark."""
        environment = outside_slurm() | self.environment()
        environment |= {MARK: str(self.dir), "MYSQL_UNIX_PORT": f"{self.dir}/mysql/socket"}
        environment["PATH"] = daemon_path(environment["PATH"])
        program = shutil.which(command[0], path=environment["PATH"])
        if program is None:
            raise UserError(f"{command[0]} is not installed")
        with open(self.dir / "log/start.log", "ab") as log:
            done = subprocess.run(
                [program, *command[1:]],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.dir / "log",
            )
        if done.returncode:
            raise UserError(f"{command[0]} failed: {self._last_words(command[0])}")

    def _answers(self, *command: str) -> bool:
        return self.run(*command).returncode == 0

    def _wait(self, until: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + WAIT_S
        while not until():
            if time.monotonic() > end:
                raise UserError(f"no answer from {what} for {WAIT_S:.0f} s: {self._last_words(what)}")
            time.sleep(0.05)

    def _last_words(self, name: str) -> str:
        """The last that a daemon's log says of an error, or where to look for it."""
        for log in (self.dir / f"log/{name}.log", self.dir / "log/start.log"):
            if log.exists():
                lines = log.read_text(errors="replace").splitlines()
                for word in ("fatal", "error"):
                    if said := [line for line in lines if word in line.lower()]:
                        return f"{said[-1]} ({log})"
        return f"see {self.dir / 'log'}"

    # ---- ending

    def _stop(self) -> list[int]:
        if self.pid("slurmctld") is not None:
            with suppress(subprocess.TimeoutExpired):
                self.run("scancel", "--quiet", f"--user={getpass.getuser()}")
        end = time.monotonic() + JOBS_S
        while self._stepds() and time.monotonic() < end:
            time.sleep(0.05)
        killed = self._end_jobs()
        for program, patience_s in ENDING.items():
            processes.end(
                lambda program=program: [pid for name, pid in self.running().items() if _program(name) == program],
                patience_s,
            )
        killed += self._end_jobs()  # what was just being started
        for path in (self.dir / "run").glob("*.pid"):
            path.unlink()
        return killed

    def _end_jobs(self, node: str | None = None) -> list[int]:
        """Kill what is left of jobs, of all nodes or one."""

        def parts() -> list[int]:
            # its keeper first, so that it cannot report a job's end; below it, what has lost the job's variables
            stepds = self._stepds(node)
            return list(dict.fromkeys([*stepds, *processes.below(stepds), *self.job_processes(node)]))

        killed = processes.end(parts)
        return killed + processes.end(parts)  # what was begun while the others were ended

    def _stepds(self, node: str | None = None) -> set[int]:
        """slurmstepd, one for each step of a job, writes to its node's log and has no mark in its environment."""
        found = set()
        for pid in processes.everyone():
            mine = processes.program(pid).startswith("slurmstepd") and processes.folder(pid) == self.dir / "log"
            if mine and (node is None or self.dir / f"log/slurmd-{node}.log" in processes.files(pid)):
                found.add(pid)
        return found

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One caller at a time."""
        self.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self.dir / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@contextmanager
def started(dir: Path, **settings: Any) -> Iterator[Cluster]:
    """A cluster that runs inside of `with`. Settings are the fields of Cluster."""
    cluster = Cluster(dir, **settings)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()


def _program(name: str) -> str:
    """What a daemon of that name runs; for a node, slurmd-n1, slurmd."""
    return name.split("-")[0]


def outside_slurm() -> dict[str, str]:
    """The environment of this process without what an outer SLURM has put there, which would be taken for settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH_", "SRUN_"))}
