from cluster.types import AssertOutcome, Verdict
from grader.assert_outcomes import outcome_of_events

P, F, R, T, N = (
    AssertOutcome.PASSED,
    AssertOutcome.FAILED,
    AssertOutcome.RAISED,
    AssertOutcome.TIMED_OUT,
    AssertOutcome.NOT_RUN,
)


def test_asserts_pass_unless_they_failed_if_the_run_ends_normally() -> None:
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
    counted = outcome_of_events([1, 2, 3], events)
    assert counted.asserts == (P, F, R)
    assert counted.asserts.count(P) == 1
    assert counted.verdict is Verdict.RAISED
    assert counted.messages == ("assert 2: false", "assert 3: raised Not_found")


def test_a_step_that_died_fails_its_own_assert() -> None:
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
    counted = outcome_of_events([2, 3, 4], events)
    assert counted.asserts == (P, T, P)
    assert counted.verdict is Verdict.TIMEOUT


def test_no_assert_passes_before_the_tests_begin() -> None:
    assert outcome_of_events([1, 2], ["init Exit"]).asserts == (N, N)
    assert outcome_of_events([1, 2], ["init Exit"]).verdict is Verdict.RAISED
    assert outcome_of_events([1, 2], ["died 0 time"]).verdict is Verdict.TIMEOUT
    assert outcome_of_events([1, 2], ["died 0 killed"]).verdict is Verdict.RAISED
    assert P not in outcome_of_events([1, 2], []).asserts


def test_an_assert_after_an_exception_between_asserts_has_not_run() -> None:
    events = ["start 1", "start 2", "held 1", "done 2", "raised 1 Not_found", "end"]
    counted = outcome_of_events([2, 3], events)
    assert counted.asserts == (P, N)
    assert counted.verdict is Verdict.RAISED
    assert "between the asserts: Not_found" in counted.messages


def test_an_assert_on_a_branch_not_taken_passes_only_if_the_others_did() -> None:
    assert outcome_of_events([1, 1], ["start 1", "held 1", "done 1", "end"]).asserts == (P, P)
    assert outcome_of_events([1, 1], ["start 1", "false 1", "done 1", "end"]).asserts == (F, N)


def test_an_assert_outside_steps_passes_only_if_the_run_ends_and_no_caller_fails() -> None:
    assert outcome_of_events([0], ["start 1", "held 1", "done 1", "end"]).asserts == (P,)
    assert outcome_of_events([0], ["start 1", "held 1", "done 1"]).asserts == (N,)
    assert outcome_of_events([0], ["start 1", "held 1", "raised 1 Exit", "end"]).asserts == (N,)
    assert outcome_of_events([0], ["start 1", "held 1", "died 1 time", "end"]).asserts == (N,)
    assert outcome_of_events([0], ["start 1", "held 1", "false 1", "done 1", "end"]).asserts == (F,)


def test_an_assert_outside_steps_is_unaffected_by_asserts_of_other_steps() -> None:
    def step(number: int, index: int, *rest: str) -> list[str]:
        return [f"start {number}", f"begin {index}", *(rest or (f"left {index}", f"held {index}", f"done {number}"))]

    looped = [*step(1, 1), *step(2, 2, "died 2 time"), *step(3, 3), "end"]
    assert outcome_of_events([0, 0, 0], looped).asserts == (P, T, P)
    in_one_step = ["start 1", "begin 1", "left 1", "held 1", "begin 2", "died 1 time", "end"]
    assert outcome_of_events([0, 0, 0], in_one_step).asserts == (N, T, N)
    of_one_function = ["start 1", "begin 1", "left 1", "held 1", "begin 2", "left 2", "held 2", "done 1"]
    assert outcome_of_events([0, 0], [*of_one_function, *step(2, 1, "died 2 time"), "end"]).asserts == (T, N)
    between = [*step(1, 1), "start 2", "died 2 time", "end"]
    assert outcome_of_events([0], between).asserts == (N,)
    busy = ["start 1", "busy 1", "left 1", "held 1", "done 1", "start 2", "died 2 time", "end"]
    assert outcome_of_events([0], busy).asserts == (T,)


def test_assert_false_counts_as_wrong_not_as_an_exception() -> None:
    assert outcome_of_events([1], ["start 1", "false 1", "raised 1 Assertion_failed", "end"]).verdict is Verdict.WRONG


def test_a_failure_outside_asserts_adds_one_failed_outcome() -> None:
    counted = outcome_of_events([1], ["start 1", "held 1", "done 1", "start 2", "raised 2 Failure bad", "end"])
    assert counted.asserts == (P, R)
    assert counted.verdict is Verdict.RAISED
    assert outcome_of_events([1], ["start 1", "held 1", "done 1", "init Exit"]).asserts == (P, R)
    assert outcome_of_events([1], ["start 1", "held 1", "done 1", "start 2", "died 2 time", "end"]).asserts == (P, T)


def test_tests_without_asserts_do_not_pass() -> None:
    assert outcome_of_events([], ["end"]).verdict is Verdict.WRONG
    assert outcome_of_events([], ["start 1", "raised 1 Exit", "end"]).verdict is Verdict.RAISED
