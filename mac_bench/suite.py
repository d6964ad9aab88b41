"""One YAML file = one experiment: tasks, agents and seeds that expand to run configs.

    name: quickstart                    the file's own name, without .yaml
    about: MAC and cloning in a maze
    steps: 12_000                       updates of each run
    seeds: [0, 1, 2]
    tasks: [pointmaze-medium-navigate-singletask-v0]
    evaluation: {every: 4000, episodes: 20}
    average_last: 1                     the reported number is the mean of so many last evaluations
    agents:                             label -> what runs under it
      MAC: {agent: mac, settings: {chunk: 10}}
      bc:                               the label is the agent's name

A task may be a mapping, `task: {dataset: name-in-the-data-folder, steps: 6000}`, and with data that memory cannot hold
it may have `resident: {blocks: 8}` (resident.py): such data have to be prepared. `optional: why` has its runs left out
while there are no such data, and says so. An agent may have `steps`, which come before a task's and the
suite's, a subset of `tasks`, and `per_task: {task: {setting: value}}`, which come before its `settings`. Both may have
`tags: [words]`, by which results can be filtered; a run has those of its agent and its task. Both may have `resources:
{memory_gb: 64, runs_per_job: 1}`, which come before those of a cluster's profile (slurm/profile.py).

A task's name may be a pattern (`cube-*`, `...-task?-v0`): among `tasks` it stands for all names of the benchmark that
fit, within an agent for all tasks of the suite that fit; of several that set the same setting the last counts.

A suite that repeats a paper's table says which, and how many transitions that had, `reproduces: {table: 100M}`: files
of `published/`, which `mac-bench report --reproduction` puts beside the results. Results are also given at the updates
in `checkpoints`, where papers do not say at which of them their numbers were taken.
"""

import csv
import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pydantic

from mac_bench import registry, tasks
from mac_bench.config import EvalConfig, Residency, Resources, RunConfig, Settings, parse, settings_on
from mac_bench.errors import UserError, unknown
from mac_bench.files import write_text
from mac_bench.yaml_files import SUITES, read_yaml

PUBLISHED = SUITES / "published"
"""the tables that a suite can reproduce"""

Count = Annotated[int, pydantic.Field(gt=0)]


class TaskEntry(Settings):
    """What a suite says of one task."""

    dataset: str | None = None
    """name in the data folder; the task's official data where it is not given"""
    steps: Count | None = None
    tags: tuple[str, ...] = ()
    resident: Residency | None = None
    """for data that memory cannot hold: batches from some blocks of it at a time"""
    optional: str | None = None
    """why its data may be missing, and how they would be made; while they are, its runs are left out"""
    resources: Resources = Resources()
    """what its runs ask of a cluster, where that is not what the profile says"""


class AgentEntry(Settings):
    """What runs under one label."""

    agent: str | None = None
    """the label itself where it is not given"""
    settings: dict[str, Any] = pydantic.Field(default_factory=dict)
    per_task: dict[str, dict[str, Any]] = pydantic.Field(default_factory=dict)
    """settings for single tasks; they come before `settings`"""
    steps: Count | None = None
    tasks: tuple[str, ...] | None = None
    """all tasks of the suite where it is not given"""
    tags: tuple[str, ...] = ()
    resources: Resources = Resources()
    """they come before a task's"""


class Suite(Settings):
    """One experiment."""

    name: str
    about: str
    steps: Count
    seeds: tuple[Annotated[int, pydantic.Field(ge=0)], ...]
    tasks: dict[str, TaskEntry]
    evaluation: EvalConfig
    average_last: Count = 1
    """the reported number is the mean of so many last evaluations, fixed before the run"""
    checkpoints: tuple[Count, ...] = ()
    """updates at which results are given too"""
    reproduces: dict[str, str | None] = pydantic.Field(default_factory=dict)
    """table in `published/` -> amount of data of the rows that are meant, None: all"""
    agents: dict[str, AgentEntry]

    @property
    def file(self) -> str:
        """What messages call it."""
        return f"{self.name}.yaml"


class Member(NamedTuple):
    """A run of a suite."""

    label: str
    run: RunConfig
    tags: tuple[str, ...] = ()
    """what results can be filtered by, in no way part of the run"""
    resources: Resources = Resources()
    """what it asks of a cluster, beside what a profile says; where a run runs is no part of it either"""
    optional: str | None = None
    """why it may be left out"""


def load(path: Path) -> Suite:
    """The suite in a file, or of a name in the project's `suites/`. Raises UserError with the file and the field."""
    path = _locate(path)
    content = read_yaml(path, Suite)
    for name, kind in (("tasks", TaskEntry), ("agents", AgentEntry)):
        content[name] = _entries(path, content, name)
        if name == "tasks":
            content[name] = _named(path, content[name])
        for key, entry in content[name].items():
            parse(kind, entry, f"{path.name}: {name}.{key}")
    if isinstance(content.get("evaluation"), dict):
        parse(EvalConfig, content["evaluation"], f"{path.name}: evaluation")
    suite = parse(Suite, content, path.name)
    _check(suite, path)
    return suite


