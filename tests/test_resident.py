"""Drawing from some blocks at a time: a function of (seed, step), each block as often as any other, never waiting."""

import io
import itertools
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from runs import small_run

from mac_bench import resident
from mac_bench.config import GoalMix, Residency, RunConfig, parse
from mac_bench.data import Dataset
from mac_bench.resident import Blocks, Reader
from mac_bench.types import GoalSampling, Sampling

LENGTH, EPISODES = 11, 24
"""rows of an episode"""
RESIDENCY = Residency(blocks=2, rows=33, every=5)
"""blocks of three episodes: eight of them"""
MIX = GoalMix(current=0.2, future=0.4, random=0.4)
SAMPLING = Sampling(200, 3, GoalSampling(MIX, MIX, 0.9))


def numbered(residency: Residency | None = RESIDENCY, lengths=(LENGTH,) * EPISODES) -> Dataset:
    """Every row knows its episode and its place in it."""
    episode = np.repeat(np.arange(len(lengths)), lengths)
    place = np.concatenate([np.arange(length) for length in lengths])
    rows = np.stack([episode, place], axis=1).astype(np.float32)
    return Dataset(rows, rows / 100, np.cumsum(lengths) - 1, goals=rows, resident=residency)


def same(one, two) -> bool:
    return all(
        same(a, b) if isinstance(a, tuple) else a is b or np.array_equal(a, b) for a, b in zip(one, two, strict=True)
    )


def test_blocks_are_whole_episodes_and_cover_all():
    lengths = [5, 40, 3, 3, 70, 8, 9]
    blocks = Blocks(np.cumsum(lengths) - 1, Residency(blocks=1, rows=20))
    assert blocks.rows.tolist() == [[0, 45], [45, 121], [121, 138]]
    assert blocks.episodes.tolist() == [[0, 2], [2, 5], [5, 7]]


def test_each_turn_replaces_the_oldest_block_and_each_block_gets_the_same_number_of_turns():
    blocks = Blocks(numbered().ends, RESIDENCY)
    number = len(blocks.rows)
    assert number == 8 and [blocks.turn(step) for step in (0, 4, 5, 9, 10)] == [0, 0, 1, 1, 2]
    for seed in (0, 1):
        turns = [blocks.at(seed, turn).tolist() for turn in range(3 * number)]
        for before, after in itertools.pairwise(turns):
            assert after[:-1] == before[1:] and len(set(after)) == 2
        assert (np.bincount(np.concatenate(turns), minlength=number) == 3 * 2).all()
    assert [blocks.at(0, t).tolist() for t in range(8)] != [blocks.at(1, t).tolist() for t in range(8)]


