from cluster.types import AssertOutcome, Verdict
from grader.assert_outcomes import tally

P, F, R, T, N = (
    AssertOutcome.PASSED,
    AssertOutcome.FAILED,
    AssertOutcome.RAISED,
    AssertOutcome.TIMED_OUT,
    AssertOutcome.NOT_RUN,
)


def test_every_assert_of_a_run_to_the_end_passes_unless_it_failed() -> None:
    events = [
        "start 1",
        "held 1",
        "done 1",
        "start 2",
        "false 2",
        "done 2",
        "start 3",
        "error 3 Not_found",
        "done 3",
        "end",
    ]
    counted = tally([1, 2, 3], events)
    assert counted.outcomes == (P, F, R)
    assert counted.outcomes.count(P) == 1
    assert counted.verdict is Verdict.RAISED
    assert counted.messages == ("assert 2: false", "assert 3: raised Not_found")


def test_a_step_that_died_costs_its_own_assert() -> None:
    events = [
        "start 1",
        "start 2",
        "held 1",
        "done 2",
        "start 3",
        "died 3 time",
        "start 1",
        "start 4",
        "done 4",
        "done 1",
        "end",
    ]
    counted = tally([2, 3, 4], events)
    assert counted.outcomes == (P, T, P)
    assert counted.verdict is Verdict.TIMEOUT


def test_nothing_is_earned_before_the_tests_begin() -> None:
    assert tally([1, 2], ["init Exit"]).outcomes == (N, N)
    assert tally([1, 2], ["init Exit"]).verdict is Verdict.RAISED
    assert tally([1, 2], ["died 0 time"]).verdict is Verdict.TIMEOUT
    assert tally([1, 2], ["died 0 killed"]).verdict is Verdict.RAISED
    assert P not in tally([1, 2], []).outcomes


def test_an_assert_after_an_exception_between_asserts_has_not_run() -> None:
    events = ["start 1", "start 2", "held 1", "done 2", "raised 1 Not_found", "end"]
    counted = tally([2, 3], events)
    assert counted.outcomes == (P, N)
    assert counted.verdict is Verdict.RAISED
    assert "between the asserts: Not_found" in counted.messages


def test_an_assert_on_a_branch_not_taken_passes_only_if_the_others_did() -> None:
    assert tally([1, 1], ["start 1", "held 1", "done 1", "end"]).outcomes == (P, P)
    assert tally([1, 1], ["start 1", "false 1", "done 1", "end"]).outcomes == (F, N)


def test_an_assert_that_no_step_holds_needs_the_end_and_quiet_callers() -> None:
    assert tally([0], ["start 1", "held 1", "done 1", "end"]).outcomes == (P,)
    assert tally([0], ["start 1", "held 1", "done 1"]).outcomes == (N,)
    assert tally([0], ["start 1", "held 1", "raised 1 Exit", "end"]).outcomes == (N,)
    assert tally([0], ["start 1", "held 1", "died 1 time", "end"]).outcomes == (N,)
    assert tally([0], ["start 1", "held 1", "false 1", "done 1", "end"]).outcomes == (F,)


def test_an_assert_that_no_step_holds_loses_only_itself_where_others_share_no_step_with_it() -> None:
    def step(number: int, index: int, *rest: str) -> list[str]:
        return [f"start {number}", f"begin {index}", *(rest or (f"left {index}", f"held {index}", f"done {number}"))]

    looped = [*step(1, 1), *step(2, 2, "died 2 time"), *step(3, 3), "end"]
    assert tally([0, 0, 0], looped).outcomes == (P, T, P)
    in_one_step = ["start 1", "begin 1", "left 1", "held 1", "begin 2", "died 1 time", "end"]
    assert tally([0, 0, 0], in_one_step).outcomes == (N, T, N)
    of_one_function = ["start 1", "begin 1", "left 1", "held 1", "begin 2", "left 2", "held 2", "done 1"]
    assert tally([0, 0], [*of_one_function, *step(2, 1, "died 2 time"), "end"]).outcomes == (T, N)
    between = [*step(1, 1), "start 2", "died 2 time", "end"]
    assert tally([0], between).outcomes == (N,)
    busy = ["start 1", "busy 1", "left 1", "held 1", "done 1", "start 2", "died 2 time", "end"]
    assert tally([0], busy).outcomes == (T,)


def test_assert_false_is_a_wrong_answer_and_no_exception() -> None:
    assert tally([1], ["start 1", "false 1", "raised 1 Assertion_failed", "end"]).verdict is Verdict.WRONG


def test_a_failure_without_an_assert_is_one_failed_test_more() -> None:
    counted = tally([1], ["start 1", "held 1", "done 1", "start 2", "raised 2 Failure bad", "end"])
    assert counted.outcomes == (P, R)
    assert counted.verdict is Verdict.RAISED
    assert tally([1], ["start 1", "held 1", "done 1", "init Exit"]).outcomes == (P, R)
    assert tally([1], ["start 1", "held 1", "done 1", "start 2", "died 2 time", "end"]).outcomes == (P, T)


def test_no_assert_is_no_pass() -> None:
    assert tally([], ["end"]).verdict is Verdict.WRONG
    assert tally([], ["start 1", "raised 1 Exit", "end"]).verdict is Verdict.RAISED
