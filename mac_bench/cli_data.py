"""The verbs of `mac-bench data`, and what all verbs share."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from mac_bench.errors import UserError

if TYPE_CHECKING:
    from mac_bench.fetch import Item, Progress
    from mac_bench.suite import Member

Data = Annotated[Path, typer.Option("--data", envvar="MAC_BENCH_DATA", help="Folder of data sets.")]
Runs = Annotated[Path, typer.Option("--runs", envvar="MAC_BENCH_RUNS", help="Folder of runs.")]
SuiteName = Annotated[Path, typer.Argument(metavar="SUITE", help="A .yaml file, or the name of one in suites/.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes per run for evaluation; 0: in the run's own.")]
Videos = Annotated[int, typer.Option(min=0, help="Episodes of each task to film at the last evaluation.")]
DATA, RUNS = Path("data"), Path("runs")


def _known(names: list[str] | None) -> list[str]:
    """Refuse a tracker that cannot be before anything is queued."""
    if names:
        from mac_bench import trackers

        trackers.check(names)
    return names or []


Track = Annotated[
    list[str] | None,
    typer.Option("--track", callback=_known, help="Also show it in tensorboard or wandb; repeat for both."),
]

data_app = typer.Typer(name="data", help="Fetch, make, list and check data sets.", no_args_is_help=True)


def terminal() -> Console:
    """A terminal's own width; without one, lines are long enough to be searched."""
    wide = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if wide else 160, highlight=False)


def tell(lines: Iterable[str]) -> None:
    """Lines beside the output."""
    for line in lines:
        print(line, file=sys.stderr)


def ready(members: "list[Member]", data: Path, suite: Path | None = None) -> "list[Member]":
    """The members to run: of optional tasks without data a line is all there is. Raises UserError where none is left,
    and where data of a suite's are missing or not prepared."""
    from mac_bench import needs

    kept, left = needs.left_out(members, data)
    tell(left.values())
    if members and not kept:
        raise UserError("nothing is left to run")
    if suite is not None:
        needs.require(kept, data, suite)
    return kept


@data_app.command("fetch")
def data_fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME...", help="Data sets, tasks, or suites, for all that they lack. Default: list all."
        ),
    ] = None,
    mirror: Annotated[
        list[str] | None,
        typer.Option(
            envvar="MAC_BENCH_MIRRORS", help="Address instead of the official one; several are tried in turn."
        ),
    ] = None,
    sums: Annotated[
        Path | None, typer.Option("--checksums", help="Hold every file against this SHA256SUMS.", metavar="FILE")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show addresses and sizes.")] = False,
    connections: Annotated[int, typer.Option(min=1, max=16, help="Files at a time.")] = 2,
    stall: Annotated[float, typer.Option(min=1, help="Seconds without a byte after which it is tried again.")] = 30,
    data: Data = DATA,
) -> None:
    """Fetch official data, where there is a network. A call that was interrupted can be repeated."""
    from mac_bench import fetch, minari_data, sources
    from mac_bench.download import Patience

    if not names:
        print("\n".join(sources.SOURCES))
        return
    wanted, notes, problems = _published(names, data)
    tell(notes)
    for name in [name for name in wanted if name.startswith(minari_data.PREFIX)]:
        wanted.remove(name)
        print(f"{name}: by Minari, into {minari_data.folder(name)}" if dry_run else minari_data.fetch(name))
    patience = Patience(threading.Event(), stall_s=stall)
    try:
        items = fetch.plan(wanted, data, mirror or [sources.SERVER], patience)
        _show_plan(items, wanted, addresses=dry_run)
        if not dry_run:
            with _transfer(sum(item.remotes[0].size or 0 for item in items)) as progress:
                fetch.fetch(items, data, patience, sums=sums, connections=connections, progress=progress)
            print(*dict.fromkeys(item.path.parent for item in items), sep="\n", end="\n" if items else "")
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr, flush=True)
        os._exit(130)  # threads that wait for a stalled server would hold the process; a kill costs nothing here
    tell(f"mac-bench: {problem}" for problem in problems)
    raise typer.Exit(int(bool(problems)))


