"""What SLURM is asked and told: the only file that runs its commands, so that they are few, clean and patient."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple, TypeVar

from mac_bench.errors import UserError

Item = TypeVar("Item")

TIMEOUT_S = 60
TRIES = 4
"""of a question that a busy controller did not answer, with 1, 2, 4 s in between"""
AT_ONCE = 200
"""ids on one command line"""
BUSY = ("timed out", "Unable to contact", "Connection refused", "Resource temporarily", "Zero Bytes")
INHERITED = ("SLURM_", "SBATCH_", "SRUN_", "SQUEUE_", "SACCT_")
WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
RUNNING = {"RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}


class Job(NamedTuple):
    """What SLURM says of one job, or of one element of an array."""

    state: str
    """SLURM's word: PENDING, RUNNING, TIMEOUT, NODE_FAIL, ..."""
    reason: str = ""
    """why it waits"""
    node: str = ""

    @property
    def phase(self) -> Literal["waiting", "running", "over"]:
        """What the word means for whoever waits for the job."""
        return "waiting" if self.state in WAITING else "running" if self.state in RUNNING else "over"


class Limits(NamedTuple):
    """Of the cluster."""

    array_size: int
    """elements that an array may have"""
    jobs: int
    """that the controller keeps at a time"""


def available() -> bool:
    """Whether jobs can be submitted from this machine."""
    return shutil.which("sbatch") is not None and shutil.which("squeue") is not None


def require() -> None:
    """Raises UserError where there is no SLURM."""
    if not available():
        raise UserError("no sbatch on this machine: log in where jobs are submitted, or `mac-bench run` the suite here")


def limits() -> Limits:
    """Raises UserError where the controller does not answer."""
    found = {}
    for line in command(["scontrol", "show", "config"]).splitlines():
        name, _, value = line.partition("=")
        found[name.strip()] = value.strip()
    # the highest index is one less than MaxArraySize; 0 where a cluster wants no arrays
    return Limits(max(1, int(found.get("MaxArraySize", 1001))), int(found.get("MaxJobCount", 10_000)))


def partitions() -> list[str]:
    """Names of all partitions."""
    return command(["sinfo", "--noheader", "--format=%R"]).split()


def jobs(wanted: Iterable[str]) -> dict[str, Job]:
    """What is known of these jobs, by id (`12` or `12_3`): one question for all, and a second one to the accounting for
    those that the controller has forgotten. What neither knows is left out. Of an array in which anything is known its
    own id is there, too. Raises UserError where SLURM is silent."""
    wanted = set(wanted)
    if not wanted:
        return {}
    # --array: otherwise pending elements come as 12_[3-9%2]
    question = ["squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}"]
    found = _jobs(command([*question, "--format=%i|%T|%r|%N"]), wanted)
    forgotten = wanted - found.keys()
    if forgotten:
        found |= _accounted(forgotten)
    return found


def _jobs(text: str, wanted: set[str]) -> dict[str, Job]:
    found, arrays = {}, {name.split("_")[0] for name in wanted}
    for line in text.splitlines():
        name, state, reason, node = (*line.split("|"), "", "", "")[:4]
        array = name.split("_")[0]
        if array in arrays:
            # "CANCELLED by 1000"
            job = Job(state.split()[0], "" if reason == "None" else reason, node)
            found |= {array: job, name: job} if name in wanted else {array: job}
    return found


def _accounted(wanted: set[str]) -> dict[str, Job]:
    """Empty where there is no accounting."""
    if shutil.which("sacct") is None:
        return {}
    found: dict[str, Job] = {}
    arrays = sorted({name.split("_")[0] for name in wanted})
    for ids in chunks(arrays, AT_ONCE):
        question = ["sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={','.join(ids)}"]
        try:
            answer = command([*question, "--format=JobID,State,Reason,NodeList"], tries=1)
        except UserError:
            return found
        found |= _jobs(answer, wanted)
    return found


def restarts(job: str) -> int:
    """How often a job was queued again, as the controller says now; 0 where it does not say."""
    try:
        found = re.search(r"\bRestarts=(\d+)", command(["scontrol", "--oneliner", "show", "job", job], tries=1))
        return int(found[1]) if found else 0
    except UserError:
        return 0


def tell(verb: Literal["cancel", "hold", "release", "requeue"], names: Sequence[str]) -> list[str]:
    """Give an order for these jobs; returns what SLURM had to say against it, a line for each."""
    program = ["scancel"] if verb == "cancel" else ["scontrol", verb]
    problems = []
    for ids in chunks(sorted(set(names)), AT_ONCE):
        try:
            command([*program, *ids] if verb == "cancel" else [*program, ",".join(ids)])
        except UserError as error:
            problems.append(str(error))
    return problems


def command(arguments: list[str], tries: int = TRIES) -> str:
    """What a SLURM command prints. Raises UserError with its own last words."""
    for attempt in range(tries):
        try:
            done = subprocess.run(
                arguments, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, env=clean()
            )
        except FileNotFoundError:
            raise UserError(f"no {arguments[0]} on this machine; is SLURM on the PATH?") from None
        except subprocess.TimeoutExpired:
            text = f"no answer within {TIMEOUT_S} s"
        else:
            if done.returncode == 0:
                return done.stdout
            text = " ".join((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1:])
            if not any(word in done.stderr for word in BUSY):
                break
        if attempt + 1 < tries:
            time.sleep(2**attempt)
    raise UserError(f"{arguments[0]}: {text.removeprefix(f'{arguments[0]}: ').removeprefix('error: ')}")


def clean() -> dict[str, str]:
    """This process's environment without what an outer job left in it: a CPU binding that is handed on makes every job
    slow. How to reach the cluster is kept."""
    return {name: value for name, value in os.environ.items() if name == "SLURM_CONF" or not name.startswith(INHERITED)}


@contextmanager
def cleaned() -> Iterator[None]:
    """The same for this process, while a library runs SLURM's commands."""
    before = dict(os.environ)
    for name in before.keys() - clean().keys():
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(before)


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """`items` in order, so many at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
