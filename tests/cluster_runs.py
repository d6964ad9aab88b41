"""Small real runs on a real SLURM: a suite, the command line, and what it left behind."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from conftest import DATA, TASK

from mac_bench.overview import entries
from mac_bench.record import RunFolder
from slurm.one_machine.cluster import Cluster

HERE = Path(__file__).parent
PATIENCE_S = 240.0
"""for what takes some seconds, on a machine that is busy"""


class Bench:
    """A folder with a suite and its runs, and `mac-bench` as somebody would call it who has this cluster."""

    def __init__(self, folder: Path, data: Path, cluster: Cluster | None, **environment: str):
        self.folder, self.data, self.cluster = folder, data, cluster
        self.root = folder / "runs"
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]),
            "COUNTING_NAP_MS": "0",
            "MAC_BENCH_GRACE_S": "2",
            **(cluster.environment() if cluster else {}),
            **environment,
        }
        self.root.mkdir(parents=True)

    def suite(self, agents: dict, seeds: Sequence[int] = (0, 1, 2), steps: int = 60, name: str = "small") -> Path:
        """Write a suite of counting agents: label -> what the suite says of it."""
        content = {
            "name": name,
            "about": "scheduling",
            "steps": steps,
            "seeds": list(seeds),
            "tasks": {TASK: {"dataset": DATA}},
            "evaluation": {"every": steps // 2, "episodes": 1},
            "agents": {label: {"agent": "toy_agents.counting", **entry} for label, entry in agents.items()},
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def profile(self, name: str = "node", **changes) -> Path:
        """Write a profile of small jobs."""
        content = {"cpus": 1, "memory_gb": 0.3, "time_minutes": 10, "runs_per_job": 2, "checkpoint_minutes": 0.005}
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content | changes))
        return path

    def command(self, *arguments: object) -> list[str]:
        """`mac-bench` with these arguments."""
        return [sys.executable, "-m", "mac_bench", *map(str, arguments)]

    def call(self, verb: str, *arguments: object, code: int = 0, data: bool = False) -> str:
        """What it prints. Fails where it ends with another code."""
        options = ["--runs", self.root, *(["--data", self.data] if data else [])]
        done = subprocess.run(
            self.command(verb, *arguments, *options),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, f"{verb}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def submit(self, suite: Path, profile: Path, *options: object, code: int = 0) -> str:
        """Send it to the cluster."""
        return self.call("submit", suite, "--profile", profile, *options, code=code, data=True)

    def folders(self) -> list[RunFolder]:
        """All runs, by name."""
        return [RunFolder(path.parent) for path in sorted(self.root.glob("*/config.json"))]

    def states(self, suite: str = "small") -> list[str]:
        """Of its runs, by their folders alone."""
        return [line.state for line in entries(self.root, suite)]

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Until it is true; the test fails where it never becomes so."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, f"{what} did not come; {self.report()}"
            time.sleep(0.2)

    def report(self) -> str:
        """What there is to know after a failure."""
        said = [
            f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in self.root.glob("jobs/*/log/*.out")
        ]
        words = [f"{line.run} {line.state} {line.reason}" for line in entries(self.root)]
        queue = self.cluster.run("squeue", "--array").stdout if self.cluster else ""
        return "\n".join([*words, queue, *said[-6:]])


def ends(folder: RunFolder) -> list[tuple[str, str]]:
    """State and cause of each attempt's end; of two ends of an attempt the later one counts."""
    found = {event["attempt"]: (event["state"], event["cause"]) for event in folder.read() if event["kind"] == "end"}
    return [found[attempt] for attempt in sorted(found)]


def starts(folder: RunFolder) -> list[int]:
    """The updates after which its attempts began."""
    return [event["step"] for event in folder.read() if event["kind"] == "attempt"]


def whole(path: Path) -> bool:
    """Whether every line of a log can be read."""
    for line in path.read_text().splitlines():
        json.loads(line)
    return path.read_text().endswith("\n")
