"""Ranges from a start to an end."""

from collections.abc import Iterator
from itertools import groupby, pairwise

from cluster.problems.builtin.domains import Domain, ints, tuple_of
from cluster.problems.builtin.draft import Draft

SPANS = Domain(
    type="(int * int) list",
    draw=lambda rng: [(start := rng.randint(0, 12), start + rng.randint(1, 5)) for _ in range(rng.randint(1, 4))],
    edges=([],),
)


def intervals() -> Iterator[Draft]:
    """Ranges from a start to an end."""
    for k in range(1, 5):
        yield _longer_spans(k)
    yield Draft(
        "merge_spans",
        "Intervals (start, end) united where they overlap or touch, by ascending start.",
        {"spans": SPANS},
        SPANS.type,
        """
        let step merged (a, b) =
          match merged with
          | (c, d) :: rest when a <= d -> (c, max b d) :: rest
          | _ -> (a, b) :: merged
        in
        List.rev (List.fold_left step [] (List.sort compare spans))
        """,
        _merge_spans,
        "hard",
    )
    yield Draft(
        "overlap",
        "The length that two intervals (start, end) have in common.",
        {"p": tuple_of(ints(0, 5), ints(6, 12)), "q": tuple_of(ints(3, 8), ints(9, 14))},
        "int",
        """
        let (a, b) = p and (c, d) = q in
        max 0 (min b d - max a c)
        """,
        lambda p, q: max(0, min(p[1], q[1]) - max(p[0], q[0])),
        "medium",
    )
    yield Draft(
        "most_at_once",
        "The largest number of intervals (start, end) that hold a common point; an end is not part of it.",
        {"spans": SPANS},
        "int",
        """
        let changes = List.concat_map (fun (a, b) -> [(a, 1); (b, -1)]) spans in
        let step (now, most) (_, change) = (now + change, max most (now + change)) in
        snd (List.fold_left step (0, 0) (List.sort compare changes))
        """,
        lambda spans: max((sum(a <= t < b for a, b in spans) for t in range(20)), default=0),
        "hard",
    )
    yield Draft(
        "most_meetings",
        "The largest number of intervals (start, end) that can be chosen so that no two overlap; they may touch.",
        {"spans": SPANS},
        "int",
        """
        let by_end = List.sort (fun (_, b) (_, d) -> compare b d) spans in
        let step (free, chosen) (a, b) = if a >= free then (b, chosen + 1) else (free, chosen) in
        snd (List.fold_left step (min_int, 0) by_end)
        """,
        _most_meetings,
        "hard",
    )


def _longer_spans(k: int) -> Draft:
    about = f"The intervals (start, end) of a list that are longer than {k}."
    body = f"List.filter (fun (a, b) -> b - a > {k}) spans"
    return Draft(
        "longer_spans", about, {"spans": SPANS}, SPANS.type, body, lambda spans: [(a, b) for a, b in spans if b - a > k]
    )


def _merge_spans(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    covered = sorted(
        {t for a, b in spans for t in range(2 * a, 2 * b + 1)}
    )  # half units, so that 3-4 and 5-6 stay apart
    runs = [[t for _, t in run] for _, run in groupby(enumerate(covered), key=lambda pair: pair[1] - pair[0])]
    return [(run[0] // 2, run[-1] // 2) for run in runs]


def _most_meetings(spans: list[tuple[int, int]]) -> int:
    best = 0
    for mask in range(1 << len(spans)):
        chosen = sorted(span for i, span in enumerate(spans) if mask >> i & 1)
        if all(first[1] <= second[0] for first, second in pairwise(chosen)):
            best = max(best, len(chosen))
    return best
