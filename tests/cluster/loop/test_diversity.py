"""Diversity of programs, and the most frequent programs and rewards."""

from dataclasses import replace

import pytest

from cluster.loop.diversity import canonical, diversity
from cluster.types import Group, Verdict
from tests.cluster.records import grade, group, problem


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("let f x = x + 1", "let g  y =\n  y + 1 (* adds one *)"),
        ("List.map (fun a -> a * 2) l", "List.map (fun b -> b * 2) xs"),
        (
            "let rec go acc = function [] -> acc | h :: t -> go (h :: acc) t",
            "let rec r s = function [] -> s | a :: b -> r (a :: s) b",
        ),
        ("let f x = x.x + y.x", "let f z = z . x + a.\n x"),
    ],
)
def test_programs_that_differ_in_names_and_layout_are_equal(one: str, other: str) -> None:
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("let f x y = x - y", "let f x y = y - x"),
        ("max a b", "min a b"),
        ("List.map f l", "List.iter f l"),
        ('"a"', '"b"'),
        ("String.length s", "Bytes.length s"),
        ("f ~left:a", "f ~right:a"),
        ("x + 1", "x + 2"),
    ],
)
def test_programs_that_behave_differently_are_not_equal(one: str, other: str) -> None:
    assert canonical(one) != canonical(other)


def group_of(
    texts: list[str], rewards: list[float | None], *, verdict: Verdict = Verdict.WRONG, problem_id: str = "p"
) -> Group:
    base = group([0.0] * len(texts))
    return replace(
        base,
        problem=problem(problem_id),
        completions=tuple(replace(one, text=text) for one, text in zip(base.completions, texts, strict=True)),
        grades=tuple(None if reward is None else grade(reward, verdict) for reward in rewards),
    )


def test_distinct_completions_are_counted_within_groups() -> None:
    shares = diversity([group_of(["x + 1", "x + 1", "y + 1", "y + 2"], [0.0] * 4), group_of(["a", "b + a"], [0.0] * 2)])
    assert shares["distinct_share"] == pytest.approx((3 / 4 + 1) / 2)
    assert shares["distinct_share_renamed"] == pytest.approx((2 / 4 + 1) / 2)


def test_top_program_share_counts_only_programs_for_several_problems() -> None:
    within = diversity([group_of(["[]"] * 4, [0.1] * 4), group_of(["a + 1"] * 4, [0.1] * 4, problem_id="q")])
    assert within["top_program_share"] == 0
    across = diversity([group_of(["[]"] * 4, [0.1] * 4), group_of(["[]"] * 3 + ["a + 1"], [0.1] * 4, problem_id="q")])
    assert across["top_program_share"] == 7 / 8


def test_top_shares_exclude_completions_that_pass() -> None:
    solved = [group_of(["x"] * 4, [1.0] * 4, verdict=Verdict.PASSED, problem_id=name) for name in "pq"]
    assert diversity(solved)["top_program_share"] == diversity(solved)["top_reward_share"] == 0


def test_top_reward_share_is_relative_to_all_graded_completions() -> None:
    mixed = [group_of(["a", "b", "c", "d"], [0.05, 0.05, 0.3, None])]
    assert diversity(mixed)["top_reward_share"] == pytest.approx(2 / 3)
