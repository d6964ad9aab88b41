"""The verbs that send runs to a cluster, and those that give orders to runs wherever they are."""

import getpass
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer
from rich.markup import escape

from mac_bench import overview
from mac_bench.cli_data import DATA, RUNS, Data, Runs, SuiteName, Track, Videos, Workers, terminal
from mac_bench.errors import UserError, unknown
from mac_bench.record import RunFolder

if TYPE_CHECKING:
    from mac_bench.suite import Member
    from slurm.profile import Profile
    from slurm.submission import Submission
    from slurm.submit import Ask, Sent

Labels = Annotated[list[str] | None, typer.Option("--agent", help="Only runs with this label; repeat for more.")]
Tasks = Annotated[list[str] | None, typer.Option("--task", help="Only runs on this task; repeat for more.")]
Seeds = Annotated[list[int] | None, typer.Option("--seed", help="Only runs with this seed; repeat for more.")]
States = Annotated[list[str] | None, typer.Option("--state", help="Only runs in this state; repeat for more.")]
ProfileName = Annotated[
    str, typer.Option("--profile", "-p", help="A .yaml file, or the name of one in slurm/profiles/.")
]
Name = Annotated[str, typer.Argument(metavar="SUITE", help="A suite that was started.")]
WORDS = {"hold": "held", "cancel": "cancelled"}
UNSENT = ("waiting", "stopped", "lost", "failed")
"""states of runs that nobody has, and nobody said are not wanted"""
POLL_S, SLOWEST_S = 40.0, 180.0
"""between questions to SLURM: reset whenever something changed, longer while nothing does"""


class Selection(NamedTuple):
    """Which runs of a suite are meant."""

    labels: list[str] | None = None
    tasks: list[str] | None = None
    seeds: list[int] | None = None
    states: list[str] | None = None

    def of(self, lines: list[overview.Entry]) -> list[overview.Entry]:
        """Raises UserError for a name that no run has."""
        fields = (("label", self.labels), ("task", self.tasks), ("seed", self.seeds), ("state", self.states))
        for field, wanted in fields:
            if wanted is not None:
                known = list(overview.STYLES) if field == "state" else [getattr(line, field) for line in lines]
                for name in wanted:
                    if name not in known:
                        raise unknown(field, str(name), map(str, dict.fromkeys(known)))
        return [line for line in lines if all(not wanted or getattr(line, field) in wanted for field, wanted in fields)]


def _where(sent: "Sent") -> str:
    jobs = [array.job for array in sent.submission.arrays if array.job]
    return f" as {overview.plural(len(jobs), 'array')}: {', '.join(jobs)}" if jobs else ""


def _order(runs: Path, suite: str, chosen: Selection, wish: Literal["hold", "cancel"]) -> None:
    from slurm import orders

    root = runs.absolute()
    keep = ("finished", "cancelled") if wish == "cancel" else ("finished", "cancelled", "held", "failed")
    lines = [line for line in seen(root, suite, chosen) if line.state not in keep]
    done = orders.stop(root, [line.run for line in lines], wish, f"{WORDS[wish]} by {getpass.getuser()}")
    print(f"{overview.plural(done.runs, 'run')} {WORDS[wish]}; those that are running save first")
    _complain(done.problems)


def _go(runs: Path, suite: str, wanted: list[str], word: str) -> None:
    from slurm import orders

    root = runs.absolute()
    done = orders.go(root, wanted, f"{word} by {getpass.getuser()}")
    again = f", {done.continued:,} submitted again" if done.continued else ""
    local = f"; `mac-bench run {suite}` continues {done.here:,} of them here" if done.here else ""
    print(f"{overview.plural(done.runs, 'run')} {word}{again}{local}")
    _complain(done.problems)


def _complain(problems: Sequence[str]) -> None:
    """Raises UserError where SLURM did not do what it was told."""
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"SLURM did not agree: {problems[0]}{more}")


def register(app: typer.Typer, panel: str) -> None:
    """Add the verbs to the command line."""
    for verb in (submit, watch, cancel, hold, release, retry):
        app.command(rich_help_panel=panel)(verb)


