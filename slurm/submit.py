"""Sends runs to a cluster: packs of runs become elements of job arrays. Returns at once; nothing has to stay behind."""

import io
import math
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mac_bench.errors import UserError
from slurm import cluster, submission
from slurm.policy import Decision
from slurm.profile import Profile
from slurm.submission import Array, Submission

if TYPE_CHECKING:
    from submitit import SlurmExecutor

KEEPER = {"cpus": 1, "memory_gb": 2.0, "time_minutes": 30, "signal_s": 60, "gpus": 0, "gpu_type": None}
"""what the job asks for that continues what died"""
UNUSABLE = re.compile(r"[%\\:\n\r\0]")
"""what sbatch reads as something else in the name of a log file, and Python in a path to its modules"""


class Ask(NamedTuple):
    """A run that is to be trained, and what for."""

    run: str
    profile: Profile
    """with what the suite says of this run"""
    decision: Decision = Decision(True, "")
    """what its attempts so far have taught"""

    @property
    def wanted(self) -> Profile:
        """The profile with what was learned."""
        shared = max(1, int(self.profile.runs_per_job * self.decision.sharing))
        memory = self.profile.memory_gb * self.decision.memory
        return self.profile.model_copy(update={"memory_gb": memory, "runs_per_job": shared})


class Sent(NamedTuple):
    """What became of a submission."""

    submission: Submission
    refused: str | None
    """the cluster's words where it took only some of the arrays, or none"""
    unkept: str | None = None
    """its words where it did not take the job that continues what dies"""

    @property
    def accepted(self) -> int:
        """Runs that the cluster has."""
        return sum(len(pack) for array in self.submission.arrays if array.job for pack in array.packs)


def arrays(asks: Iterable[Ask], array_size: int) -> list[Array]:
    """Runs that ask for the same share jobs and arrays; no array is larger than the cluster allows.

    `max_jobs` holds over all arrays of a profile: where they are fewer than it they share it, else some wait for others
    (`chain`).
    """
    groups: dict[tuple[str, str | None], list[Ask]] = {}
    for ask in asks:
        groups.setdefault((ask.wanted.model_dump_json(), ask.decision.avoid), []).append(ask)
    found: list[Array] = []
    for (_, avoid), group in groups.items():
        profile = group[0].wanted
        packs = [[ask.run for ask in pack] for pack in cluster.chunks(group, profile.runs_per_job)]
        found += [Array(profile=profile, packs=list(part), exclude=avoid) for part in cluster.chunks(packs, array_size)]
    for number, array in enumerate(found):
        lanes = min(array.profile.max_jobs, len(found))
        array.at_a_time = array.profile.max_jobs // lanes + (number % lanes < array.profile.max_jobs % lanes)
    return found


def chain(number: int, found: Sequence[Array]) -> int | None:
    """Which array must be over before this one begins, so that no more than `max_jobs` run; None: none."""
    before = number - min(found[number].profile.max_jobs, len(found))
    return before if before >= 0 else None


def send(sent: Submission, root: Path, asks: Sequence[Ask], function: str = "work") -> Sent:
    """Submit runs, array by array. What the cluster refuses stays as it is, for the next time.

    `function` of `slurm/jobs.py` does an element. Raises UserError where the cluster does not answer, or the folder of
    runs has a name that sbatch cannot read.
    """
    from slurm import jobs  # which submit as well

    check_root(root)
    sent.arrays = arrays(asks, cluster.limits().array_size)
    submission.write(root, sent)
    unkept = None
    for number, array in enumerate(sent.arrays):
        before = chain(number, sent.arrays)
        dependency = f"afterany:{sent.arrays[before].job}" if before is not None else None
        work = [(str(root), sent.id, number, element) for element in range(len(array.packs))]
        try:
            job = _avoiding(sent, root, array, getattr(jobs, function), work, dependency)
        except UserError as error:
            if number == 0:  # nothing was sent
                shutil.rmtree(submission.folder(root, sent.id), ignore_errors=True)
            return Sent(sent, str(error))
        array.job = job
        submission.write(root, sent)  # after each: a job that nobody knows of cannot be cancelled
        if array.profile.keeper:
            try:
                name = _sbatch(sent, root, _keeper(array), jobs.keep, [(str(root),)], f"afterany:{job}")
            except UserError as error:
                unkept = str(error)
                continue
            sent.keepers.append(name)
            submission.write(root, sent)
    return Sent(sent, None, unkept)


def single(
    sent: Submission,
    root: Path,
    profile: Profile,
    function: str,
    arguments: tuple[str, ...],
    after: Sequence[str] = (),
) -> str:
    """Id of a job that does one function of `slurm/jobs.py`, once the jobs `after` are over, however they ended. Raises
    UserError with what sbatch said."""
    from slurm import jobs  # which submit as well

    check_root(root)
    submission.write(root, sent)
    dependency = ":".join(("afterany", *after)) if after else None
    return _sbatch(sent, root, Array(profile=profile, packs=[[]]), getattr(jobs, function), [arguments], dependency)


def _keeper(array: Array) -> Array:
    """The job that waits for an array."""
    return Array(profile=keeper_of(array.profile), packs=[[]])