def expand(suite: Suite) -> list[Member]:
    """Its runs, seed by seed, so that whatever is done first can be compared. Imports its agents.

    Raises UserError for settings and tasks that an agent refuses, and where two labels mean the same run.
    """
    modules = {label: _module(suite, label) for label in suite.agents}
    found: dict[str, Member] = {}
    for seed in suite.seeds:
        for task in suite.tasks:
            for label, entry in suite.agents.items():
                if entry.tasks is not None and not _fits(task, entry.tasks):
                    continue
                tags = tuple(dict.fromkeys(entry.tags + suite.tasks[task].tags))
                run = _run(suite, label, task, seed, modules[label].VERSION)
                given = suite.tasks[task]
                member = Member(label, run, tags, given.resources.with_(entry.resources), given.optional)
                other = found.setdefault(member.run.id, member)
                if other is not member:
                    raise UserError(
                        f"{suite.file}: agents {other.label} and {label} are the same run on {task}; "
                        "remove one, or change its settings"
                    )
    return list(found.values())


def write_membership(root: Path, suite: Suite, members: list[Member]) -> Path:
    """Write `root/suites/<name>.json`: which runs belong to the suite under which label, for status and collector."""
    path = root / "suites" / f"{suite.name}.json"
    runs = [
        {"run": run.id, "label": label, "tags": list(tags), "config": run.model_dump(mode="json")}
        for label, run, tags, *_ in members
    ]
    own = suite.model_dump(include={"name", "about", "average_last", "checkpoints", "reproduces"})
    content = {**own, "members": runs}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot write there ({error.strerror}); choose another --runs") from None
    return path


def only(suite: Suite, members: list[Member], label: str | None, task: str | None, seed: int | None) -> Member:
    """The member with this label, task and seed, of which what leaves no choice may be None. Raises UserError else."""
    left = members
    for option, given, of in (
        ("agent", label, lambda member: member.label),
        ("task", task, lambda member: member.run.task),
        ("seed", seed, lambda member: member.run.seed),
    ):
        valid = ", ".join(dict.fromkeys(str(of(member)) for member in left))
        if given is None and ", " in valid:
            raise UserError(f"{suite.name} has {len(left)} such runs; give --{option}, one of: {valid}")
        left = [member for member in left if given is None or of(member) == given]
        if not left:
            raise UserError(f"{suite.name} has no such run with --{option} {given}; there are: {valid}")
    return left[0]


def names() -> list[str]:
    """Suites that come with the project, sorted."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def _locate(path: Path) -> Path:
    known = SUITES / f"{path}.yaml"
    if path.suffix == ".yaml" and path.is_file():
        return path
    if path.parent == Path() and path.suffix != ".yaml" and known.is_file():
        return known
    if path.exists():
        raise UserError(f"{path}: a suite is a file that ends in .yaml")
    raise UserError(f"no suite '{path}'; give a .yaml file, or one of: {', '.join(names()) or 'none here'}")


def _entries(path: Path, content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A mapping name -> entry, from a mapping whose entries may be empty, or from a list of names."""
    if name not in content:
        raise UserError(f"{path.name}: '{name}' is missing")
    given = content[name]
    if isinstance(given, list) and name == "tasks":
        for task in given:
            if not isinstance(task, str):
                raise UserError(f"{path.name}: tasks: {task!r} is no name; write `task: {{...}}` without a dash")
            if given.count(task) > 1:
                raise UserError(f"{path.name}: tasks: {task} is there twice")
        given = dict.fromkeys(given)
    if not isinstance(given, dict):
        form = "a list of names, or a mapping task: {...}" if name == "tasks" else "a mapping label: {agent: ...}"
        raise UserError(f"{path.name}: {name}: must be {form}, not {given!r}")
    if not given:
        raise UserError(f"{path.name}: {name}: must not be empty")
    for key, entry in given.items():
        if entry is not None and not isinstance(entry, dict):
            raise UserError(f"{path.name}: {name}.{key}: must be a mapping, not {entry!r}")
    return {str(key): entry or {} for key, entry in given.items()}


def _named(path: Path, entries: dict[str, Any]) -> dict[str, Any]:
    """Entries of tasks with a pattern's in the place of each pattern. A name that is there is left to `tasks.find`."""
    found = {}
    for pattern, entry in entries.items():
        fitting = [name for name in tasks.names() if fnmatchcase(name, pattern)]
        if not fitting and _is_pattern(pattern):
            raise UserError(f"{path.name}: tasks: no task's name fits '{pattern}'")
        for name in fitting or [pattern]:
            if name in found:
                raise UserError(f"{path.name}: tasks: {name} is there twice, once by '{pattern}'")
            found[name] = entry
    return found


def _is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def _fits(task: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(task, pattern) for pattern in patterns)


