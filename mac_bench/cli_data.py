"""The verbs of `mac-bench data`, and what all verbs share."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from mac_bench.errors import UserError

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

data_app = typer.Typer(name="data", help="Make, list and check data sets.", no_args_is_help=True)


def terminal() -> Console:
    """A terminal's own width; without one, lines are long enough to be searched."""
    wide = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if wide else 160, highlight=False)


@data_app.command("generate")
def data_generate(
    dataset: Annotated[str, typer.Argument(metavar="NAME", help="Such as cube-single-play-v0.")],
    episodes: Annotated[int | None, typer.Option(help="Training episodes (default: a million steps' worth).")] = None,
    length: Annotated[int | None, typer.Option(help="Steps per episode (default: as in the public data).")] = None,
    shards: Annotated[int | None, typer.Option(help="Files to spread it over (default: 100,000 steps each).")] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives other data.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes; each makes whole shards.")] = 1,
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
    dataset: Annotated[str, typer.Argument(metavar="NAME", help="Data set in the data folder.")],
    task: Annotated[list[str], typer.Option("--task", help="Task to label it for; may be given several times.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes; each holds one file in memory.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder of prepared data (default: DATA/prepared).")] = None,
    stage: Annotated[Path | None, typer.Option(help="Also copy it there: a node's own disk, say.")] = None,
    data: Data = DATA,
) -> None:
    """Turn data into memory-mapped columns, so that any size trains in little memory. Killed, repeat the call."""
    from rich.progress import Progress

    from mac_bench import prepare, prepared

    bar = Progress(console=Console(stderr=True), disable=not sys.stderr.isatty())
    line = bar.add_task("files", total=None)

    def show(done: int, total: int) -> None:
        bar.start()
        bar.update(line, completed=done, total=total)

    try:
        folder = prepare.prepare(dataset, task, data, out=out, workers=workers, progress=show)
    finally:
        bar.stop()
    print(prepared.stage(folder, task, stage) if stage else folder)
    place = stage or out
    if place is not None and Path(os.environ.get(prepared.VARIABLE, "")) != place:
        print(f"set {prepared.VARIABLE}={place} to train from there", file=sys.stderr)


@data_app.command("list")
def data_list(data: Data = DATA) -> None:
    """List the data sets that are there."""
    from mac_bench import generate
    from mac_bench.overview import plain_table

    table = plain_table("name", "episodes:", "rows:", "MB:", "")
    found = generate.listing(data)
    for each in found:
        origin = "made here" if each.generated else "official files"
        note = origin if each.complete else "[red]not complete[/]"
        for task, ready in each.prepared.items():
            note += f"\nprepared for {task}" if ready else f"\n[red]prepared from other files for {task}[/]"
        table.add_row(each.name, f"{each.episodes:,}", f"{each.rows:,}", f"{each.bytes / 1e6:,.1f}", note)
    terminal().print(
        table if found else f"no data in {data}; make some with `mac-bench data generate NAME`", highlight=False
    )


@data_app.command("verify")
def data_verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Default: all.")] = None,
    data: Data = DATA,
) -> None:
    """Check that data sets are whole and unchanged; exit code 1 where one is not."""
    from mac_bench import generate

    names = names or [each.name for each in generate.listing(data)]
    if not names:
        raise UserError(f"no data in {data}; make some with `mac-bench data generate NAME`")
    damaged = False
    for name in names:
        problems = generate.verify(data, name)
        damaged = damaged or bool(problems)
        for line in [f"✗ {problem}" for problem in problems] or [f"✓ {name}"]:
            print(line)
    raise typer.Exit(int(damaged))
