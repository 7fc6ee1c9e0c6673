"""Functions made from functions; a list of steps stands for each, so that results can be compared."""

from collections.abc import Iterator

from cluster.problems.builtin.domains import Domain, ints, list_of, text
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.values import Con, con


def higher_order() -> Iterator[Draft]:
    """Functions made from functions; a list of steps stands for each, so that results can be compared."""
    step_list = Domain(
        type="step list",
        draw=lambda rng: [con(rng.choice(("Plus", "Times")), rng.randint(1, 4)) for _ in range(rng.randint(1, 4))],
        edges=([],),
    )
    types = "type step = Plus of int | Times of int"
    for k in range(2, 8):
        yield _iterate(k)
        yield _compose(k)
    for k in range(1, 6):
        yield _scan(k)
    yield Draft(
        "pipeline",
        "The function that runs all steps of a list, applied to a number.",
        {"steps": step_list, "n": ints(0, 5)},
        "int",
        """
        let meaning = function Plus k -> fun x -> x + k | Times k -> fun x -> x * k in
        let all = List.fold_left (fun f step x -> meaning step (f x)) Fun.id steps in
        all n
        """,
        _run_steps,
        "hard",
        types=types,
    )
    yield Draft(
        "group_by_length",
        "The words of a list in groups of equal length, shorter ones first, each group in the old order.",
        {"words": list_of(text("abc", 3).beginning(), longest=5)},
        "(int * string list) list",
        """
        let sizes = List.sort_uniq compare (List.map String.length words) in
        List.map (fun n -> (n, List.filter (fun w -> String.length w = n) words)) sizes
        """,
        lambda ws: [(n, [w for w in ws if len(w) == n]) for n in sorted(set(map(len, ws)))],
        "hard",
    )
    yield Draft(
        "unfold_halves",
        "A number, its half, the half of that and so on, rounded down, as long as they are positive.",
        {"n": ints(1, 90, 0)},
        "int list",
        """
        let rec unfold next x = match next x with None -> [] | Some (y, rest) -> y :: unfold next rest in
        unfold (fun x -> if x > 0 then Some (x, x / 2) else None) n
        """,
        lambda n: [n >> i for i in range(n.bit_length())],
        "medium",
    )
    yield Draft(
        "zip_longest",
        "The sums of the numbers at equal positions of two lists; a missing number counts as 0.",
        {"a": list_of(ints(0, 9), longest=4), "b": list_of(ints(0, 9), longest=4)},
        "int list",
        """
        match a, b with
        | [], rest | rest, [] -> rest
        | x :: xs, y :: ys -> (x + y) :: zip_longest xs ys
        """,
        lambda a, b: [sum(xs[i] for xs in (a, b) if i < len(xs)) for i in range(max(len(a), len(b)))],
        "medium",
        rec=True,
    )


def _run_steps(steps: list[Con], n: int) -> int:
    for step in steps:
        k = step.args[0]
        assert isinstance(k, int)
        n = n + k if step.name == "Plus" else n * k
    return n


def _iterate(k: int) -> Draft:
    about = f"A function that doubles a number and subtracts {k}, applied n times to x."
    body = f"""
    let rec repeat n f x = if n = 0 then x else repeat (n - 1) f (f x) in
    repeat n (fun x -> (2 * x) - {k}) x
    """

    def reference(n: int, x: int) -> int:
        for _ in range(n):
            x = 2 * x - k
        return x

    return Draft("iterate", about, {"n": ints(0, 4), "x": ints(-3, 9)}, "int", body, reference, "medium")


def _compose(k: int) -> Draft:
    about = f"Every number of a list through two functions, one after the other: add {k}, then square."
    body = f"""
    let compose f g x = g (f x) in
    List.map (compose (fun x -> x + {k}) (fun x -> x * x)) xs
    """
    params = {"xs": list_of(ints(-9, 9), longest=5)}
    return Draft("both_steps", about, params, "int list", body, lambda xs: [(x + k) ** 2 for x in xs], "medium")


def _scan(k: int) -> Draft:
    about = f"All values of a fold over a list that starts with {k} and adds each number, the start included."
    body = f"""
    let rec scan f acc = function
      | [] -> [acc]
      | x :: rest -> acc :: scan f (f acc x) rest
    in
    scan ( + ) {k} xs
    """
    params = {"xs": list_of(ints(-9, 9), longest=5)}
    return Draft(
        "running", about, params, "int list", body, lambda xs: [k + sum(xs[:i]) for i in range(len(xs) + 1)], "medium"
    )
