"""The scheduler with many runs: what submitting costs on a real SLURM, and looking at run folders.

    python benchmarks/scheduler.py [--submit 2000] [--look 10000]

A one-machine SLURM is started for it and stopped. Submitted runs are held by it, so that nothing trains meanwhile;
folders that are looked at are synthetic. Seconds are medians over three calls of the whole command from a shell, its
start included; for submitting, of one call. In brackets the processor time of the command and what it starts, which
other work on the machine changes less. SLURM's commands are counted by wrappers on the PATH.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import yaml
from rich.console import Console
from rich.table import Table

from mac_bench.config import EvalConfig, RunConfig
from mac_bench.generate import generate
from mac_bench.record import Status
from slurm import submission
from slurm.one_machine.cluster import started
from slurm.profile import Profile

DATA, TASK = "pointmaze-medium-navigate-v0", "pointmaze-medium-navigate-singletask-v0"
ROUNDS = 3
LOOK_S = 2.0
"""what is aimed at for the states of 10,000 runs"""
PROGRAMS = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo")
OPEN = 10
"""one in so many runs is not settled"""
PER_ARRAY = 1000


COMMAND = """
import atexit, re, runpy, sys
from pathlib import Path
peak = Path(sys.argv.pop(1))
atexit.register(lambda: peak.write_text(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
runpy.run_module("mac_bench", run_name="__main__", alter_sys=True)
"""
"""`mac-bench`, which also writes down its peak memory in kB: what wait4 tells may be that of the process before"""


class Call(NamedTuple):
    """One command, measured."""

    seconds: float
    processor_s: float
    memory_mb: float
    """of the command itself"""
    slurm: Counter[str]
    """how often each of SLURM's commands was called"""
    said: str


def call(arguments: list[str], environment: Mapping[str, str], counted: Path) -> Call:
    """`mac-bench` with these arguments. Fails where it does."""
    counted.write_text("")
    peak = counted.with_name("peak")
    with tempfile.TemporaryFile("w+") as said:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(peak), *arguments], env=environment, stdout=said, stderr=said
        )
        _, code, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(code)
        said.seek(0)
        text = said.read()
    if process.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(arguments)}: {text}")
    slurm = Counter(counted.read_text().split())
    return Call(
        seconds, used.ru_utime + used.ru_stime, int(peak.read_text()) / 1024, slurm, text.strip().splitlines()[-1]
    )


