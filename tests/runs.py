"""Small real runs, and what they left behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import DATA, TASK

from mac_bench import contract, evaluate, registry
from mac_bench.config import EvalConfig, RunConfig
from mac_bench.files import read_arrays
from mac_bench.record import RunFolder
from mac_bench.types import Sampling

STEPS = 60


def small_run(agent: str = "bc", *, task: str = TASK, steps: int = STEPS, seed: int = 0, **settings) -> RunConfig:
    """A run of seconds, with two evaluations."""
    resolved = registry.settings(agent, contract.small(agent) | settings, "test")
    return RunConfig(
        agent=agent,
        version=registry.module(agent).VERSION,
        task=task,
        dataset=DATA,
        seed=seed,
        steps=steps,
        settings=resolved.model_dump(mode="json"),
        evaluation=EvalConfig(every=steps // 2, episodes=2, parallel=2),
    )


class Constant:
    """Does always the same."""

    sampling = Sampling(1)

    def __init__(self, *action: float):
        self.action = np.float32(action)

    def act(self, obs, goal, *, seed):
        return np.tile(self.action, (len(obs), 1, 1))


def stop_before_evaluation(monkeypatch) -> list[int]:
    """SIGTERM to this process, once, as the first evaluation begins; the list is given the step when that happens."""
    original, stopped = evaluate.Evaluator._wave, []

    def interrupted(self, agent, starts, step, wave, beat):
        if not stopped:
            stopped.append(step)
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, agent, starts, step, wave, beat)

    monkeypatch.setattr(evaluate.Evaluator, "_wave", interrupted)
    return stopped


def numbers(folder: Path) -> dict:
    """Every recorded number that the clock has no part in, by kind and step; of a repeated step the later counts."""
    found = {}
    for event in RunFolder(folder).read():
        if event["kind"] == "metrics":
            found.setdefault(("metrics", event["step"]), {}).update(event["values"])
        if event["kind"] == "evaluation":
            found["evaluation", event["step"]] = event["tasks"]
    return found


def arrays(folder: Path) -> dict[str, bytes]:
    """The final checkpoint, bit for bit."""
    return {name: array.tobytes() for name, array in read_arrays(folder / "checkpoint.npz").items()}


def start(
    run: RunConfig, root: Path, data: Path, checkpoint_minutes: float = 0.0, **environment: str
) -> subprocess.Popen:
    """Train in a process of its own, saving after every update by default."""
    code = (
        "import json, sys; from pathlib import Path; from mac_bench.config import RunConfig, parse\n"
        "from mac_bench.train import Options, train\n"
        "run = parse(RunConfig, json.loads(sys.argv[1]), 'test')\n"
        "options = Options(checkpoint_minutes=float(sys.argv[4]))\n"
        "print(train(run, Path(sys.argv[2]), Path(sys.argv[3]), options).state)\n"
    )
    arguments = [json.dumps(run.model_dump(mode="json")), str(root), str(data), str(checkpoint_minutes)]
    environment = os.environ | environment
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )
