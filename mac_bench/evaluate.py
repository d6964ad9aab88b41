"""An agent in environments: many episodes at a time, chunk by chunk, one batched `act` for all of them.

Everything random is a function of (run seed, step, task, episode), so the same agent meets the same episodes again.
"""

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from mac_bench import tasks
from mac_bench.config import EvalConfig
from mac_bench.errors import UserError
from mac_bench.types import Agent

EPISODES, ACTIONS = 2, 3
"""purpose numbers of the random streams"""


class Start(NamedTuple):
    """One episode to play."""

    task: int
    seed: int
    film: bool
    """keep the states, to be rendered later"""


class Seen(NamedTuple):
    """One environment after a reset or a chunk of actions."""

    obs: np.ndarray
    """[O]"""
    goal: np.ndarray | None
    """[G]"""
    reward: float = 0.0
    """sum over the chunk"""
    length: int = 0
    """actions executed"""
    done: bool = False
    success: bool = False


class Environments:
    """Some environments of one task, in this process. Slot i is environment i."""

    def __init__(self, task: tasks.Task, size: int):
        self.envs = [tasks.Env(task) for _ in range(size)]
        self.goals: list[np.ndarray | None] = [None] * size
        self.films: dict[int, list[dict[str, np.ndarray]]] = {}

    def reset(self, starts: dict[int, Start]) -> dict[int, Seen]:
        """Begin an episode in each of these slots."""
        seen = {}
        for slot, start in starts.items():
            obs, self.goals[slot] = self.envs[slot].reset(start.task, start.seed)
            self.films.pop(slot, None)
            if start.film:
                self.films[slot] = [self.envs[slot].state()]
            seen[slot] = Seen(obs, self.goals[slot])
        return seen

    def play(self, chunks: dict[int, np.ndarray]) -> dict[int, Seen]:
        """Execute a chunk [K, A] in each of these slots, up to the end of its episode."""
        return {slot: self._play_one(slot, chunk) for slot, chunk in chunks.items()}

    def _play_one(self, slot: int, chunk: np.ndarray) -> Seen:
        reward, length, success = 0.0, 0, False
        for action in chunk:
            step = self.envs[slot].step(action)
            reward, length, success = reward + step.reward, length + 1, success or step.success
            if slot in self.films:
                self.films[slot].append(self.envs[slot].state())
            if step.done:
                break
        return Seen(step.obs, self.goals[slot], reward, length, step.done, success)

    def film(self, slot: int) -> list[dict[str, np.ndarray]]:
        """The states of the slot's last episode, where its start asked for them."""
        return self.films.get(slot, [])

    def close(self) -> None:
        """Close all environments."""
        for env in self.envs:
            env.close()


class Group:
    """Environments in this process or in one of their own; `begin` and `finish` let groups work side by side."""

    def __init__(self, task: tasks.Task, size: int, apart: bool):
        self.here = None if apart else Environments(task, size)
        if apart:
            # spawned, not forked: a copy of a process that holds jax threads can hang
            context = multiprocessing.get_context("spawn")
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=_serve, args=(theirs, task, size), daemon=True)
            self.process.start()

    def begin(self, verb: str, argument: Any) -> None:
        """Start `Environments.<verb>(argument)`."""
        if self.here is not None:
            self.answer = getattr(self.here, verb)(argument)
        else:
            try:
                self.pipe.send((verb, argument))
            except OSError:
                raise self._died() from None

    def finish(self) -> Any:
        """Its result. Raises the error that it raised."""
        if self.here is not None:
            return self.answer
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _died(self) -> UserError:
        self.process.join(timeout=5)
        return UserError(
            f"an evaluation process died (exit code {self.process.exitcode}), perhaps for lack of memory; "
            "fewer --eval-workers or a smaller evaluation.parallel need less"
        )

    def close(self) -> None:
        """Close the environments, and the process that holds them."""
        if self.here is not None:
            self.here.close()
        else:
            self.pipe.close()
            self.process.join(timeout=10)


