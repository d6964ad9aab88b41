"""The ring of imagined steps, by hand numbers."""

import pytest
import torch
from scipy import stats

from mac_bench.ring import Ring, Transitions


def steps(first: int, last: int, goals: bool = False) -> Transitions:
    """Rows first ... last, each of which says its number in every column."""
    number = torch.arange(first, last + 1, dtype=torch.float32)
    goal = -number[:, None] if goals else None
    return Transitions(number[:, None].repeat(1, 2), number[:, None], number, number, number[:, None] + 0.5, goal, goal)


def ring(capacity: int, goals: bool = False) -> Ring:
    return Ring(capacity, steps(1, 1, goals))


def held(of: Ring) -> list[int]:
    """The numbers in their places; all columns of a place must agree."""
    assert (of.obs == of.reward[:, None]).all() and (of.action[:, 0] == of.reward).all()
    assert (of.alive == of.reward).all()
    return of.reward.int().tolist()


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_full_ring_overwrites_the_oldest():
    five, lengths = ring(5), []
    for first, expected in ((1, [1, 2, 3, 0, 0]), (4, [6, 2, 3, 4, 5]), (7, [6, 7, 8, 9, 5]), (10, [11, 12, 8, 9, 10])):
        five.add(steps(first, first + 2))
        assert held(five) == expected
        lengths.append(len(five))
    assert lengths == [3, 5, 5, 5]


def test_of_more_rows_than_it_holds_it_keeps_the_last():
    five = ring(5)
    five.add(steps(0, 11))
    assert held(five) == [10, 11, 7, 8, 9]
    five.add(steps(12, 12))
    assert held(five) == [10, 11, 12, 8, 9]


def test_rows_can_fill_it_exactly():
    five = ring(5)
    five.add(steps(1, 5))
    assert (held(five), len(five)) == ([1, 2, 3, 4, 5], 5)
    five.add(steps(6, 10))
    assert held(five) == [6, 7, 8, 9, 10]


def test_before_it_is_full_only_written_rows_are_drawn():
    large = ring(1000)
    large.add(steps(1, 10))
    assert set(large.draw(2000, random()).reward.int().tolist()) == set(range(1, 11))


def test_draws_are_uniform_over_what_was_written():
    five = ring(5)
    five.add(steps(1, 7))
    drawn = five.draw(50_000, random())
    counts = torch.bincount(drawn.reward.long(), minlength=8)
    assert counts[:3].sum() == 0
    assert stats.chisquare(counts[3:].numpy()).pvalue > 1e-3
    # with replacement and in any order: what follows what is uniform too
    pairs = torch.bincount((drawn.reward[:-1] * 8 + drawn.reward[1:]).long(), minlength=64).reshape(8, 8)[3:, 3:]
    assert stats.chisquare(pairs.flatten().numpy()).pvalue > 1e-3


def test_a_draw_is_a_function_of_the_stream_and_keeps_rows_together():
    eight = ring(8, goals=True)
    eight.add(steps(1, 8, goals=True))
    one, same, other = (eight.draw(20, random(seed)) for seed in (0, 0, 1))
    assert (one.reward == same.reward).all() and (one.reward != other.reward).any()
    assert (one.obs[:, 0] == one.reward).all() and (one.next_obs[:, 0] == one.reward + 0.5).all()
    assert one.value_goal is not None and (one.value_goal[:, 0] == -one.reward).all()
    assert one.actor_goal is not None and (one.actor_goal[:, 0] == -one.reward).all()


def test_an_empty_ring_refuses_to_draw():
    with pytest.raises(ValueError, match="nothing has been written"):
        ring(5).draw(1, random())


def test_its_state_is_all_that_it_is():
    before, after = ring(5), ring(5)
    before.add(steps(1, 7))
    after.load_state_dict(before.state_dict())
    for each in (before, after):
        each.add(steps(8, 9))
    assert held(before) == held(after) == [6, 7, 8, 9, 5]


def test_steps_are_joined_in_order_with_or_without_goals():
    for goals in (False, True):
        joined = Transitions.join([steps(1, 2, goals), steps(7, 9, goals)])
        assert joined.reward.tolist() == [1, 2, 7, 8, 9]
        assert (joined.value_goal is not None) == goals
        assert joined.rows(slice(1, 3)).next_obs.tolist() == [[2.5], [7.5]]