def keeper_of(profile: Profile) -> Profile:
    """What the small job asks for that waits for an array with this profile."""
    elsewhere = {"partition": profile.keeper_partition, "extra": {}} if profile.keeper_partition else {}
    return profile.model_copy(update={**KEEPER, **elsewhere})


def text(sent: Submission, root: Path, array: Array, dependency: str | None = None) -> str:
    """What sbatch is given for an array."""
    executor = _executor(sent, root, array, dependency)
    if len(array.packs) > 1:
        executor.parameters["map_count"] = len(array.packs)
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def texts(sent: Submission, root: Path, asks: Sequence[Ask], array_size: int) -> Iterator[str]:
    """What sbatch would be given to send runs: each array, and the job that waits for it to continue what died. In the
    place of the id of the first array's job they have JOB1, and so on."""
    sent.arrays = arrays(asks, array_size)
    for number, array in enumerate(sent.arrays):
        before = chain(number, sent.arrays)
        yield text(sent, root, array, f"afterany:JOB{before + 1}" if before is not None else None)
        if array.profile.keeper:
            yield text(sent, root, _keeper(array), f"afterany:JOB{number + 1}")


def check_root(root: Path) -> None:
    """Raises UserError where sbatch would read the folder's name as something else."""
    if UNUSABLE.search(str(root.absolute())):
        raise UserError(f"--runs {str(root)!r}: jobs cannot be in a folder with %, \\, : or a line break in its name")


def _executor(sent: Submission, root: Path, array: Array, dependency: str | None) -> "SlurmExecutor":
    # only here, where something is sent: loading it resets the logging of the whole process
    from submitit import SlurmExecutor

    class Executor(SlurmExecutor):
        """Also makes the text where there is no SLURM."""

        @classmethod
        def affinity(cls) -> int:
            return 2

    log = submission.folder(root.absolute(), sent.id) / "log"
    executor = Executor(folder=log, python=array.profile.python, max_num_timeout=0)
    executor.update_parameters(**_parameters(sent, array, dependency))
    return executor


def _parameters(sent: Submission, array: Array, dependency: str | None) -> dict[str, Any]:
    """As submitit calls them."""
    asked = array.profile
    found: dict[str, Any] = {
        "job_name": "mac-bench-" + re.sub(r"[^\w.-]", "_", sent.suite, flags=re.ASCII),
        "time": asked.time_minutes,
        "cpus_per_task": asked.cpus,
        "mem": f"{math.ceil(asked.memory_gb * 1024)}MB",
        "signal_delay_s": asked.signal_s,
        "array_parallelism": array.at_a_time,
        "stderr_to_stdout": True,
        "wckey": None,
        # since 22.05 a step does not inherit the job's number of cores
        "srun_args": [f"--cpus-per-task={asked.cpus}"],
        # the copy of the code comes before what is installed, and before the folder in which somebody goes on working,
        # which Python would put first
        "setup": [
            *asked.setup,
            f'export PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(sent.code)}${{PYTHONPATH:+:$PYTHONPATH}}:"$PWD"',
        ],
        "additional_parameters": {
            **{name: value for name, value in asked.extra.items() if value is not False},
            ("requeue" if asked.requeue else "no-requeue"): True,
        },
    }
    found |= {name: value for name in ("partition", "account", "qos") if (value := getattr(asked, name)) is not None}
    if asked.gpus:
        kind = f"{asked.gpu_type}:" if asked.gpu_type else ""
        found["gres"] = f"gpu:{kind}{asked.gpus}"
    if dependency:
        found["dependency"] = dependency
    if array.exclude:
        found["exclude"] = array.exclude
    return found


def _sbatch(sent: Submission, root: Path, array: Array, function, work: list[tuple], dependency: str | None) -> str:
    """The id of the job that does `function(*work[i])` in its element i. Raises UserError with what sbatch said."""
    executor = _executor(sent, root, array, dependency)
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    with cluster.cleaned(), redirect_stderr(io.StringIO()):  # submitit repeats what sbatch says; we say it in one line
        try:
            sent_jobs = executor.map_array(function, *zip(*work, strict=True))
        except (FailedJobError, FailedSubmissionError) as error:
            raise UserError(f"sbatch: {_last_words(str(error))}") from None
        except OSError as error:
            raise UserError(f"{executor.folder}: {error.strerror or error}") from None
    return sent_jobs[0].job_id.split("_")[0]


def _avoiding(sent: Submission, root: Path, array: Array, function, work: list[tuple], dependency: str | None) -> str:
    """`_sbatch`; without avoiding a node where there is no other."""
    try:
        return _sbatch(sent, root, array, function, work, dependency)
    except UserError:
        if array.exclude is None:
            raise
        array.exclude = None
        return _sbatch(sent, root, array, function, work, dependency)


def _last_words(said: str) -> str:
    """The line that says what was wrong, and for a wrong partition which there are."""
    lines = [line.strip() for line in said.splitlines() if "error:" in line] or said.strip().splitlines() or ["refused"]
    words = lines[0].split("error:", 1)[-1].strip() if "error:" in lines[0] else lines[0]
    if "partition" in words:
        with suppress(UserError):
            words += f"; there are: {', '.join(cluster.partitions())}"
    return words