def _published(names: list[str], data: Path) -> tuple[list[str], list[str], list[str]]:
    """The data sets that names mean, what is to be known of those of suites, and what is wrong with others of these."""
    from mac_bench import minari_data, needs, sources, tasks
    from mac_bench.manifest import made_here, origin, read_manifest

    found, notes, problems = [], [], []
    for name in names:
        if (members := _members(name)) is not None:
            kept, left = needs.left_out(members, data)
            wanted = needs.of(kept)
            absent = needs.absent(wanted, data)
            here = {each: origin(read_manifest(data / each)) for each in wanted if each not in absent}
            notes += [*left.values(), *(f"{each}{made}" for each, made in here.items() if made)]
            for dataset, problem in absent.items():
                official = dataset in sources.SOURCES and not made_here(read_manifest(data / dataset))
                if official or dataset.startswith(minari_data.PREFIX):
                    found.append(dataset)
                else:
                    problems.append(problem)
        else:
            with contextlib.suppress(UserError):
                name = tasks.find(name).dataset
            found.append(name if name.startswith(minari_data.PREFIX) else sources.find(name).dataset)
    return list(dict.fromkeys(found)), list(dict.fromkeys(notes)), problems


def _members(name: str) -> "list[Member] | None":
    """The runs of a suite; None where the name is of none."""
    from mac_bench import suite

    return suite.expand(suite.load(Path(name))) if name.endswith(".yaml") or name in suite.names() else None


def _show_plan(items: "list[Item]", wanted: list[str], addresses: bool) -> None:
    """What is to be fetched of each data set, and on request of each file."""
    for remote in (item.remotes[0] for item in items if addresses):
        print(remote.address, "unknown size" if remote.size is None else f"{remote.size:,} bytes")
    for name in wanted:
        own = [item for item in items if item.source.dataset == name]
        what = f"{len(own)} files, {sum(item.missing for item in own) / 1e6:,.1f} MB to fetch" if own else "is there"
        print(f"{name}: {what}", file=sys.stderr)


@contextlib.contextmanager
def _transfer(total: int) -> Iterator["Progress"]:
    """A bar of bytes, and lines about what was tried again."""
    from rich import progress as parts

    from mac_bench.fetch import Progress

    columns = (parts.BarColumn(), parts.DownloadColumn(), parts.TransferSpeedColumn(), parts.TimeRemainingColumn())
    here: dict[Path, int] = {}
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with parts.Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
        line = bar.add_task("bytes", total=total or None)

        def received(path: Path, size: int) -> None:
            here[path] = size
            bar.update(line, completed=sum(list(here.values())))

        yield Progress(lambda text: bar.console.print(text, markup=False), received)