def _check(suite: Suite, path: Path) -> None:
    """What the types cannot say."""
    if suite.name != path.stem:
        raise UserError(f"{path.name}: name is '{suite.name}', but must be '{path.stem}' like the file's")
    if not suite.seeds:
        raise UserError(f"{path.name}: seeds: must not be empty")
    twice = [seed for seed in suite.seeds if suite.seeds.count(seed) > 1]
    if twice:
        raise UserError(f"{path.name}: seeds: {twice[0]} is there twice")
    _check_tasks(suite)
    for label, entry in suite.agents.items():
        _check_agent(suite, label, entry)
    _check_checkpoints(suite)
    _check_tables(suite)


def _check_tasks(suite: Suite) -> None:
    """That they are there, and none under two names: its results would count twice."""
    seen: dict[tuple[str, str], str] = {}
    for name, entry in suite.tasks.items():
        try:
            task = tasks.find(name)
            tasks.check_data(task, entry.dataset or task.dataset)
        except UserError as error:
            raise UserError(f"{suite.file}: tasks: {error}") from None
        number = f"-singletask-task{task.eval_tasks[0]}-v0"
        meant = name.replace("-singletask-v0", number), entry.dataset or task.dataset
        if (other := seen.setdefault(meant, name)) != name:
            raise UserError(f"{suite.file}: tasks: {other} and {name} are the same task; remove one")


def _check_checkpoints(suite: Suite) -> None:
    """That there are evaluations which results at a checkpoint can be of."""
    every = suite.evaluation.every
    ends = {own.steps or task.steps or suite.steps for own in suite.agents.values() for task in suite.tasks.values()}
    for at in suite.checkpoints:
        where, evaluations = f"{suite.file}: checkpoints: {at}", -(-at // every)
        if at > max(ends):
            raise UserError(f"{where} lies beyond the last update, {max(ends)}")
        if at % every and at not in ends:
            raise UserError(f"{where} is no multiple of {every}, the updates between evaluations")
        if evaluations < suite.average_last:
            raise UserError(f"{where} comes after {evaluations} evaluations, but average_last is {suite.average_last}")


def _check_tables(suite: Suite) -> None:
    """That the tables that it reproduces are there, and have that amount of data."""
    tables = {path.stem: path for path in PUBLISHED.glob("*.csv")}
    for table, amount in suite.reproduces.items():
        if table not in tables:
            raise UserError(f"{suite.file}: reproduces: {unknown('published table', table, tables)}")
        with open(tables[table], newline="", encoding="utf-8") as file:
            amounts = {row["data"] for row in csv.DictReader(file)} - {""}
        if amount is not None and amount not in amounts:
            there = f"there are: {', '.join(sorted(amounts))}" if amounts else "amounts are not known, leave it empty"
            raise UserError(f"{suite.file}: reproduces.{table}: no number is of '{amount}' transitions; {there}")


def _check_agent(suite: Suite, label: str, entry: AgentEntry) -> None:
    where = f"{suite.file}: agents.{label}"
    if entry.tasks == ():
        raise UserError(f"{where}.tasks: must not be empty; leave it out for all tasks")
    for field, given, valid in (
        ("tasks", entry.tasks or (), list(suite.tasks)),
        ("per_task", entry.per_task, [task for task in suite.tasks if entry.tasks is None or _fits(task, entry.tasks)]),
    ):
        for task in given:
            if not any(fnmatchcase(name, task) for name in valid):
                says = "fits none of" if _is_pattern(task) else "is not among"
                raise UserError(f"{where}.{field}: {task} {says} its tasks; there are: {', '.join(valid)}")


def _module(suite: Suite, label: str) -> Any:
    try:
        return registry.module(suite.agents[label].agent or label)
    except UserError as error:
        raise UserError(f"{suite.file}: agents.{label}: {error}") from None


def _check_task(suite: Suite, label: str, task: str) -> None:
    check = getattr(_module(suite, label), "check_task", None)
    try:
        if check is not None:
            check(task)
    except UserError as error:
        raise UserError(f"{suite.file}: agents.{label}: {error}; leave it out by its `tasks`") from None


def _run(suite: Suite, label: str, task: str, seed: int, version: int) -> RunConfig:
    entry, given = suite.agents[label], suite.tasks[task]
    agent = entry.agent or label
    where = f"{suite.file}: agents.{label}, settings"
    _check_task(suite, label, task)
    settings = registry.settings(agent, settings_on(task, entry.settings, entry.per_task), where)
    steps = entry.steps or given.steps or suite.steps
    evaluations = -(-steps // suite.evaluation.every)
    if suite.average_last > evaluations:
        raise UserError(
            f"{suite.file}: average_last is {suite.average_last}, but {evaluations} evaluations follow {steps} updates "
            f"of {label} on {task}"
        )
    return RunConfig(
        agent=agent,
        version=version,
        task=task,
        dataset=given.dataset or tasks.find(task).dataset,
        seed=seed,
        steps=steps,
        settings=settings.model_dump(mode="json"),
        evaluation=suite.evaluation,
        resident=given.resident,
    )
