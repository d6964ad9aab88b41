"""`train(run, root, data)`: the only way to run a run, on a laptop or on a cluster node.

It can be called again at any time: a finished run is left as it is, any other continues exactly where it stopped. That
works because randomness is a function of (seed, purpose, step), so a checkpoint is the agent's arrays and a step.
"""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mac_bench import model_error, registry, tasks, trackers, video
from mac_bench.config import RunConfig
from mac_bench.data import Dataset, prefetch
from mac_bench.errors import UserError
from mac_bench.evaluate import Evaluator, overall
from mac_bench.manifest import FETCHED, made_here, read_manifest
from mac_bench.provenance import describe, peak_memory
from mac_bench.record import ORDERS_S, Cause, Journal, Order, RunFolder, State, Status
from mac_bench.signals import listening
from mac_bench.types import Agent


class Options(NamedTuple):
    """What may differ from call to call without changing any result."""

    eval_workers: int = 0
    """processes for evaluation environments; 0 keeps them in this one"""
    videos: int = 0
    """episodes of each evaluation task to film at the last evaluation"""
    checkpoint_minutes: float = 10.0
    """time between checkpoints, beside those at evaluations"""
    progress: bool = False
    """show a progress bar"""
    trackers: tuple[str, ...] = ()
    """names in trackers.KINDS that show the run while it is trained"""


class Outcome(NamedTuple):
    """How a call of `train` ended."""

    state: State
    """finished or stopped; held or cancelled where that was ordered; running where another process has it now"""
    signal: int | None = None
    """the signal that stopped it"""


def train(run: RunConfig, root: Path, data: Path, options: Options = Options()) -> Outcome:  # noqa: B008
    """Train `run` in its folder under `root`, on data found under `data`.

    SIGTERM and Ctrl-C save and return "stopped"; Ctrl-C after that interrupts at once. An order to hold or cancel the
    run is obeyed within seconds, and before it begins. Raises UserError for what the user can put right. Whatever is
    raised once the run is claimed is also written down as the reason of its failure.
    """
    trackers.check(options.trackers)
    folder = RunFolder.create(root, run)
    if _finished(folder.status()):  # without a claim, which leaves traces
        return Outcome("finished")
    with (
        folder.claim() as attempt,
        listening(stop := Stop(folder, attempt), (signal.SIGTERM, signal.SIGINT)),
        trackers.following(options.trackers, run, folder) as hear,
    ):
        before = folder.status()
        if _finished(before):
            return Outcome("finished")
        order = folder.kept()
        if order is not None:
            return Outcome(order.state)
        journal = Journal(folder, run.steps, attempt, before, hear)
        try:
            journal.status("running")
            with journal.pulse():
                loaded = _Attempt(run, folder, journal, data, options, stop)
            loaded.go()
        except Stopped as stopped:
            journal.end(stopped.state, str(stopped), stopped.cause)
            return Outcome(stopped.state, stop.asked)
        except Superseded:
            return Outcome("running")
        except BaseException as error:
            journal.fail(error)
            if isinstance(error, OSError):
                raise UserError(f"{folder.path}: {error.strerror or error}; the last checkpoint is kept") from error
            raise
        journal.end("finished")
        return Outcome("finished")


def _finished(status: Status | None) -> bool:
    return status is not None and status.state == "finished"