def wrapped(folder: Path, counted: Path) -> str:
    """A PATH on which SLURM's commands are counted."""
    folder.mkdir()
    for name in PROGRAMS:
        if (real := shutil.which(name)) is not None:
            (folder / name).write_text(f'#!/bin/sh\necho {name} >> "{counted}"\nexec "{real}" "$@"\n')
            (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def submitting(folder: Path, number: int, environment: Mapping[str, str], counted: Path) -> Iterator[tuple[str, Call]]:
    """A suite of so many runs is sent, sent again, and looked at in the queue."""
    generate(DATA, folder / "data", episodes=1, length=20)
    suite = {"name": "many", "about": "scheduling", "steps": 10, "seeds": list(range(number))}
    suite |= {"tasks": {TASK: {"dataset": DATA}}, "evaluation": {"every": 10, "episodes": 1}}
    suite["agents"] = {"chance": {"agent": "random_actions"}}
    (folder / "many.yaml").write_text(yaml.safe_dump(suite))
    profile = {"cpus": 1, "memory_gb": 1, "time_minutes": 5, "max_jobs": 1000, "extra": {"hold": True}}
    (folder / "held.yaml").write_text(yaml.safe_dump(profile))
    where = ["--runs", str(folder / "runs")]
    submit = ["submit", str(folder / "many.yaml"), "-p", str(folder / "held.yaml"), "--data", str(folder / "data")]
    yield f"submit {number:,} runs", call([*submit, *where], environment, counted)
    yield "submit again: all are queued", call([*submit, *where], environment, counted)
    yield f"status of {number:,} queued runs", call(["status", *where], environment, counted)
    yield f"cancel {number:,} queued runs", call(["cancel", "many", *where], environment, counted)


def write_runs(root: Path, number: int) -> None:
    """Run folders as they are when one in OPEN is still queued, and the suite that they belong to."""
    protocol, members = EvalConfig(every=500, episodes=10), []
    for seed in range(number):
        config = RunConfig(
            agent="mac", version=1, task=TASK, dataset=DATA, seed=seed, steps=1000, settings={}, evaluation=protocol
        )
        members.append({"run": config.id, "label": "mac", "tags": [], "config": config.model_dump(mode="json")})
        path = root / config.id
        path.mkdir(parents=True)
        (path / "config.json").write_text(config.model_dump_json(indent=2))
        if seed % OPEN:
            status = Status(
                state="finished", step=1000, steps=1000, attempt=1, heartbeat=time.time(), host="n1", pid=1, job="1"
            )
            (path / "status.json").write_text(status.model_dump_json())
            (path / "events.jsonl").write_text('{"kind": "attempt", "attempt": 1, "step": 0, "time": 1.0}\n')
    (root / "suites").mkdir()
    suite = {"name": "many", "about": "", "average_last": 1, "members": members}
    (root / "suites" / "many.json").write_text(json.dumps(suite))


def send_all(root: Path) -> None:
    """Submissions that have all runs, in arrays that no cluster knows."""
    runs = sorted(path.parent.name for path in root.glob("*/config.json"))
    profile = Profile(time_minutes=60)
    for first in range(0, len(runs), PER_ARRAY):
        sent = submission.new("many", "slurm", submission.Options(data=""))
        packs = [[run] for run in runs[first : first + PER_ARRAY]]
        sent.arrays = [submission.Array(profile=profile, packs=packs, job=str(1 + first // PER_ARRAY))]
        sent.profile = profile
        submission.write(root, sent)


def queue_all(folder: Path, number: int, counted: Path) -> None:
    """A squeue that has every element in the queue, in the place of a real one."""
    lines = [f"{1 + n // PER_ARRAY}_{n % PER_ARRAY}|PENDING|Priority|" for n in range(number)]
    (folder / "queue").write_text("\n".join(lines) + "\n")
    (folder / "squeue").write_text(f'#!/bin/sh\necho squeue >> "{counted}"\nexec cat "{folder}/queue"\n')
    (folder / "sbatch").write_text("#!/bin/sh\nexit 1\n")
    for name in ("squeue", "sbatch"):
        (folder / name).chmod(0o755)


def looking(folder: Path, number: int, environment: Mapping[str, str], counted: Path) -> Iterator[tuple[str, Call]]:
    """The same folders, trained here, and sent to a cluster."""
    root = folder / "looked at"
    write_runs(root, number)
    where = ["--runs", str(root)]
    yield f"status of {number:,} runs, no cluster", _median(["status", *where], environment, counted)
    send_all(root)
    (folder / "fake").mkdir()
    queue_all(folder / "fake", number, counted)
    environment = {**environment, "PATH": f"{folder / 'fake'}{os.pathsep}{environment['PATH']}"}
    text = f"{number:,} runs, {number // OPEN:,} of them queued"
    yield f"status of {text}", _median(["status", *where], environment, counted)
    yield (
        f"tend and status (watch --once) of {text}",
        _median(["watch", "many", "--once", *where], environment, counted),
    )


def _median(arguments: list[str], environment: Mapping[str, str], counted: Path) -> Call:
    calls = [call(arguments, environment, counted) for _ in range(ROUNDS)]
    seconds = statistics.median(each.seconds for each in calls)
    return calls[-1]._replace(seconds=seconds, processor_s=statistics.median(each.processor_s for each in calls))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submit", type=int, default=2000, metavar="RUNS")
    parser.add_argument("--look", type=int, default=10_000, metavar="RUNS")
    asked = parser.parse_args()
    table = Table("what", "seconds", "peak memory, MB", "SLURM's commands", "it said")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counted = folder / "counted"
        environment = {**os.environ, "PATH": wrapped(folder / "wrappers", counted)}
        found: list[tuple[str, Call]] = []
        if asked.submit:
            with started(folder / "cluster", nodes=1) as cluster:
                own = environment | {"SLURM_CONF": cluster.environment()["SLURM_CONF"]}
                found += submitting(folder, asked.submit, own, counted)
        if asked.look:
            found += looking(folder, asked.look, environment, counted)
    for what, each in found:
        slow = " !" if "status" in what and each.seconds > LOOK_S else ""
        slurm = ", ".join(f"{number} {name}" for name, number in each.slurm.items()) or "none"
        table.add_row(
            what, f"{each.seconds:.1f} ({each.processor_s:.1f}){slow}", f"{each.memory_mb:.0f}", slurm, each.said
        )
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
