"""Trackers show a run elsewhere while it is trained: TensorBoard and wandb. Off unless asked for.

They are told what is in the log, and nothing else. The run folder stays the truth: a tracker that fails is off for the
rest of the attempt, one line says so, and the run is the same with it, without it, or with half of it.

runs/<id>/tensorboard/   one file for each attempt; `tensorboard --logdir runs` shows them
runs/<id>/wandb/         one folder for each attempt, offline unless WANDB_MODE says otherwise; `wandb sync` uploads it
"""

import importlib.metadata
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from mac_bench.config import RunConfig
from mac_bench.errors import UserError, unknown
from mac_bench.record import Event, RunFolder

PROJECT = "mac-bench"
"""where wandb puts runs unless WANDB_PROJECT says otherwise"""


class Tracker(Protocol):
    """Shows the numbers of one attempt. May raise anything."""

    def log(self, values: Mapping[str, float], step: int, seconds: float) -> None:
        """Show numbers of this update, written down at this Unix time. Steps never fall."""
        ...

    def close(self, finished: bool) -> None:
        """Nothing more will come: the run is finished, or else stopped or failed."""
        ...


class TensorBoard:
    """A file of events, each written at once: a thread that writes could die and leave training waiting for it."""

    def __init__(self, run: RunConfig, folder: Path):
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        protocol: Any = event_pb2  # its types are made when it is loaded
        self.make = protocol.Event
        (folder / "tensorboard").mkdir(exist_ok=True)
        path = folder / "tensorboard" / f"events.out.tfevents.{time.time():.6f}"  # read in the order of their names
        self.writer = RecordWriter(open(path, "xb"))  # noqa: SIM115
        self._write(wall_time=time.time(), file_version="brain.Event:2")
        # purges what the files of earlier attempts show from step 0 on, because all of it is told again
        self._write(wall_time=time.time(), step=0, session_log={"status": protocol.SessionLog.START})

    def log(self, values: Mapping[str, float], step: int, seconds: float) -> None:
        shown = [{"tag": name, "simple_value": value} for name, value in values.items()]
        self._write(wall_time=seconds, step=step, summary={"value": shown})

    def close(self, finished: bool) -> None:
        self.writer.close()

    def _write(self, **fields: Any) -> None:
        self.writer.write(self.make(**fields).SerializeToString())
        self.writer.flush()


class Wandb:
    """A run of the same id. Only the numbers: no output, no code, no measurements of its own."""

    def __init__(self, run: RunConfig, folder: Path):
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # which would call home even when offline
        import wandb

        mode: Any = os.environ.get("WANDB_MODE") or "offline"
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            id=run.id,
            name=f"{run.agent} {run.task} seed {run.seed}",
            group=run.task,
            job_type=run.agent,
            config=run.model_dump(mode="json"),
            dir=folder,
            mode=mode,
            resume=None if mode == "offline" else "allow",  # which is ignored offline, with a warning
            reinit="create_new",  # never the run that an earlier attempt of this process left open
            settings=wandb.Settings(console="off", silent=True, disable_git=True, x_disable_stats=True),
        )

    def log(self, values: Mapping[str, float], step: int, seconds: float) -> None:
        self.run.log({**values, "_timestamp": seconds}, step=step)

    def close(self, finished: bool) -> None:
        self.run.finish(exit_code=0 if finished else 1)


KINDS: dict[str, Callable[[RunConfig, Path], Tracker]] = {"tensorboard": TensorBoard, "wandb": Wandb}
"""by the name of the package that each needs; called with the run and its folder"""


def check(names: Iterable[str]) -> None:
    """Raises UserError where there is no tracker of such a name, or not the package that it needs."""
    for name in names:
        if name not in KINDS:
            raise unknown("tracker", name, KINDS)
        try:
            importlib.metadata.version(name)  # not find_spec: any folder called wandb would do for that
        except importlib.metadata.PackageNotFoundError:
            raise UserError(f"tracker {name} needs a package that is not installed; pip install {name}") from None


@contextmanager
def following(names: Iterable[str], run: RunConfig, folder: RunFolder) -> Iterator[Callable[[Event], None]]:
    """These trackers beside one attempt; yields what is to hear each event that is written. What they raise
    ends here."""
    followers = [_Follower(name, run, folder) for name in dict.fromkeys(names)]

    def hear(event: Event) -> None:
        for follower in followers:
            follower.hear(event)

    try:
        yield hear
    finally:
        for follower in followers:
            follower.close()


class _Follower:
    """Tells one tracker what is written; its first error is its last."""

    def __init__(self, name: str, run: RunConfig, folder: RunFolder):
        self.name, self.run, self.folder = name, run, folder
        self.tracker: Tracker | None = None
        self.finished = False
        self.told: dict[str, int] = {}
        """name -> the last step at which a number of this name was told"""

    def hear(self, event: Event) -> None:
        with self._guarded():
            if event["kind"] == "attempt":
                self._begin(event["step"])
            elif event["kind"] == "end":
                self.finished = event["state"] == "finished"
            elif self.tracker is not None:
                self._tell(self.tracker, event)

    def close(self) -> None:
        with self._guarded():
            if self.tracker is not None:
                self.tracker.close(self.finished)

    def _begin(self, first: int) -> None:
        """Open the tracker, and tell it what the log holds up to the update from which training goes on: so it shows
        the whole run, even if it was not asked for earlier, and nothing that a killed attempt did in vain."""
        self.tracker = KINDS[self.name](self.run, self.folder.path)
        past = [event for event in self.folder.read() if event["step"] <= first]
        past.reverse()  # of a repeated step the later line counts, so it must come first
        for event in sorted(past, key=lambda event: event["step"]):
            self._tell(self.tracker, event)

    def _tell(self, tracker: Tracker, event: Event) -> None:
        """Each number once: a later event may repeat it, such as an evaluation that is made up for."""
        step = event["step"]
        values = {name: value for name, value in numbers(event).items() if step > self.told.get(name, -1)}
        if values:
            tracker.log(values, step, event["time"])
            self.told |= {name: step for name in values}

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.tracker = None
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            with suppress(OSError):  # the disk may be full for what is printed, too
                print(f"tracker {self.name} is off, the run goes on: {reason}", flush=True)


def numbers(event: Event) -> dict[str, float]:
    """The numbers of an event of the log, by name. Null there is NaN here, as in the database."""
    found: dict[str, float | None] = {}
    if event["kind"] == "metrics":
        found = {**event["values"], "updates_per_s": event["updates_per_s"]}
    elif event["kind"] == "evaluation":
        tasks = event["tasks"]
        for name in ("success", "return", "length"):
            found[f"evaluation/{name}"] = statistics.fmean(task[name] for task in tasks)
            found |= {f"evaluation/{name}/task{task['task']}": task[name] for task in tasks}
        found |= {"evaluation/seconds": event["seconds"], **event.get("memory", {})}
    return {name: math.nan if value is None else value for name, value in found.items()}