def log_of(folder: RunFolder) -> Path | None:
    """What the last job printed that a run was sent to; None where there is no such file."""
    from slurm import submission

    root = folder.path.parent
    sent, job = submission.latest(submission.everything(root)).get(folder.path.name, (None, None))
    path = submission.log(root, sent.id, job) if sent and job else None
    return path if path and path.exists() else None


def seen(root: Path, suite: str | None, chosen: Selection = Selection()) -> list[overview.Entry]:  # noqa: B008
    """Runs with their states by all that can be known. Raises UserError where nothing was started."""
    return chosen.of([line for line, _ in _looked(root, suite)])


def _looked(root: Path, suite: str | None) -> list[tuple[overview.Entry, bool]]:
    """Runs with their states, and whether something is still to come of them without the user."""
    name = Path(suite).stem if suite and suite.endswith(".yaml") else suite
    lines = overview.entries(root, name)
    if not (root / "jobs").exists():
        return [(line, line.state == "running") for line in lines]
    from slurm import tend

    # what is finished stays so, whatever any job does
    known = tend.look(root, [line.run for line in lines if line.state != "finished"])
    found = [(line, known.get(line.run)) for line in lines]
    return [
        (line._replace(state=seen.state, reason=seen.reason), seen.open) if seen else (line, False)
        for line, seen in found
    ]


def submit(
    suite: SuiteName,
    profile: ProfileName,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what sbatch would be given; change nothing.")
    ] = False,
    labels: Labels = None,
    tasks: Tasks = None,
    seeds: Seeds = None,
    eval_workers: Workers = 0,
    videos: Videos = 0,
    track: Track = None,
    runs: Runs = RUNS,
    data: Data = DATA,
) -> None:
    """Send a suite to SLURM: all runs that are not finished, queued or running. Returns at once; repeat it at will."""
    from mac_bench import suite as suites
    from slurm import cluster, snapshot, submission, submit, tend
    from slurm import profile as profiles

    console, root = terminal(), runs.absolute()
    asked = profiles.load(profile)
    loaded = suites.load(suite)
    members = {member.run.id: member for member in suites.expand(loaded)}
    lines = [overview.entry(root, member.label, member.run) for member in members.values()]
    chosen = [line.run for line in Selection(labels, tasks, seeds).of(lines)]
    submit.check_root(root)
    options = submission.Options(
        data=str(data.absolute()), eval_workers=eval_workers, videos=videos, track=list(track or ())
    )
    fresh = submission.new(loaded.name, "slurm", options)
    fresh.profile = asked
    fresh.resources = {run: member.resources for run, member in members.items() if member.resources.asks()}
    if dry_run:
        _show(fresh, root, [members[run] for run in chosen])
        return
    cluster.require()
    suites.require_data([members[run] for run in chosen], data, suite)
    fresh.code = str(snapshot.take(root, [member.run.agent for member in members.values()]))
    suites.write_membership(root, loaded, list(members.values()))
    with submission.lock(root):
        tend.settle(root)
        states = tend.look(root, chosen)
        wanted = [run for run in chosen if states[run].state in UNSENT]
        for run in wanted:
            RunFolder.create(root, members[run].run)
        asks = [_ask(asked, members[run], root) for run in wanted]
        sent = submit.send(fresh, root, asks) if asks else submit.Sent(fresh, None)
    others = Counter(states[run].state for run in chosen if run not in set(wanted))
    _report(sent, len(chosen), len(wanted), "".join(f"; {number:,} {state}" for state, number in others.items()))
    console.print(f"[dim]mac-bench status {loaded.name} | watch {loaded.name} | cancel {loaded.name}[/]")


def _show(fresh: "Submission", root: Path, members: "list[Member]") -> None:
    """What sbatch would be given."""
    from slurm import cluster, submit, tend

    assert fresh.profile is not None
    fresh.code = str(root / "code" / "SNAPSHOT")
    states = tend.look(root, [member.run.id for member in members])
    asks = [_ask(fresh.profile, member, root) for member in members if states[member.run.id].state in UNSENT]
    for text in submit.texts(fresh, root, asks, cluster.limits().array_size if cluster.available() else 1001):
        print(text)
    if not asks:
        terminal().print(f"nothing to submit: all {overview.plural(len(members), 'run')} are done, or in hands")