@data_app.command("generate")
def data_generate(
    dataset: Annotated[str, typer.Argument(metavar="NAME", help="Such as cube-single-play-v0.")],
    episodes: Annotated[int | None, typer.Option(help="Training episodes (default: a million steps' worth).")] = None,
    length: Annotated[int | None, typer.Option(help="Steps per episode (default: as in the public data).")] = None,
    shards: Annotated[int | None, typer.Option(help="Files to spread it over (default: 100,000 steps each).")] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives other data.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes; each makes whole shards.")] = 1,
    name: Annotated[str | None, typer.Option(help="Folder inside DATA (default: NAME).")] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", "-p", help="On a cluster: shards are made by jobs with this profile.")
    ] = None,
    data: Data = DATA,
) -> None:
    """Make data with the benchmark's own scripted policies. A call that was interrupted can be repeated."""
    from rich.progress import Progress

    from mac_bench import generate, tasks
    from mac_bench.collectors import length_of

    tasks.find(dataset)
    if episodes is None:
        episodes = max(1, 1_000_000 // (length or length_of(dataset)))
    if shards is None:  # small enough that an interruption costs little, and one for every worker
        shards = min(episodes, max(workers, round(episodes * (length or length_of(dataset)) / 100_000)))
    options = {"length": length, "shards": shards, "seed": seed, "name": name}
    if profile is not None and _sent(data.absolute(), profile, {"dataset": dataset, "episodes": episodes, **options}):
        return
    bar = Progress(console=Console(stderr=True), disable=not sys.stderr.isatty())
    line = bar.add_task("episodes", total=None)

    def show(done: int, total: int) -> None:
        bar.start()
        bar.update(line, completed=done, total=total)

    try:
        folder = generate.generate(dataset, data, episodes=episodes, workers=workers, progress=show, **options)
    finally:
        bar.stop()
    print(folder)


def _sent(data: Path, profile: str, settings: dict[str, Any]) -> bool:
    """Submit what is missing; False where nothing is, so that only the manifest is left to write.

    Raises UserError where the cluster refused some.
    """
    from slurm import data as making
    from slurm import profile as profiles

    sending = making.send(data, profiles.load(profile), settings)
    if sending is None:
        return False
    jobs = f" as {', '.join(sending.jobs)}" if sending.jobs else ""
    print(f"{sending.submitted} shards submitted{jobs}; {sending.in_hands} were in the queue already")
    if sending.refused:
        raise UserError(f"the cluster refused the other {sending.missing}: {sending.refused}; repeat it later")
    return True


@data_app.command("prepare")
def data_prepare(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Data set in the data folder, or a suite: all of its.")],
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Task to label the data set for; may be given several times.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; each holds one file in memory.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder of prepared data (default: DATA/prepared).")] = None,
    stage: Annotated[Path | None, typer.Option(help="Also copy it there: a node's own disk, say.")] = None,
    data: Data = DATA,
) -> None:
    """Turn data into memory-mapped columns, so that any size trains in little memory. Killed, repeat the call."""
    from rich.progress import Progress

    from mac_bench import prepare, prepared

    wanted, problems = _to_prepare(name, task, data)
    folders = []
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        line = bar.add_task("files", total=None)
        for dataset, tasks in wanted.items():
            folder = prepare.prepare(
                dataset,
                tasks,
                data,
                out=out,
                workers=workers,
                progress=lambda done, total: bar.update(line, completed=done, total=total),
            )
            folders.append(prepared.stage(folder, tasks, stage) if stage else folder)
    print(*folders, sep="\n", end="\n" * bool(folders))
    place = stage or out
    if place is not None and Path(os.environ.get(prepared.VARIABLE, "")) != place:
        print(f"set {prepared.VARIABLE}={place} to train from there", file=sys.stderr)
    tell(f"mac-bench: {problem}" for problem in problems)
    raise typer.Exit(int(bool(problems)))


def _to_prepare(name: str, task: list[str] | None, data: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Data set -> the tasks to prepare it for, and what is wrong with others of a suite."""
    from mac_bench import needs, tasks

    # data may have the name of a suite, as the quickstart's do; then a task tells that they are meant
    members = None if task else _members(name)
    if members is None:
        return {name: task or []}, []
    kept, left = needs.left_out(members, data)
    wanted = needs.of(kept)
    absent = needs.absent(wanted, data)
    tell(left.values())
    # others than .npz are small enough to be loaded
    found = {each: list(own) for each, own in wanted.items() if each not in absent}
    found = {each: own for each, own in found.items() if tasks.files(each, data)[0][0].suffix == ".npz"}
    return found, list(absent.values())


@data_app.command("list")
def data_list(data: Data = DATA) -> None:
    """List the data sets that are there, also those in Minari's own folder."""
    from mac_bench import inventory
    from mac_bench.overview import plain_table

    table = plain_table("name", "episodes:", "rows:", "MB:", "")
    found = [*inventory.listing(data), *inventory.of_minari()]
    for each in found:
        note = each.origin if each.complete else f"[red]not complete[/]; see `mac-bench data verify {each.name}`"
        for task, ready in each.prepared.items():
            note += f"\nprepared for {task}" if ready else f"\n[red]prepared from other files for {task}[/]"
        table.add_row(each.name, f"{each.episodes:,}", f"{each.rows:,}", f"{each.bytes / 1e6:,.1f}", note)
    terminal().print(
        table
        if found
        else f"no data in {data}; get some with `mac-bench data fetch NAME` or `mac-bench data generate NAME`",
        highlight=False,
    )


@data_app.command("verify")
def data_verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Default: all.")] = None,
    data: Data = DATA,
) -> None:
    """Check that data sets are whole and unchanged; exit code 1 where one is not."""
    from mac_bench import inventory

    names = names or [each.name for each in inventory.listing(data)]
    if not names:
        raise UserError(
            f"no data in {data}; get some with `mac-bench data fetch NAME` or `mac-bench data generate NAME`"
        )
    damaged = False
    for name in names:
        problems = inventory.verify(data, name)
        damaged = damaged or bool(problems)
        for line in [f"✗ {problem}" for problem in problems] or [f"✓ {name}"]:
            print(line)
    raise typer.Exit(int(damaged))
