"""`train(run, root, data)`: the only way to run a run, on a laptop or on a cluster node.

It can be called again at any time: a finished run is left as it is, any other continues exactly where it stopped. That
works because randomness is a function of (seed, purpose, step), so a checkpoint is the agent's arrays and a step.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mac_bench import registry, tasks, video
from mac_bench.config import RunConfig
from mac_bench.data import Dataset, prefetch
from mac_bench.environment import describe
from mac_bench.errors import UserError
from mac_bench.evaluate import Evaluator, overall
from mac_bench.record import Journal, RunFolder, State
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


class Outcome(NamedTuple):
    """How a call of `train` ended."""

    state: State
    """finished or stopped"""
    signal: int | None = None
    """the signal that stopped it"""


def train(run: RunConfig, root: Path, data: Path, options: Options = Options()) -> Outcome:  # noqa: B008
    """Train `run` in its folder under `root`, on data found under `data`.

    SIGTERM and Ctrl-C save and return "stopped"; a second one interrupts at once. Raises UserError for what the user
    can put right. Whatever is raised once the run is claimed is also written down as the reason of its failure.
    """
    folder = RunFolder.create(root, run)
    with folder.claim(), _signals() as stop:
        before = folder.status()
        if before is not None and before.state == "finished":
            return Outcome("finished")
        journal = Journal(folder, run.steps, attempt=before.attempt + 1 if before else 1)
        try:
            journal.status("running")
            _attempt(run, folder, journal, data, options, stop)
        except Stopped as stopped:
            journal.end("stopped", str(stopped))
            return Outcome("stopped", stop.asked)
        except BaseException as error:
            journal.fail(error)
            if isinstance(error, OSError):
                raise UserError(f"{folder.path}: {error}; the last checkpoint is kept") from error
            raise
        journal.end("finished")
        return Outcome("finished")


def _attempt(run: RunConfig, folder: RunFolder, journal: Journal, data: Path, options: Options, stop: "Stop") -> None:
    """Load everything, and train from the newest checkpoint to the last update."""
    task = tasks.find(run.task)
    dataset = tasks.load(task, run.dataset, data)
    folder.expect_data(dataset.digest)
    agent = _make(run, dataset)
    first = folder.load_checkpoint(agent.load)
    journal.begin(first, {**describe(), "data": dataset.digest})
    with (
        Evaluator(task, run.evaluation, run.seed, options.eval_workers) as evaluator,
        _progress(run, first, options.progress) as show,
    ):

        def beat() -> None:
            journal.beat()
            stop.check()

        def evaluate(step: int) -> None:
            films = options.videos if step == run.steps else 0
            began = time.monotonic()
            results, filmed = evaluator(agent, step, films=films, beat=beat)
            journal.write("evaluation", step=step, seconds=round(time.monotonic() - began, 2), tasks=results)
            show(step, journal.rate, overall(results))
            _render(run, folder, step, filmed)

        _loop(run, agent, dataset, folder, journal, first, evaluate, beat, show, stop, options.checkpoint_minutes)


def _loop(run, agent: Agent, dataset, folder, journal, first: int, evaluate, beat, show, stop, minutes: float) -> None:
    """Updates first + 1 ... steps. Checkpoints come before evaluations, so a stop in between loses nothing."""
    # about 200 points on a curve, and at least one in 5,000 updates
    log_every = max(1, min(run.steps // 200, 5000))
    if run.evaluates_after(first) and first not in folder.evaluated():
        evaluate(first)
    stop.check()
    saved = time.monotonic()
    batches = prefetch(lambda step: dataset.sample(agent.sampling, run.seed, step), first + 1, run.steps + 1)
    for step, batch in enumerate(batches, first + 1):
        metrics = agent.update(batch, step)
        journal.step = step
        asked = stop.asked is not None
        evaluating = run.evaluates_after(step)
        saving = evaluating or asked or time.monotonic() - saved > 60 * minutes
        logging = step % log_every == 0
        if saving or logging:
            # what is not finite is never saved, so a checkpoint is always worth continuing
            journal.metrics(step, metrics, write=logging)
            show(step, journal.rate, None)
        if saving:
            folder.save_checkpoint(lambda path, step=step: agent.save(path, step))
            saved = time.monotonic()
        if evaluating and not asked:
            evaluate(step)
            journal.restart_clock()
        if asked or not evaluating:
            beat()


def _make(run: RunConfig, dataset: Dataset) -> Agent:
    version = registry.module(run.agent).VERSION
    if version != run.version:
        raise UserError(
            f"this run was planned for version {run.version} of {run.agent}, but here is version {version}, "
            "whose results differ; plan it anew"
        )
    return registry.make(run.agent, run.settings, dataset, run.seed)


def _render(run: RunConfig, folder: RunFolder, step: int, filmed: dict) -> None:
    """Videos of the filmed episodes; where that does not work, a line says so and nothing else changes."""
    for (task, episode), states in filmed.items():
        path = folder.path / "videos" / f"update{step}-task{task}-episode{episode}.gif"
        reason = video.render(run.task, states, path)
        print(f"no video {path.name}: {reason}" if reason else f"video: {path}")


class Stopped(Exception):
    """A signal asked the run to stop; everything worth keeping has been saved."""


class Stop:
    """Remembers the first signal that asked to stop."""

    asked: int | None = None

    def __call__(self, number: int, frame: object) -> None:
        """The signal handler: only sets a flag, so that a checkpoint is never cut in two."""
        if self.asked is not None:
            raise KeyboardInterrupt
        self.asked = number

    def check(self) -> None:
        """Raises Stopped once a signal has come."""
        if self.asked is not None:
            raise Stopped(signal.Signals(self.asked).name)


@contextmanager
def _signals() -> Iterator[Stop]:
    """Listen for SIGTERM and SIGINT, where this is the main thread; only there may Python do so."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(run: RunConfig, first: int, wanted: bool) -> Iterator[Callable[[int, float | None, float | None], None]]:
    """A progress bar with rate, time left and last success, or nothing."""
    if not wanted:
        yield lambda step, rate, success: None
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
        note = {"rate": "", "success": ""}

        def show(step: int, rate: float | None, success: float | None) -> None:
            if rate is not None:
                note["rate"] = f"{rate:.1f} updates/s"
            if success is not None:
                note["success"] = f"  success {success:.0%}"
            bar.update(line, completed=step, note="".join(note.values()))

        yield show