class _Attempt:
    """Load everything, and train from the newest checkpoint to the last update."""

    def __init__(self, run: RunConfig, folder: RunFolder, journal: Journal, data: Path, options: Options, stop: "Stop"):
        self.run, self.folder, self.journal, self.options, self.stop = run, folder, journal, options, stop
        self.task = tasks.find(run.task)
        self.data = tasks.load(self.task, run.dataset, data, run.resident)
        folder.expect_data(self.data.digest)
        folder.expect_simulator(self.task.world()["simulator"])
        self.agent, self.first = restore(run, folder, self.data)
        self.pieces = model_error.held_out(self.data, seed=run.seed) if model_error.forecasts(self.agent) else None
        here = {"data": self.data.digest, "data_rows": str(len(self.data.observations))}
        here |= self.task.world()
        manifest = read_manifest(data / run.dataset)
        here |= {"data_made_here": str(made_here(manifest)), "data_fetched": str(FETCHED in manifest)}
        journal.begin(self.first, describe() | here | {"defaults": json.dumps(registry.defaults(run.agent))})

    def go(self) -> None:
        """Updates first + 1 ... steps, and their evaluations."""
        with (
            Evaluator(self.task, self.run.evaluation, self.run.seed, self.options.eval_workers) as self.evaluator,
            _progress(self.run, self.first, self.options.progress) as self.show,
        ):
            if self.run.evaluates_after(self.first) and self.first not in self.folder.evaluated():
                self._evaluate(self.first)
            self.stop.check()
            self._loop()

    def _loop(self) -> None:
        """A checkpoint comes before its evaluation, so a stop in between loses nothing."""
        run, journal = self.run, self.journal
        # about 200 points on a curve, and at least one in 5,000 updates
        log_every = max(1, min(run.steps // 200, 5000))
        saved = time.monotonic()
        sampling = self.agent.sampling
        batches = prefetch(lambda step: self.data.sample(sampling, run.seed, step), self.first + 1, run.steps + 1)
        for step, batch in enumerate(batches, self.first + 1):
            metrics = self.agent.update(batch, step)
            journal.step = step
            asked = self.stop.wanted()  # read once: a signal that comes later is for the next update
            evaluating, logging = run.evaluates_after(step), step % log_every == 0
            saving = evaluating or asked or time.monotonic() - saved > 60 * self.options.checkpoint_minutes
            if saving or logging:
                # nothing is saved once a loss is not finite
                journal.metrics(step, metrics, write=logging)
                self.show(step, journal.rate, None)
            if saving:
                self.folder.save_checkpoint(lambda path, step=step: self.agent.save(path, step))
                saved = time.monotonic()
            if asked:
                self.stop.check()
            if evaluating:
                self._evaluate(step)
                journal.restart_clock()
            journal.beat()

    def _evaluate(self, step: int) -> None:
        def beat() -> None:
            self.journal.beat()
            self.stop.check()

        if self.pieces is not None:  # before the evaluation, whose event says that nothing needs to be made up for
            values = model_error.recorded(self.agent, self.pieces)
            self.journal.write("metrics", step=step, values=values, updates_per_s=self.journal.rate)
            beat()
        films = self.options.videos if step == self.run.steps else 0
        began = time.monotonic()
        results, filmed = self.evaluator(self.agent, step, films=films, beat=beat)
        seconds = round(time.monotonic() - began, 2)
        self.journal.write("evaluation", step=step, seconds=seconds, tasks=results, memory=peak_memory())
        self.show(step, self.journal.rate, overall(results))
        _render(self.run, self.folder, step, filmed)


def restore(run: RunConfig, folder: RunFolder, data: Dataset) -> tuple[Agent, int]:
    """The run's agent as its newest readable checkpoint has it, and the last update that is in it; 0: a new one.

    Raises UserError where the agent is of another version than the run was planned for.
    """
    version = registry.module(run.agent).VERSION
    if version != run.version:
        raise UserError(
            f"this run was planned for version {run.version} of {run.agent}, but here is version {version}, "
            "whose results differ; plan it anew"
        )
    agent = registry.make(run.agent, run.settings, data, run.seed)
    return agent, folder.load_checkpoint(agent.load)


def _render(run: RunConfig, folder: RunFolder, step: int, filmed: dict) -> None:
    """Videos of the filmed episodes; where that does not work, a line says so and nothing else changes."""
    for (task, episode), states in filmed.items():
        path = folder.path / "videos" / f"update{step}-task{task}-episode{episode}.gif"
        reason = video.render(run.task, states, path)
        print(f"no video {path.name}: {reason}" if reason else f"video: {path}")


class Stopped(Exception):
    """Somebody wants the run to stop; everything worth keeping has been saved."""

    def __init__(self, reason: str, state: State, cause: Cause):
        super().__init__(reason)
        self.state: State = state
        self.cause: Cause = cause


class Superseded(Exception):
    """A later attempt has begun, elsewhere: this one was given up for dead, and must not write another word."""


class Stop:
    """Remembers the first signal that asked to stop, and looks for orders every few seconds."""

    def __init__(self, folder: RunFolder, attempt: int):
        self.folder, self.attempt = folder, attempt
        self.asked: int | None = None
        self.order: Order | None = None
        self._looked = time.monotonic()

    def __call__(self, number: int, frame: object) -> None:
        """The signal handler: only sets a flag, so that a checkpoint is never cut in two. Ctrl-C after another signal
        interrupts; other signals can come twice, from a cluster and from the queue there."""
        if self.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = self.asked or number

    def wanted(self) -> bool:
        """Whether the run is to stop. Raises Superseded where it is another's by now."""
        if time.monotonic() - self._looked > ORDERS_S:
            self._looked = time.monotonic()
            if self.folder.superseded(self.attempt):
                raise Superseded
            self.order = self.folder.kept()
        return self.asked is not None or self.order is not None

    def check(self) -> None:
        """Raises Stopped where the run is to stop."""
        if self.wanted():
            if self.order is not None and self.asked is None:
                self.order = self.folder.kept()  # it may have been taken back while the run saved
                if self.order is None:
                    return
            if self.order is not None:
                raise Stopped(self.order.reason, self.order.state, "ordered")
            assert self.asked is not None
            raise Stopped(signal.Signals(self.asked).name, "stopped", "signalled")


@contextmanager
def _progress(run: RunConfig, first: int, wanted: bool) -> Iterator[Callable[[int, float | None, float | None], None]]:
    """A progress bar with rate, time left and last success or normalised score, or nothing."""
    if not wanted:
        yield lambda step, rate, score: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        line = bar.add_task(f"{run.agent} seed {run.seed}", total=run.steps, completed=first, note="")
        note = {"rate": "", "score": ""}

        def show(step: int, rate: float | None, score: float | None) -> None:
            if rate is not None:
                note["rate"] = f"{rate:.1f} updates/s"
            if score is not None:
                note["score"] = f"  {tasks.measure_of(run.task)} {score:.0%}"
            bar.update(line, completed=step, note="".join(note.values()))

        yield show
