"""Profiles: one YAML file in `profiles/` says what a job asks a cluster for, and how it gets its Python there.

    about: one A100, four runs on it
    partition: gpu
    gpus: 1
    gpu_type: a100
    cpus: 8
    memory_gb: 64
    time_minutes: 1440
    runs_per_job: 4
    max_jobs: 50                              at a time, over all arrays
    setup: ["module load cuda/12.4"]          lines of shell, before each job's Python
    extra: {constraint: "a100&nvlink"}        further options of sbatch

A suite's agents and tasks may have `resources: {memory_gb: 128, runs_per_job: 1}`, which come before the profile's.
"""

import re
from pathlib import Path
from typing import Annotated

import pydantic

from mac_bench.config import Resources, Settings, parse
from mac_bench.errors import UserError, unknown
from mac_bench.yaml_files import read_yaml

FOLDER = Path(__file__).parent / "profiles"
WORD = re.compile(r"[\w.:+@/,=&|\[\]()*%!~ -]+")
"""what may stand behind an option of sbatch"""
OPTION = re.compile(r"[a-z][a-z0-9-]*")
OURS = {
    "array",
    "chdir",
    "output",
    "error",
    "open-mode",
    "signal",
    "job-name",
    "requeue",
    "no-requeue",
    "wrap",
    "export",
    "dependency",
    "nodes",
    "ntasks",
    "ntasks-per-node",
    "cpus-per-task",
    "mem",
    "time",
}
"""options that mac-bench sets itself, or has a field for"""


def _one_line(text: str) -> str:
    if not WORD.fullmatch(text):
        raise ValueError("only letters, digits and .:+@/,=&|[]()*%!~- may stand there")
    return text


Word = Annotated[str, pydantic.AfterValidator(_one_line)]


class Profile(Settings):
    """What one kind of node is asked for."""

    about: str = ""
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    gpus: int = pydantic.Field(default=0, ge=0)
    """per job"""
    gpu_type: Word | None = None
    """as the cluster names it, such as a100"""
    cpus: int = pydantic.Field(default=1, gt=0)
    """per job, shared by its runs"""
    memory_gb: float = pydantic.Field(default=4.0, gt=0)
    time_minutes: int = pydantic.Field(gt=0)
    """a job that needs longer saves, and is queued again"""
    runs_per_job: int = pydantic.Field(default=1, gt=0)
    max_jobs: int = pydantic.Field(default=100, gt=0)
    """at a time, over all arrays of a submission"""
    signal_s: int = pydantic.Field(default=120, gt=0)
    """seconds before the time limit at which runs save"""
    requeue: bool = True
    """a job may be queued again under its own id; else a fresh one continues"""
    keeper: bool = True
    """a small job that waits for the others, and continues what died with them"""
    keeper_partition: Word | None = None
    setup: tuple[str, ...] = ()
    python: str | None = None
    """of the jobs; default: the one that submits. It may begin with a container: `apptainer exec --nv x.sif python`"""
    checkpoint_minutes: float = pydantic.Field(default=10.0, ge=0)
    extra: dict[str, Word | int | bool] = pydantic.Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _sensible(self):
        for name in self.extra:
            if not OPTION.fullmatch(name) or name in OURS:
                raise ValueError(f"extra: '{name}' cannot be given; mac-bench sets {', '.join(sorted(OURS))} itself")
        for line in (*self.setup, self.python or "", self.about):
            if "\n" in line or "\0" in line:
                raise ValueError("setup, python and about: no line may have a line break in it")
        if self.signal_s >= 60 * self.time_minutes:
            raise ValueError(f"signal_s is {self.signal_s}, as long as the whole job of {self.time_minutes} minutes")
        if self.gpu_type and not self.gpus:
            raise ValueError("gpu_type is given, but gpus is 0")
        return self

    def with_(self, resources: Resources) -> "Profile":
        """This profile for a run that asks for something else. Raises UserError where the two do not fit."""
        changed = self.model_copy(update=resources.model_dump(exclude_none=True))
        if changed.signal_s >= 60 * changed.time_minutes:
            raise UserError(
                f"resources: time_minutes is {changed.time_minutes}, but the profile's signal_s is {changed.signal_s}"
            )
        return changed


def load(name: str) -> Profile:
    """The profile in a file, or of a name in `slurm/profiles/`. Raises UserError with the file and the field."""
    path = Path(name)
    if path.suffix != ".yaml" or not path.is_file():
        if name not in names():
            raise unknown("profile", name, names())
        path = FOLDER / f"{name}.yaml"
    return parse(Profile, read_yaml(path, Profile), path.name)


def names() -> list[str]:
    """Profiles in `slurm/profiles/`, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))
