"""Settings: frozen, typed, unknown names refused; and what makes a run the run it is."""

import hashlib
import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import pydantic

from mac_bench.errors import UserError


class Settings(pydantic.BaseModel):
    """Base of every configuration. Instances are hashable by value, so that jit can take them as static arguments."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


S = TypeVar("S", bound=Settings)


def parse(kind: type[S], values: Mapping[str, Any], where: str) -> S:
    """Check `values` against `kind`. Raises UserError with the place, the field, and what would be valid.

    Values travel through JSON, so that a list in YAML becomes a tuple and an int a float, but "3" never becomes 3.
    """
    try:
        return kind.model_validate_json(json.dumps(values))
    except (TypeError, ValueError) as error:
        if not isinstance(error, pydantic.ValidationError):
            raise UserError(f"{where}: {error}") from None
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            text = f"no setting '{name}'; there are: {', '.join(_names_beside(kind, first['loc']))}"
        elif first["type"] == "missing":
            text = f"'{name}' is missing"
        else:
            reason = first["msg"].removeprefix("Value error, ")
            text = f"{name}: {reason}, not {first['input']!r}" if name else reason
        raise UserError(f"{where}: {text}") from None


def settings_on(task: str, settings: Mapping[str, Any], per_task: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a suite's agent is given on a task: what `per_task` has for patterns that fit comes first, the last most."""
    narrower = [own for pattern, own in per_task.items() if fnmatchcase(task, pattern)]
    return {name: value for own in (settings, *narrower) for name, value in own.items()}


def _names_beside(kind: type[Settings], place: tuple[int | str, ...]) -> list[str]:
    """The valid names where a wrong one stands: those of the settings that it lies in."""
    for name in place[:-1]:
        inner = kind.model_fields[name].annotation if name in kind.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, Settings)):
            break
        kind = inner
    return sorted(kind.model_fields)


class GoalMix(Settings):
    """How one kind of goal is drawn; the three probabilities sum to 1."""

    current: float = pydantic.Field(ge=0)
    """probability of s_t itself"""
    future: float = pydantic.Field(ge=0)
    """probability of a later state of the same episode"""
    random: float = pydantic.Field(ge=0)
    """probability of any state of the data"""
    geometric: bool = False
    """future states at geometric distance (parameter 1 - discount), else uniform over the rest of the episode"""

    @pydantic.model_validator(mode="after")
    def _sums_to_one(self):
        total = self.current + self.future + self.random
        if abs(total - 1) > 1e-6:
            raise ValueError(f"current + future + random must be 1, and is {total:g}")
        return self


class EvalConfig(Settings):
    """The evaluation protocol of a run."""

    every: int = pydantic.Field(gt=0)
    """updates between evaluations; the last update is always followed by one"""
    episodes: int = pydantic.Field(default=15, gt=0)
    """episodes per evaluation task"""
    parallel: int = pydantic.Field(default=25, gt=0)
    """environments that are stepped together; part of the protocol, as noise is drawn for all at once"""


class Residency(Settings):
    """Drawing from some blocks of the data at a time, for data that memory cannot hold; see resident.py."""

    blocks: int = pydantic.Field(gt=0)
    """blocks that batches are drawn from at a time: so many times their size must fit memory"""
    rows: int = pydantic.Field(default=1_000_000, gt=0)
    """rows of a block, but for what is needed to make it of whole episodes"""
    every: int = pydantic.Field(default=500, gt=0)
    """updates after which the oldest of these blocks is replaced by the next"""


class Resources(Settings):
    """What a run asks of a cluster, where that is not what its profile says. It changes no result and no id."""

    gpus: int | None = pydantic.Field(default=None, ge=0)
    """per job"""
    gpu_type: str | None = pydantic.Field(default=None, pattern=r"^[\w.:-]+$")
    cpus: int | None = pydantic.Field(default=None, gt=0)
    """per job"""
    memory_gb: float | None = pydantic.Field(default=None, gt=0)
    """per job"""
    time_minutes: int | None = pydantic.Field(default=None, gt=0)
    runs_per_job: int | None = pydantic.Field(default=None, gt=0)

    def asks(self) -> bool:
        """Whether it says anything at all."""
        return any(value is not None for value in self.model_dump().values())

    def with_(self, more: "Resources") -> "Resources":
        """These, and `more`, which comes first."""
        return self.model_copy(update=more.model_dump(exclude_none=True))


class RunConfig(Settings):
    """Everything that can change a result, and nothing else: where and how fast a run ran must not change its id."""

    agent: str
    """name in the registry, or `package.module` of a user's own"""
    version: int
    """the agent's VERSION when the run was planned"""
    task: str
    """official task name"""
    dataset: str
    """name of the data in the data folder"""
    seed: int = pydantic.Field(ge=0)
    steps: int = pydantic.Field(gt=0)
    """number of updates"""
    settings: dict[str, Any]
    """the agent's settings, resolved: the defaults are written out"""
    evaluation: EvalConfig
    resident: Residency | None = None
    """batches from some blocks of the data at a time; None: from all of it at every step"""

    @pydantic.model_serializer(mode="wrap")
    def _plain(self, dump: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is not used leaves no trace, so that ids are what they were before there was a choice."""
        return {name: value for name, value in dump(self).items() if (name, value) != ("resident", None)}

    @property
    def id(self) -> str:
        """Twelve hex digits of the hash of the whole config."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def evaluates_after(self, step: int) -> bool:
        """Whether an evaluation follows this update: every so many, and the last."""
        return step > 0 and (step % self.evaluation.every == 0 or step == self.steps)