def test_pieces_and_goals_come_from_the_blocks_of_the_step_and_stay_in_their_episodes():
    data = numbered()
    blocks = Blocks(data.ends, RESIDENCY)
    for step in range(0, 60, 3):
        there = blocks.at(4, blocks.turn(step))
        batch = data.sample(SAMPLING, 4, step)
        assert set(batch.obs[:, 0] // 3) == set(there), "both blocks are in each batch"
        for goals in (batch.goals.value, batch.goals.actor):
            assert set(goals[:, 0] // 3) <= set(there)
        np.testing.assert_array_equal(batch.next_obs - batch.obs, np.tile([0, 3], (200, 1)))
        ahead = np.isfinite(batch.goals.distance)
        np.testing.assert_array_equal(batch.goals.value[ahead, 0], batch.obs[ahead, 0])
        assert 0.4 < ahead.mean() < 0.9


def test_batches_are_functions_of_seed_and_step_whatever_came_before():
    one, again = numbered(), numbered()
    batches = [one.sample(SAMPLING, 3, step) for step in range(30)]
    for step in reversed(range(30)):
        assert same(again.sample(SAMPLING, 3, step), batches[step])
    assert not same(one.sample(SAMPLING, 2, 7), batches[7])
    assert not same(numbered(None).sample(SAMPLING, 3, 7), batches[7])


def chi_square(counts: np.ndarray) -> float:
    """In deviations from its mean, for counts that should be equal."""
    expected = counts.sum() / len(counts)
    return (((counts - expected) ** 2 / expected).sum() - (len(counts) - 1)) / np.sqrt(2 * (len(counts) - 1))


@pytest.mark.parametrize("residency", [None, RESIDENCY, Residency(blocks=99, rows=33, every=5)])
def test_every_piece_and_every_random_goal_is_drawn_equally_often(residency):
    """Over one cycle of the blocks; chi-square by hand, seed fixed."""
    anywhere = GoalMix(current=0, future=0, random=1)
    data, sampling = numbered(residency), Sampling(500, 3, GoalSampling(anywhere, anywhere, 0.9))
    batches = [data.sample(sampling, 0, step) for step in range(8 * 5)]
    starts = np.bincount(np.concatenate([batch.index for batch in batches]), minlength=EPISODES * LENGTH)
    possible = np.tile(np.arange(LENGTH) < LENGTH - 3, EPISODES)
    assert (starts[~possible] == 0).all() and abs(chi_square(starts[possible])) < 3
    goals = np.concatenate([batch.goals.value for batch in batches]).astype(int)
    assert abs(chi_square(np.bincount(goals[:, 0] * LENGTH + goals[:, 1], minlength=EPISODES * LENGTH))) < 3


def wait_until(true) -> None:
    end = time.monotonic() + 10
    while not true() and time.monotonic() < end:
        time.sleep(0.005)
    assert true()


def test_blocks_are_read_a_turn_ahead_and_once():
    blocks, read = Blocks(numbered().ends, RESIDENCY), []
    reader = Reader(blocks, lambda first, stop: read.append((first, stop)))
    for turn in range(6):
        reader.spans(0, turn * RESIDENCY.every)
        wanted = [*blocks.at(0, turn), *blocks.at(0, turn + 1)[-1:]]
        wait_until(lambda wanted=wanted: reader.held == wanted)
        assert len(read) == 3 + turn
    assert read[:3] == [tuple(blocks.rows[b]) for b in (*blocks.at(0, 0), blocks.at(0, 1)[-1])]
    reader.spans(0, 0)  # who is behind does not undo it
    assert reader.held == wanted and len(read) == 8


def test_sampling_never_waits_for_the_reader(monkeypatch):
    gate, asked = threading.Event(), threading.Event()

    def read(columns, first, stop):
        asked.set()
        gate.wait(30)

    monkeypatch.setattr("mac_bench.data.read_ahead", read)
    data, expected = numbered(), numbered(None)
    batches = [data.sample(SAMPLING, 0, step) for step in range(40)]  # eight turns, and not one block has been read
    assert asked.is_set() and not data._reader.held
    gate.set()
    assert all(same(expected.pieces(b.index, 3), b._replace(goals=None)) for b in batches)


def test_reading_ahead_reads_just_the_rows_of_mapped_columns(tmp_path, monkeypatch):
    """Counted by an `open` that remembers what is read through it."""
    numbered().save(tmp_path / "columns")
    data, seen = replace(Dataset.open(tmp_path / "columns"), resident=RESIDENCY), []

    class Remembering(io.FileIO):
        def __init__(self, path, mode, buffering):
            super().__init__(path, mode)

        def readinto(self, buffer):
            got = super().readinto(buffer)
            seen.append(bytes(buffer[:got]))
            return got

    monkeypatch.setattr(resident, "open", Remembering, raising=False)
    monkeypatch.setattr(resident, "BUFFER_BYTES", 100)
    resident.read_ahead([data.observations, np.zeros((264, 2))], 33, 66)
    assert b"".join(seen) == data.observations[33:66].tobytes() and len(seen) == 3
    seen.clear()
    batch = data.sample(SAMPLING, 0, 0)
    wait_until(lambda: len(data._reader.held) == 3)
    assert sum(map(len, seen)) == 3 * 33 * 3 * 2 * 4  # three blocks of three columns of two floats
    assert same(batch, numbered().sample(SAMPLING, 0, 0))


def test_without_residency_all_is_one_block_that_is_read_once(monkeypatch):
    read, data = [], numbered(None)

    def recorded(columns, first, stop):
        if any(column is data.observations for column in columns):  # a thread of an earlier test may still read
            read.append((first, stop))

    monkeypatch.setattr("mac_bench.data.read_ahead", recorded)
    for step in (0, 1, 499, 500, 5000):
        data.sample(SAMPLING, 0, step)
        wait_until(lambda: data._reader.held == [0])
    assert read == [(0, EPISODES * LENGTH)]


def test_a_column_that_cannot_be_read_stops_no_run():
    def fail(first, stop):
        raise OSError("gone")

    reader = Reader(Blocks(numbered().ends, RESIDENCY), fail)
    reader.spans(0, 0)
    reader.spans(0, 5)


def test_residency_is_part_of_what_a_run_is_and_without_it_nothing_has_changed():
    run = small_run("random_actions")
    assert "resident" not in run.model_dump(mode="json") and "resident" not in run.model_dump_json()
    other = run.model_copy(update={"resident": Residency(blocks=4)})
    assert other.id != run.id and other.model_dump()["resident"] == {"blocks": 4, "rows": 1_000_000, "every": 500}
    assert parse(RunConfig, other.model_dump(mode="json"), "") == other
    assert parse(RunConfig, run.model_dump(mode="json"), "") == run
