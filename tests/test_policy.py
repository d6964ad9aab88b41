"""What is next for a run, given how its attempts ended."""

import os
import time

import pytest
from slurm_fakes import folders, say

from mac_bench.record import Order
from slurm.policy import MOST_RAISES, PATIENCE, PATIENCE_ABROAD, Attempt, Decision, attempts, decide, forgiven, judge


def tries(*causes, starts=None, reason="it") -> list[Attempt]:
    """Attempts that ended so, each of which began later than the one before unless `starts` says otherwise."""
    starts = starts or [100 * number for number in range(len(causes))]
    return [Attempt(i + 1, starts[i], float(i), None, cause, reason) for i, cause in enumerate(causes)]


def test_what_has_not_begun_goes_on():
    assert decide([]) == Decision(True, "")


@pytest.mark.parametrize("cause", ["refused", "ordered"])
def test_what_the_user_must_put_right_or_wanted_is_not_tried_again(cause):
    assert decide(tries("killed", cause, reason="no data")) == Decision(False, "no data")


def test_a_final_word_is_final():
    assert not decide([Attempt(1, 0, 0.0, None, "killed", "given up", final=True)]).go_on


def test_the_same_error_twice_is_a_defect_and_two_errors_are_not():
    same = tries("error", "error", reason="nan")
    assert decide(same) == Decision(False, "the same error 2 times: nan")
    assert decide(same[:1]).go_on
    assert decide([same[0], same[1]._replace(reason="another")]).go_on
    between = [same[0], *tries("preempted", starts=[50]), same[1]._replace(number=3)]
    assert decide(between).go_on, "they must follow each other"


@pytest.mark.parametrize("cause", ["time limit", "preempted", "requeued", "node failed", "signalled", "killed"])
def test_what_gets_on_goes_on_for_ever(cause):
    assert decide(tries(*[cause] * 50)).go_on


@pytest.mark.parametrize(
    ("cause", "patience"),
    [
        *((cause, PATIENCE) for cause in ("time limit", "killed", None)),
        *((cause, PATIENCE_ABROAD) for cause in ("preempted", "requeued", "node failed", "job lost", "signalled")),
    ],
)
def test_what_does_not_get_on_is_given_up(cause, patience):
    assert decide(tries(*[cause] * (patience - 1), starts=[7] * patience)).go_on
    stuck = tries(*[cause] * patience, starts=[7] * patience)
    assert decide(stuck) == Decision(False, f"no progress in {patience} attempts: it")
    assert decide(stuck, progressed=True).go_on, "the last one saved something"
    assert decide([stuck[0]._replace(start=6), *stuck[1:]]).go_on, "one of them got on"


def test_an_attempt_that_could_not_begin_hides_no_standstill_and_makes_none():
    born = tries(*["killed"] * 3, starts=[0, 3, 3])
    assert decide(born).go_on, "the first one got to 3"
    ahead = tries(*["killed"] * 4, starts=[20, 22, 20, 22])
    assert not decide(ahead).go_on, "22 was reached and not saved: two attempts later that is no progress"


def test_a_time_limit_while_a_run_still_loads_says_little_of_it():
    late = [attempt._replace(began=False) for attempt in tries(*["time limit"] * PATIENCE, starts=[0] * PATIENCE)]
    assert decide(late).go_on
    assert not decide([late[0]._replace(number=i, start=0) for i in range(PATIENCE_ABROAD)]).go_on


def test_what_the_cluster_did_does_not_shorten_the_patience_with_a_run():
    mixed = tries("job lost", "killed", "killed", starts=[7] * 3)
    assert decide(mixed).go_on
    assert not decide([*mixed, mixed[-1]._replace(number=4)]).go_on, "three of its own"


def test_without_reason_the_cause_is_said():
    assert decide(tries(*["killed"] * 3, starts=[0] * 3, reason="")).reason == "no progress in 3 attempts: killed"
    assert decide(tries(None, None, None, starts=[0] * 3, reason="")).reason.endswith(": no last words")


@pytest.mark.parametrize(("cause", "memory", "sharing"), [("out of memory", 1.5, 1), ("out of GPU memory", 1, 0.5)])
def test_more_memory_or_less_company_until_there_is_no_more(cause, memory, sharing):
    for count in range(1, MOST_RAISES + 1):
        decision = decide(tries(*[cause] * count, starts=[0] * count))
        assert (decision.go_on, decision.memory, decision.sharing) == (True, memory**count, sharing**count)
    given_up = decide(tries(*[cause] * (MOST_RAISES + 1)))
    assert given_up == Decision(False, f"{cause} with all that may be asked for: it")


def test_what_was_learned_is_kept_through_other_ends():
    decision = decide(tries("out of memory", "preempted", "out of GPU memory", "time limit"))
    assert (decision.memory, decision.sharing, decision.reason) == (1.5, 0.5, "time limit")


def test_patience_grows_with_every_raise():
    assert decide(tries("out of memory", "killed", "killed", starts=[0] * 3)).go_on
    assert not decide(tries("out of memory", *["killed"] * 3, starts=[0] * 4)).go_on


def test_a_node_that_failed_is_avoided_the_next_time_and_no_longer():
    failed = tries("killed", "node failed")
    failed[1] = failed[1]._replace(node="n3")
    assert decide(failed).avoid == "n3"
    assert decide([*failed, failed[1]._replace(number=3, start=500, cause="killed")]).avoid is None


def event(kind, attempt, step=0, at=1.0, **more):
    return {"kind": kind, "attempt": attempt, "step": step, "time": at, **more}


def test_attempts_are_read_from_the_log():
    end = {"state": "stopped", "reason": "r"}
    log = [
        event("attempt", 1, 0, node="7"),
        event("metrics", 1, 10),
        event("end", 1, 10, cause="killed", **end),
        event("end", 1, 10, cause="node failed", **end | {"reason": "later"}),  # who saw it end knows better
        event("attempt", 2, 10, 5.0, node="8"),
        event("end", 3, 10, 6.0, cause="time limit", **end),  # it never began
        event("attempt", 4, 20),
    ]
    assert attempts(log) == [
        Attempt(1, 0, 1.0, "7", "node failed", "later"),
        Attempt(2, 10, 5.0, "8"),
        Attempt(3, 10, 6.0, None, "time limit", "r", began=False),
        Attempt(4, 20, 1.0),
    ]
    assert attempts([event("attempt", 1), event("end", 1, state="finished", reason=None)]) == [Attempt(1, 0, 1.0)]
    assert attempts([event("end", 1, state="failed", reason=None, final=True)])[0].final


def test_all_is_forgiven_before_the_word_go():
    log = [event("attempt", 1, at=1.0), event("attempt", 2, at=3.0)]
    assert forgiven(log, None) == log == forgiven(log, Order(wish="hold", time=2.0, reason=""))
    assert forgiven(log, Order(wish="go", time=2.0, reason="")) == log[1:]


def test_a_folder_is_judged_by_its_log_its_orders_and_its_checkpoint(root):
    (folder,) = folders(root, 1)
    assert judge(folder).go_on
    for attempt in (1, 2, 3):
        say(folder, "stopped", attempt=attempt, cause="killed", reason="killed")
    assert judge(folder) == Decision(False, "no progress in 3 attempts: killed")
    saved = folder.path / "checkpoint.npz"
    saved.write_bytes(b"")
    os.utime(saved, (time.time() + 5,) * 2)
    assert judge(folder).go_on, "the last attempt has saved"
    os.utime(saved, (1, 1))
    assert not judge(folder).go_on
    folder.give_order("go", "again")
    assert judge(folder).go_on
