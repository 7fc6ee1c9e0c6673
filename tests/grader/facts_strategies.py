"""Facts of every kind that a grader can report, for hypothesis."""

from hypothesis import strategies as st

from cluster.types import AssertOutcome, CodeError, Facts, Verdict

LOW_QUALITY_FLAGS = ("repetitive", "mostly_prose", "fence_spam", "stub")
RAN = (Verdict.PASSED, Verdict.TIMEOUT, Verdict.RAISED, Verdict.WRONG)


@st.composite
def all_facts(draw: st.DrawFn) -> Facts:
    verdict = draw(st.sampled_from(list(Verdict)))
    compiled = verdict in RAN
    num_asserts = draw(st.integers(0, 9))
    outcomes = st.sampled_from(list(AssertOutcome)) if compiled else st.just(AssertOutcome.NOT_RUN)
    asserts = draw(st.lists(outcomes, min_size=num_asserts, max_size=num_asserts))
    return Facts(
        verdict=verdict,
        asserts=(AssertOutcome.PASSED,) * num_asserts if verdict is Verdict.PASSED else tuple(asserts),
        covered_by_example=tuple(draw(st.lists(st.booleans(), min_size=num_asserts, max_size=num_asserts))),
        type_errors=draw(st.integers(1, 12)) if verdict is Verdict.TYPE_ERROR else 0,
        errors=(CodeError(line=2, message="Unbound value y"),) if verdict is Verdict.TYPE_ERROR else (),
        syntax_error=verdict is Verdict.SYNTAX_ERROR,
        compiled=compiled,
        type_checked=compiled or verdict is Verdict.INTERFACE,
        has_end_marker=draw(st.booleans()),
        hit_length_limit=draw(st.booleans()),
        num_code_lines=draw(st.integers(0, 12)),
        quality_flags=tuple(draw(st.lists(st.sampled_from(LOW_QUALITY_FLAGS), max_size=2, unique=True))),
        num_code_blocks=draw(st.integers(0, 8)),
        has_trailing_prose=draw(st.booleans()),
        num_thought_tokens=draw(st.integers(0, 3000)),
        diagnostics="a message",
        seconds={"compile": 0.01},
    )
