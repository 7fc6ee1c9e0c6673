"""All ways, or the first one that fits."""

from collections.abc import Iterator
from itertools import combinations, permutations, product
from typing import Any

from cluster.problems.builtin.domains import Domain, ints, list_of, text
from cluster.problems.builtin.draft import Draft


def backtracking() -> Iterator[Draft]:
    """All ways, or the first one that fits."""
    small = list_of(ints(0, 5), longest=3)
    for k in (2, 3):
        yield _choices(k)
    yield Draft(
        "subsets",
        "All sublists of a list: those with its first item before those without it, and so on.",
        {"xs": small},
        "int list list",
        """
        match xs with
        | [] -> [[]]
        | x :: rest ->
          let others = subsets rest in
          List.map (fun s -> x :: s) others @ others
        """,
        lambda xs: [
            [x for x, kept in zip(xs, mask, strict=True) if kept] for mask in product((True, False), repeat=len(xs))
        ],
        "medium",
        rec=True,
    )
    yield Draft(
        "permutations",
        "All orders of a list of different numbers, in the order of the positions of their items in it.",
        {"xs": Domain(type="int list", draw=lambda rng: rng.sample(range(9), rng.randint(1, 3)), edges=([],))},
        "int list list",
        """
        match xs with
        | [] -> [[]]
        | _ ->
          let starting_with x = List.map (fun p -> x :: p) (permutations (List.filter (( <> ) x) xs)) in
          List.concat_map starting_with xs
        """,
        lambda xs: [list(order) for order in permutations(xs)],
        "hard",
        rec=True,
    )
    yield Draft(
        "pairs_of",
        "All pairs of an item of one list and an item of another, in order.",
        {"a": small, "b": small},
        "(int * int) list",
        "List.concat_map (fun x -> List.map (fun y -> (x, y)) b) a",
        lambda a, b: list(product(a, b)),
        "medium",
    )
    yield Draft(
        "queens",
        "In how many ways n queens stand on a board of n by n so that none attacks another.",
        {"n": ints(1, 6)},
        "int",
        """
        let safe column placed =
          List.for_all Fun.id
            (List.mapi (fun i c -> c <> column && abs (c - column) <> i + 1) placed)
        in
        let rec place row placed =
          if row = n then 1
          else
            List.fold_left
              (fun sum column -> if safe column placed then sum + place (row + 1) (column :: placed) else sum)
              0 (List.init n Fun.id)
        in
        place 0 []
        """,
        _queens,
        "hard",
        cases=[(4,), (5,), (1,), (2,), (3,), (6,), (7,), (8,)],
    )
    yield Draft(
        "bracketings",
        "All well-formed strings of n pairs of brackets, sorted with '(' before ')'.",
        {"n": ints(0, 4)},
        "string list",
        """
        let rec go text opened closed =
          if closed = n then [text]
          else
            (if opened < n then go (text ^ "(") (opened + 1) closed else [])
            @ if closed < opened then go (text ^ ")") opened (closed + 1) else []
        in
        go "" 0 0
        """,
        _bracketings,
        "hard",
        cases=[(1,), (2,), (3,), (0,), (4,), (5,), (6,), (7,)],
    )
    yield Draft(
        "sum_choices",
        "All sublists of an ascending list of different positive numbers that have a given sum, those with smaller "
        "numbers first.",
        {
            "target": ints(3, 12),
            "xs": Domain(type="int list", draw=lambda rng: sorted(rng.sample(range(1, 9), rng.randint(2, 5)))),
        },
        "int list list",
        """
        match xs with
        | _ when target = 0 -> [[]]
        | x :: rest when x <= target ->
          List.map (fun s -> x :: s) (sum_choices (target - x) rest) @ sum_choices target rest
        | _ -> []
        """,
        lambda target, xs: sorted(list(s) for s in sublists(xs) if sum(s) == target),
        "hard",
        rec=True,
    )
    yield Draft(
        "signs",
        "In how many ways + or - can be put before each number of a list so that the sum is the target.",
        {"target": ints(0, 4), "xs": list_of(ints(1, 4), longest=5)},
        "int",
        """
        match xs with
        | [] -> if target = 0 then 1 else 0
        | x :: rest -> signs (target - x) rest + signs (target + x) rest
        """,
        lambda target, xs: sum(
            sum(s * x for s, x in zip(signs, xs, strict=True)) == target for signs in product((1, -1), repeat=len(xs))
        ),
        "hard",
        rec=True,
        cases=[(1, [1]), (3, [1, 1, 1, 1, 1]), (0, [2, 2]), (0, []), (2, [1, 1])],
    )
    yield Draft(
        "digit_words",
        'All strings with one letter of each of the groups, in order: for ["ab"; "c"] these are "ac" and "bc".',
        {"groups": list_of(text("abcd", 2).beginning(), longest=3)},
        "string list",
        """
        match groups with
        | [] -> [""]
        | group :: rest ->
          let letters = List.init (String.length group) (fun i -> String.make 1 group.[i]) in
          let ends = digit_words rest in
          List.concat_map (fun letter -> List.map (fun tail -> letter ^ tail) ends) letters
        """,
        lambda groups: list(map("".join, product(*groups))),
        "hard",
        rec=True,
    )
    yield Draft(
        "hanoi",
        "The moves (from, to) that bring n discs from peg a to peg b, one at a time, never a larger one onto a smaller one; "
        "the pegs are 1, 2 and 3.",
        {"n": ints(0, 3), "a": ints(1, 1), "b": ints(2, 3)},
        "(int * int) list",
        """
        if n = 0 then []
        else
          let c = 6 - a - b in
          hanoi (n - 1) a c @ [(a, b)] @ hanoi (n - 1) c b
        """,
        _hanoi,
        "hard",
        rec=True,
        cases=[(1, 1, 3), (2, 1, 3), (2, 2, 3), (3, 3, 1), (1, 2, 1)],
    )


def _choices(k: int) -> Draft:
    about = f"All strings of n letters, each one of the first {k} of the alphabet, in alphabetical order."
    letters = "; ".join(f'"{letter}"' for letter in "abcd"[:k])
    body = f"""
    if n = 0 then [""]
    else
      let shorter = strings_of (n - 1) in
      List.concat_map (fun letter -> List.map (fun s -> letter ^ s) shorter) [{letters}]
    """
    return Draft(
        "strings_of",
        about,
        {"n": ints(0, 5)},
        "string list",
        body,
        lambda n: ["".join(letters) for letters in product("abcd"[:k], repeat=n)],
        "medium",
        rec=True,
    )


def _queens(n: int) -> int:
    boards = permutations(range(n))
    return sum(len({b[i] + i for i in range(n)}) == n == len({b[i] - i for i in range(n)}) for b in boards)


def _bracketings(n: int) -> list[str]:
    def formed(s: str) -> bool:
        while "()" in s:
            s = s.replace("()", "")
        return not s

    return [s for s in map("".join, product("()", repeat=2 * n)) if formed(s)]


def _hanoi(n: int, a: int, b: int) -> list[tuple[int, int]]:
    if n == 0:
        return []
    c = 6 - a - b
    return [*_hanoi(n - 1, a, c), (a, b), *_hanoi(n - 1, c, b)]


def sublists(items: list[Any]) -> list[tuple[Any, ...]]:
    """All choices of items of a list, in its order, smaller ones first."""
    return [chosen for size in range(len(items) + 1) for chosen in combinations(items, size)]