def _serve(pipe: Connection, task: tasks.Task, size: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the trainer decides what ends
    environments = Environments(task, size)
    while True:
        try:
            verb, argument = pipe.recv()
        except EOFError:
            return environments.close()
        try:
            pipe.send(getattr(environments, verb)(argument))
        except Exception as error:
            pipe.send(error)


class Evaluator:
    """Plays a protocol's episodes; keeps its environments between evaluations. Close it, or use it in a `with`."""

    def __init__(self, task: tasks.Task, protocol: EvalConfig, seed: int, workers: int = 0):
        """`workers` processes share the environments; 0 keeps them here. The results are the same for any number."""
        self.task, self.protocol, self.seed = task, protocol, seed
        self.size = min(protocol.parallel, protocol.episodes * len(task.eval_tasks))
        shares = np.array_split(np.arange(self.size), max(workers, 1))
        self.slots = [share.tolist() for share in shares if len(share)]
        self.workers = workers
        self.groups: list[Group] = []

    def __enter__(self) -> "Evaluator":
        return self

    def __exit__(self, *error: object) -> None:
        for group in self.groups:
            group.close()
        self.groups = []

    def __call__(
        self, agent: Agent, step: int, *, films: int = 0, beat: Callable[[], None] = lambda: None
    ) -> tuple[list[dict[str, Any]], dict[tuple[int, int], list[dict[str, np.ndarray]]]]:
        """Play all episodes. `beat` is called between actions, and may raise to stop.

        Returns, for each evaluation task, its number, episodes, mean success (or normalised score), return and
        length; and the states of the first `films` episodes of each task by (task, episode).
        """
        if not self.groups:
            self.groups = [Group(self.task, len(slots), self.workers > 0) for slots in self.slots]
        episodes = [(task, i) for task in self.task.eval_tasks for i in range(self.protocol.episodes)]
        totals, filmed = {}, {}
        for wave, first in enumerate(range(0, len(episodes), self.size)):
            chosen = episodes[first : first + self.size]
            starts = {
                slot: Start(task, _word(self.seed, EPISODES, step, task, i), i < films)
                for slot, (task, i) in enumerate(chosen)
            }
            for slot, total in self._wave(agent, starts, step, wave, beat).items():
                totals[chosen[slot]] = total
            for slot, start in starts.items():
                if start.film:
                    filmed[chosen[slot]] = self._film(slot)
        return [
            self._summary(task, [totals[t, i] for t, i in episodes if t == task]) for task in self.task.eval_tasks
        ], filmed

    def _wave(self, agent: Agent, starts: dict[int, Start], step: int, wave: int, beat) -> dict[int, Seen]:
        """Play one episode in each slot, in lockstep; returns the totals of each."""
        seen = self._all("reset", starts)
        first = seen[0]
        # always the full number of rows, so that the agent compiles once; rows without an episode are ignored
        obs = np.zeros((self.size, len(first.obs)), np.float32)
        goal = None if first.goal is None else np.zeros((self.size, len(first.goal)), np.float32)
        totals, going, turn = seen, set(starts), 0
        while going:
            for slot, now in seen.items():
                obs[slot] = now.obs
                if goal is not None:
                    goal[slot] = now.goal
            actions = agent.act(obs, goal, seed=_word(self.seed, ACTIONS, step, wave, turn))  # [N, K, A]
            seen = self._all("play", {slot: actions[slot] for slot in going})
            for slot, now in seen.items():
                old = totals[slot]
                totals[slot] = now._replace(
                    reward=old.reward + now.reward,
                    length=old.length + now.length,
                    success=old.success or now.success,
                )
                if now.done:
                    going.remove(slot)
            turn += 1
            beat()
        return totals

    def _all(self, verb: str, arguments: dict[int, Any]) -> dict[int, Seen]:
        """One verb in all slots that have an argument, the groups side by side."""
        busy = []
        for group, slots in zip(self.groups, self.slots, strict=True):
            mine = {slot - slots[0]: arguments[slot] for slot in slots if slot in arguments}
            if mine:
                group.begin(verb, mine)
                busy.append((group, slots[0]))
        return {offset + slot: now for group, offset in busy for slot, now in group.finish().items()}

    def _film(self, slot: int) -> list[dict[str, np.ndarray]]:
        group, slots = next((g, s) for g, s in zip(self.groups, self.slots, strict=True) if slot in s)
        group.begin("film", slot - slots[0])
        return group.finish()

    def _summary(self, task: int, totals: list[Seen]) -> dict[str, Any]:
        return {
            "task": task,
            "episodes": len(totals),
            # normalised scores take the place of success where the task has them: the store has one number for both
            "success": float(np.mean([self.task.score(total.success, total.reward) for total in totals])),
            "return": float(np.mean([total.reward for total in totals])),
            "length": float(np.mean([total.length for total in totals])),
        }


def overall(results: Sequence[dict[str, Any]]) -> float:
    """Success (or normalised score) averaged over evaluation tasks: the number that papers report."""
    return float(np.mean([result["success"] for result in results]))


def _word(*parts: int) -> int:
    """A 32-bit seed from its parts."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