def _report(sent: "Sent", chosen: int, wanted: int, left: str) -> None:
    """What became of the `wanted` of the `chosen` runs. Raises UserError where the cluster did not take all."""
    if sent.refused and not sent.accepted:
        raise UserError(f"nothing was submitted: {sent.refused}")
    terminal().print(f"{overview.plural(sent.accepted, 'run')} of {chosen:,} submitted{_where(sent)}{left}")
    if sent.unkept:
        advice = "`keeper: false` does without, and `watch` continues what dies"
        print(f"mac-bench: no job waits for these to continue what dies: {sent.unkept}; {advice}", file=sys.stderr)
    if sent.refused:
        rest = overview.plural(wanted - sent.accepted, "run")
        raise UserError(f"the cluster refused the other {rest}: {sent.refused}; repeat it later")


def _ask(profile: "Profile", member: "Member", root: Path) -> "Ask":
    """With what its attempts have taught, even where they were given up: the user wants it tried."""
    from slurm.policy import judge
    from slurm.submit import Ask

    return Ask(member.run.id, profile.with_(member.resources), judge(RunFolder(root / member.run.id)))


def watch(
    suite: Name,
    once: Annotated[bool, typer.Option("--once", help="Look and act once, as for cron.")] = False,
    every: Annotated[float, typer.Option(min=1, help="Seconds between questions, at first.")] = POLL_S,
    runs: Runs = RUNS,
) -> None:
    """Follow a suite on the cluster until it is done, and continue what died. Ctrl-C leaves it alone; jobs go on."""
    from slurm import tend

    console, root, pause, before = terminal(), runs.absolute(), every, ""
    while True:
        try:
            done = tend.tend(root)
        except UserError as error:  # somebody submits just now
            done = tend.Tended(refused=str(error))
        looked = _looked(root, suite)
        lines = [line for line, _ in looked]
        text = overview.counts(lines) + (f" ({escape(str(done))})" if done.continued or done.refused else "")
        if text != before:
            console.print(f"[dim]{time.strftime('%H:%M:%S')}[/] {text}")
        pause = every if text != before else min(1.5 * pause, max(every, SLOWEST_S))
        before = text
        if once or not (done.late or any(still for _, still in looked)):
            break
        time.sleep(pause)
    overview.show(console, lines, root, live=True, every=False)
    if any(line.state != "finished" for line in lines):
        raise typer.Exit(1)


def cancel(
    suite: Name,
    labels: Labels = None,
    tasks: Tasks = None,
    seeds: Seeds = None,
    states: States = None,
    runs: Runs = RUNS,
) -> None:
    """Stop runs for good: those that run save and end, those in a queue leave it. `retry` takes it back."""
    _order(runs, suite, Selection(labels, tasks, seeds, states), "cancel")


def hold(
    suite: Name,
    labels: Labels = None,
    tasks: Tasks = None,
    seeds: Seeds = None,
    states: States = None,
    runs: Runs = RUNS,
) -> None:
    """Stop runs for now: those that run save and end, those in a queue wait. `release` lets them go on."""
    _order(runs, suite, Selection(labels, tasks, seeds, states), "hold")


def release(suite: Name, labels: Labels = None, tasks: Tasks = None, seeds: Seeds = None, runs: Runs = RUNS) -> None:
    """Let held runs go on, where they were before."""
    lines = seen(runs.absolute(), suite, Selection(labels, tasks, seeds))
    orders = {line.run: RunFolder(runs / line.run).order() for line in lines}
    # by the order, for one that still saves is not held yet
    _go(runs, suite, [run for run, order in orders.items() if order and order.wish == "hold"], "released")


def retry(
    suite: Name,
    labels: Labels = None,
    tasks: Tasks = None,
    seeds: Seeds = None,
    states: States = None,
    runs: Runs = RUNS,
) -> None:
    """Try failed and cancelled runs again, from their last checkpoints; what happened before is forgiven."""
    chosen = Selection(labels, tasks, seeds, states or ["failed", "cancelled", "lost", "unknown"])
    _go(runs, suite, [line.run for line in seen(runs.absolute(), suite, chosen)], "retried")
