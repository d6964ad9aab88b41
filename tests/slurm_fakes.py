"""SLURM's commands as small scripts, and runs that were submitted to them: for tests in which no job has to run."""

import json
import os
import time
from pathlib import Path

from run_folders import planned, write_status

from mac_bench.record import RunFolder
from slurm import submission
from slurm.cluster import Job
from slurm.profile import Profile
from slurm.submission import Array, Options, Submission

NODE = Profile(cpus=2, memory_gb=2, time_minutes=60, runs_per_job=2, keeper=False)


def program(folder: Path, name: str, script: str) -> None:
    """Make a command that this process finds before all others."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)


def fake_slurm(monkeypatch, folder: Path, *, accepts: int = 1000, array_size: int = 1001) -> Path:
    """A cluster whose sbatch takes so many scripts, and then says why not. Returns the folder that keeps them."""
    bin_, kept = folder / "bin", folder / "kept"
    kept.mkdir()
    program(
        bin_,
        "sbatch",
        f"""n=$(ls {kept} | wc -l)
if [ $n -ge {accepts} ]; then echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2
  echo 'sbatch: error: Batch job submission failed: Job violates accounting/QOS policy' >&2; exit 1; fi
cp "$1" {kept}/$((n + 1)).sh; echo "Submitted batch job $((100 + n))" """,
    )
    program(bin_, "scontrol", f"echo 'MaxArraySize = {array_size}'; echo 'MaxJobCount = 10000'")
    program(bin_, "squeue", "true")
    program(bin_, "sacct", "exit 1")
    program(bin_, "srun", "true")
    program(bin_, "scancel", "true")
    program(bin_, "sinfo", "echo cpu; echo gpu")
    monkeypatch.setenv("PATH", f"{bin_}{os.pathsep}{os.environ['PATH']}")
    return kept


def sent(
    root: Path, packs: list[list[str]], job: str | None = "7", *, name: str = "sent", at: float | None = None, **changes
) -> Submission:
    """A submission of one array, as it is written down."""
    profile = NODE.model_copy(update=changes)
    made = Submission(
        id=name, suite="first", place="slurm", time=time.time() if at is None else at, host="login", pid=1,
        options=Options(data="/data"), code="/code", profile=profile,
        arrays=[Array(profile=profile, packs=packs, job=job)],
    )  # fmt: skip
    submission.write(root, made)
    return made


def folders(root: Path, count: int) -> list[RunFolder]:
    """Folders of runs that have not begun."""
    return [RunFolder.create(root, planned(seed=seed)) for seed in range(count)]


def say(folder: RunFolder, state: str, *, job: str | None = "7", attempt: int = 1, step: int = 5, **words) -> None:
    """Let a run have said this last, in this job, just now."""
    silent_s = words.pop("silent_s", 0.0)
    run = folder.config()
    write_status(folder.path.parent, run, state, step, attempt, time.time() - silent_s, words.get("reason"))
    path = folder.path / "status.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "job": job, **words}))
    folder.append("attempt", attempt=attempt, step=0, host="node1", pid=7, job=job, environment={})
    if state != "running":
        folder.append(
            "end", attempt=attempt, step=step, state=state, reason=words.get("reason"), cause=words.get("cause")
        )


def answer(monkeypatch, jobs: dict[str, Job] | Exception) -> None:
    """What SLURM knows; an exception: it gives no answer."""
    from slurm import cluster

    def jobs_(wanted):
        if isinstance(jobs, Exception):
            raise jobs
        return {name: job for name, job in jobs.items() if name in set(wanted)}

    monkeypatch.setattr(cluster, "jobs", jobs_)
