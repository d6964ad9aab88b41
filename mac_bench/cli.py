"""The verbs of `mac-bench`. Heavy imports stay inside them, so that `--help` and `status` answer at once."""

import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from mac_bench import __version__, cli_jobs
from mac_bench.cli_data import DATA, RUNS, Data, Runs, SuiteName, Track, Videos, Workers, data_app, ready, terminal
from mac_bench.errors import UserError
from slurm.one_machine.cli import cluster_app

if TYPE_CHECKING:
    from mac_bench.config import RunConfig
    from mac_bench.suite import Member, Suite

Database = Annotated[Path | None, typer.Option("--db", help="Database (default: RUNS/results.db).")]
RUNNING, CLUSTER, RESULTS, WORKSHOP = "Run", "On a cluster", "Compare", "Prepare"
"""headings of `--help`"""

app = typer.Typer(
    name="mac-bench",
    help="Offline RL with action chunks: train, compare, report. Begin with `mac-bench plan quickstart`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, rich_help_panel=WORKSHOP)
app.add_typer(cluster_app, rich_help_panel=WORKSHOP)


def main() -> None:
    """Run the command line. Errors that the user can put right are one line on stderr and exit code 2."""
    sys.path.append(os.getcwd())  # agents of a user's own are named by their module
    try:
        app()
    except UserError as error:
        _leave(str(error))
    except OSError as error:
        if error.filename is None:  # no file of the user's: a defect
            raise
        _leave(f"{error.filename}: {error.strerror} (--trace shows where)")
    except KeyboardInterrupt:
        sys.exit(130)


def _leave(message: str) -> NoReturn:
    _trace()
    print(f"mac-bench: {message}", file=sys.stderr)
    sys.exit(2)


def _trace() -> None:
    if os.environ.get("MAC_BENCH_TRACE"):
        traceback.print_exc()


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mac-bench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    trace: Annotated[bool, typer.Option("--trace", help="Show where errors come from (MAC_BENCH_TRACE=1).")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    if trace:
        os.environ["MAC_BENCH_TRACE"] = "1"


@app.command(rich_help_panel=RUNNING)
def plan(
    suite: SuiteName,
    cost: Annotated[bool, typer.Option("--cost", help="Show hours instead, from measured updates per second.")] = False,
    device: Annotated[str | None, typer.Option(help="With --cost: of the devices of this name alone.")] = None,
    runs: Runs = RUNS,
    data: Data = DATA,
    database: Database = None,
) -> None:
    """Show what a suite would run, and which data it needs, or what it would cost. Changes nothing."""
    from mac_bench import needs, overview
    from mac_bench.manifest import origin, read_manifest

    console = terminal()
    loaded, members = _expand(suite)
    console.print(f"[bold]{loaded.name}[/]: {escape(loaded.about)}\n")
    if cost:
        from mac_bench import cost as costs

        return costs.show(console, members, costs.Known(database or runs / "results.db"), device)
    overview.show(console, [overview.entry(runs, member.label, member.run) for member in members], runs, live=False)
    console.print("\ndata:")
    members, left = needs.left_out(members, data)
    wanted = needs.of(members)
    missing = needs.missing(wanted, data, suite)
    for dataset in wanted:
        if dataset in missing:
            text = f"[red]✗[/] {escape(missing[dataset])}"
        else:
            text = f"[green]✓[/] {dataset}{origin(read_manifest(data / dataset))}"
        console.print(f"  {text}", soft_wrap=True)
    for line in left.values():
        console.print(f"  [yellow]-[/] {escape(line)}", soft_wrap=True)


@app.command(rich_help_panel=RUNNING)
def run(
    suite: SuiteName,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Runs at a time; they share cores and GPUs.")] = 1,
    detached: Annotated[
        bool, typer.Option("--detach", "-d", help="In the background; it survives this shell.")
    ] = False,
    eval_workers: Workers = 0,
    videos: Videos = 0,
    track: Track = None,
    runs: Runs = RUNS,
    data: Data = DATA,
    database: Database = None,
) -> None:
    """Train all runs of a suite that are not finished, and report. Ctrl-C saves; the same command continues."""
    from mac_bench import overview
    from mac_bench.suite import write_membership
    from slurm import submission
    from slurm.pool import detach, run_pool

    console = terminal()
    loaded, every = _expand(suite)
    members = ready(every, data, suite)
    if detached:
        log = detach([argument for argument in sys.argv[1:] if argument not in ("--detach", "-d")], runs)
        console.print(f"{overview.plural(len(members), 'run')} in the background; what it prints: {log}")
        console.print(f"[dim]mac-bench status {loaded.name} | hold {loaded.name} | cancel {loaded.name}[/]")
        return
    write_membership(runs, loaded, every)
    options = submission.Options(
        data=str(data.absolute()), eval_workers=eval_workers, videos=videos, track=list(track or ())
    )
    queue = submission.new(loaded.name, "local", options)
    queue.runs = [member.run.id for member in members]
    with submission.working(runs, queue):
        outcome = run_pool(
            members, runs, data, jobs, eval_workers=eval_workers, videos=videos, track=track or (), console=console
        )
    console.print(overview.counts(overview.entries(runs, loaded.name)))
    if outcome.signal is not None:
        console.print("stopped; the same command continues")
        raise typer.Exit(128 + outcome.signal)
    _report(console, loaded.name, runs, database)
    console.print(f"[dim]more: mac-bench status {loaded.name} | logs RUN | report {loaded.name} --out DIR[/]")
    if any(result.state != "finished" for result in outcome.results):
        console.print("not everything is finished; the same command tries the rest again")
        raise typer.Exit(1)


@app.command(rich_help_panel=RUNNING)
def train(
    suite: Annotated[Path | None, typer.Argument(metavar="SUITE", help="A suite, of which to train one run.")] = None,
    agent: Annotated[str | None, typer.Option(help="Label of the agent in the suite.")] = None,
    task: Annotated[str | None, typer.Option(help="Task of the suite.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the suite.")] = None,
    run: Annotated[str | None, typer.Option(help="Instead of a suite: a run folder, or a run's id.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    eval_workers: Workers = 0,
    videos: Videos = 0,
    track: Track = None,
    checkpoint_minutes: Annotated[float, typer.Option(min=0, help="Between checkpoints, beside evaluations.")] = 10.0,
    runs: Runs = RUNS,
    data: Data = DATA,
) -> None:
    """Train one run in this terminal. Ctrl-C saves; the same command continues."""
    from mac_bench import overview
    from mac_bench.record import RunFolder
    from mac_bench.signals import die_with_parent

    die_with_parent()

    if run is not None and suite is None:
        folder, config = overview.stored_run(runs, run)
    elif suite is not None and run is None:
        config = _chosen(suite, agent, task, seed, runs)
        folder = RunFolder.create(runs, config)
    else:
        raise UserError("name a suite with --agent, --task and --seed, or one run with --run")
    before = overview.status_of(folder)
    if before and before.state == "finished":
        print(f"{folder.path}: is finished already")
        return
    from mac_bench.train import Options, train

    show = not quiet and sys.stderr.isatty()
    began = time.monotonic()
    options = Options(eval_workers, videos, checkpoint_minutes, show, tuple(track or ()))
    outcome = train(config, folder.path.parent, data, options)
    print(f"{folder.path}: {outcome.state} after {time.monotonic() - began:.0f} s")
    if outcome.signal is not None:
        raise typer.Exit(128 + outcome.signal)


@app.command(rich_help_panel=RUNNING)
def status(
    suite: Annotated[str | None, typer.Argument(metavar="SUITE", help="Only runs of this suite.")] = None,
    labels: cli_jobs.Labels = None,
    tasks: cli_jobs.Tasks = None,
    seeds: cli_jobs.Seeds = None,
    states: cli_jobs.States = None,
    every: Annotated[bool, typer.Option("--all", help="Every run, however many there are.")] = False,
    runs: Runs = RUNS,
) -> None:
    """Show how far runs are, here and on the cluster, and why the failed ones failed."""
    from mac_bench import overview

    chosen = cli_jobs.Selection(labels, tasks, seeds, states)
    overview.show(terminal(), cli_jobs.seen(runs, suite, chosen), runs, live=True, every=every)


@app.command(rich_help_panel=RUNNING)
def logs(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, its beginning, or its folder.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as long as it runs.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 20,
    runs: Runs = RUNS,
) -> None:
    """Show what a run printed."""
    from mac_bench import overview

    folder = overview.find_folder(runs, run)
    path = folder.path / "log.txt"
    if not path.exists():
        path = cli_jobs.log_of(folder) or path
    if not path.exists():
        begun = overview.status_of(folder) is not None
        raise UserError(f"{folder.path}: {'trained in a terminal, which has its output' if begun else 'not begun yet'}")
    with open(path, encoding="utf-8", errors="replace") as file:
        print("".join(file.readlines()[-lines:]), end="", flush=True)
        while follow:
            state = overview.status_of(folder)
            new = file.read()
            print(new, end="", flush=True)
            if not new and (state is None or state.state != "running"):
                break
            time.sleep(0.5)


cli_jobs.register(app, CLUSTER)


@app.command(rich_help_panel=RESULTS)
def collect(
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make the database anew.")] = False,
    runs: Runs = RUNS,
    database: Database = None,
) -> None:
    """Bring the database up to date with the run folders."""
    from mac_bench import overview

    print(_collect(runs, database, rebuild))
    terminal().print(overview.counts(overview.entries(runs)))


@app.command(rich_help_panel=RESULTS)
def report(
    suite: SuiteName,
    out: Annotated[Path | None, typer.Option(help="Write tables and figures to this folder, in every format.")] = None,
    kind: Annotated[
        Literal["text", "markdown", "csv", "latex"], typer.Option("--format", help="Of the table that is printed.")
    ] = "text",
    reproduction: Annotated[
        Path | None, typer.Option(help="Write the papers' tables beside ours, cell by cell, to this .md file.")
    ] = None,
    runs: Runs = RUNS,
    database: Database = None,
) -> None:
    """Compare the agents of a suite. Collects first, so the numbers are never stale."""
    if reproduction is not None and reproduction.suffix != ".md":
        raise UserError(f"--reproduction {reproduction}: it is Markdown; give a name that ends in .md")
    if reproduction is not None and not reproduction.parent.is_dir():
        raise UserError(f"--reproduction {reproduction}: there is no folder {reproduction.parent}; make it first")
    name = suite.stem if suite.suffix == ".yaml" else str(suite)
    _report(terminal(), name, runs, database, kind, out, reproduction)


@app.command(rich_help_panel=RESULTS)
def dashboard(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of this machine only: http://127.0.0.1:PORT.")] = 8501,
    every: Annotated[int, typer.Option(min=0, help="Seconds between collects; 0: show the database as it is.")] = 30,
    runs: Runs = RUNS,
    database: Database = None,
) -> None:
    """Show results in the browser, brought up to date as runs go on. Ctrl-C ends it."""
    from mac_bench import browse

    database = database or runs / "results.db"
    raise typer.Exit(browse.serve(database, runs, port, every, collect=lambda: _collect(runs, database)))


@app.command("model-error", rich_help_panel=RESULTS)
def model_error(
    names: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Ids, their beginnings, or folders; or a suite, for all its runs."),
    ],
    horizon: Annotated[int, typer.Option(min=1, help="Actions ahead.")] = 100,
    trajectories: Annotated[int, typer.Option(min=1, help="Pieces of held-out episodes, at most.")] = 256,
    out: Annotated[Path | None, typer.Option(help="Write the whole curves to this CSV file.")] = None,
    runs: Runs = RUNS,
    data: Data = DATA,
) -> None:
    """Show how wrong the world models of runs are, after so many actions without looking."""
    from mac_bench import foresight

    if out is not None and out.suffix != ".csv":
        raise UserError(f"--out {out}: curves are written as CSV; give a name that ends in .csv")
    groups, problems = foresight.measure(names, runs, data, horizon, trajectories)
    foresight.show(terminal(), groups)
    for problem in problems:
        print(f"mac-bench: passed over: {problem}", file=sys.stderr)
    if out is not None:
        foresight.write(groups, out)
        print(out, file=sys.stderr)


@app.command(rich_help_panel=WORKSHOP)
def agents(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show all settings of this one.")] = None,
    page: Annotated[bool, typer.Option("--page", help="Print baselines/README.md.")] = False,
) -> None:
    """List the agents, or explain the settings of one."""
    from mac_bench import handbook

    if page:
        print(handbook.methods_page(), end="")
    elif name is None:
        handbook.show_all(terminal())
    else:
        handbook.show(terminal(), name)


@app.command("check-agent", rich_help_panel=WORKSHOP)
def check_agent(name: Annotated[str, typer.Argument(metavar="NAME", help="An agent, or package.module.")]) -> None:
    """Hold an agent against the contract that all must keep; exit code 1 where it fails."""
    from mac_bench import contract

    failed = 0
    for check in contract.checks(name):
        try:
            check.run()
        except Exception as error:
            failed += 1
            reason = str(error).strip() if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            print(f"✗ {check.name}: {reason}", flush=True)
            _trace()
        else:
            print(f"✓ {check.name}", flush=True)
    raise typer.Exit(int(failed > 0))


@app.command(rich_help_panel=WORKSHOP)
def doctor(
    profile: Annotated[str | None, typer.Option("--profile", "-p", help="Try a cluster's profile with a job.")] = None,
    runs: Runs = RUNS,
    data: Data = DATA,
) -> None:
    """Show what works on this machine, and what to do about the rest; with a profile, whether its jobs do."""
    from mac_bench.doctor import examine, show

    if profile is None:
        show(terminal(), examine(runs, data))
        return
    from slurm import probe

    findings = list(probe.examine(profile, runs.absolute()))
    show(terminal(), findings)
    raise typer.Exit(int(any(finding.level == "broken" for finding in findings)))


def _expand(name: Path) -> "tuple[Suite, list[Member]]":
    from mac_bench import suite

    loaded = suite.load(name)
    return loaded, suite.expand(loaded)


def _chosen(name: Path, agent: str | None, task: str | None, seed: int | None, runs: Path) -> "RunConfig":
    """The one run of a suite that the options leave; the suite is entered as started."""
    from mac_bench.suite import only, write_membership

    loaded, members = _expand(name)
    member = only(loaded, members, agent, task, seed)
    write_membership(runs, loaded, members)
    return member.run


def _collect(runs: Path, database: Path | None, rebuild: bool = False) -> Path:
    """Bring the database up to date, say what was passed over, and return where it is."""
    from mac_bench import store
    from mac_bench.record import SILENCE_S

    database = database or runs / "results.db"
    collected = (store.rebuild if rebuild else store.collect)(runs, database, SILENCE_S)
    for problem in collected.problems:
        print(f"mac-bench: {problem}", file=sys.stderr)
    return database


def _report(
    console: Console,
    suite: str,
    runs: Path,
    database: Path | None,
    kind: str = "text",
    out: Path | None = None,
    reproduction: Path | None = None,
) -> None:
    from mac_bench import overview, published, queries, report

    started = overview.started(runs, suite)
    database = _collect(runs, database)
    found = queries.results(database, suite)
    built = report.build(found)
    if kind == "text":
        console.print(report.terminal(built))
        goals = report.by_goal(found, queries.curves(database, suite, every_task=True))
        more = {"success of each evaluation goal, in %": goals, "beside published numbers": published.brief(found)}
        for title, frame in more.items():
            if not frame.empty:
                console.print(report.terminal_table(title, frame))
            if "against" in frame:
                console.print(published.AGAINST, style="dim", soft_wrap=True)
    else:
        print({"markdown": report.markdown, "csv": report.csv, "latex": report.latex}[kind](built), end="")
    if out:
        from mac_bench import export

        for path in export.write(database, suite, out):
            print(path, file=sys.stderr)
    if reproduction or (out and started.get("reproduces")):
        from mac_bench import reproduction as compared
        from mac_bench.files import write_text
        from mac_bench.ran import what_ran

        plan = compared.Plan(started.get("reproduces", {}), tuple(started.get("checkpoints", ())))
        path = reproduction or (out or runs) / "reproduction.md"
        write_text(path, compared.markdown(suite, compared.cells(database, suite, plan), what_ran(found)))
        print(path, file=sys.stderr)
