"""Lists taken apart and put together."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate, groupby
from random import Random

from cluster.problems.builtin.domains import (
    INTS,
    LETTER,
    STRINGS,
    Domain,
    chars,
    ints,
    list_of,
    sentence,
    sorted_list,
    text,
    tuple_of,
)
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.values import Array, Con, con


def list_craft() -> Iterator[Draft]:
    """Lists taken apart and put together."""
    for k in range(2, 6):
        yield _chunks(k)
        yield _rotated(k)
    yield Draft(
        "run_lengths",
        "The runs of equal neighbours of a list, each as its number and its length.",
        {"xs": list_of(ints(0, 2), longest=7)},
        "(int * int) list",
        """
        match xs with
        | [] -> []
        | x :: rest -> (
          match run_lengths rest with
          | (y, n) :: runs when x = y -> (x, n + 1) :: runs
          | runs -> (x, 1) :: runs)
        """,
        lambda xs: [(x, len(list(run))) for x, run in groupby(xs)],
        "medium",
        rec=True,
    )
    yield Draft(
        "expand",
        "The list that is described by runs of a number and how often it stands there.",
        {"runs": list_of(tuple_of(ints(0, 9), ints(0, 3)), longest=4)},
        "int list",
        "List.concat_map (fun (x, n) -> List.init n (fun _ -> x)) runs",
        lambda runs: [x for x, n in runs for _ in range(n)],
        "medium",
    )
    yield Draft(
        "merge",
        "Two ascending lists as one ascending list.",
        {"a": sorted_list(ints(0, 12), 4), "b": sorted_list(ints(0, 12), 4)},
        "int list",
        """
        match a, b with
        | [], rest | rest, [] -> rest
        | x :: xs, y :: ys -> if x <= y then x :: merge xs b else y :: merge a ys
        """,
        lambda a, b: sorted(a + b),
        "medium",
        rec=True,
    )
    yield Draft(
        "inversions",
        "How many pairs of a list stand in the wrong order: the earlier number greater than the later one.",
        {"xs": list_of(ints(0, 9), longest=6)},
        "int",
        """
        match xs with
        | [] -> 0
        | x :: rest -> List.length (List.filter (fun y -> y < x) rest) + inversions rest
        """,
        lambda xs: sum(x > y for i, x in enumerate(xs) for y in xs[i:]),
        "medium",
        rec=True,
    )
    yield Draft(
        "partial_sums",
        "The sum of the numbers up to and including each position of a list.",
        {"xs": INTS},
        "int list",
        """
        let sum = ref 0 in
        List.map (fun x -> sum := !sum + x; !sum) xs
        """,
        lambda xs: list(accumulate(xs)),
        "medium",
    )
    yield Draft(
        "is_palindrome",
        "Whether a list reads the same from both ends.",
        {"xs": list_of(ints(0, 1), longest=5)},
        "bool",
        "xs = List.rev xs",
        lambda xs: xs == xs[::-1],
    )
    yield Draft(
        "interleave",
        "The items of two lists by turns, beginning with the first list; the rest of the longer one at the end.",
        {"a": INTS, "b": INTS},
        "int list",
        """
        match a with
        | [] -> b
        | x :: rest -> x :: interleave b rest
        """,
        lambda a, b: [x for pair in zip(a, b, strict=False) for x in pair] + a[len(b) :] + b[len(a) :],
        "medium",
        rec=True,
    )
    yield Draft(
        "flatten",
        "All numbers of a nested list from left to right.",
        {"n": _nested_domain()},
        "int list",
        """
        match n with
        | Item x -> [x]
        | Many parts -> List.concat_map flatten parts
        """,
        _flat,
        "medium",
        rec=True,
        types="type nested = Item of int | Many of nested list",
    )
    yield Draft(
        "partition",
        "The numbers of a list that are below a pivot, and the others, each in their order.",
        {"pivot": ints(-3, 6), "xs": INTS},
        "int list * int list",
        "List.partition (fun x -> x < pivot) xs",
        lambda pivot, xs: ([x for x in xs if x < pivot], [x for x in xs if x >= pivot]),
        "medium",
    )
    yield Draft(
        "insert_sorted",
        "An ascending list with one more number in its place.",
        {"x": ints(0, 12), "xs": sorted_list(ints(0, 12), 5)},
        "int list",
        """
        match xs with
        | y :: rest when y < x -> y :: insert_sorted x rest
        | _ -> x :: xs
        """,
        lambda x, xs: sorted([x, *xs]),
        "medium",
        rec=True,
    )
    yield Draft(
        "position",
        "The position of a number in an ascending array by binary search, -1 where it is missing; all numbers differ.",
        {
            "x": ints(0, 9),
            "a": Domain(
                type="int array",
                draw=lambda rng: Array(sorted(rng.sample(range(10), rng.randint(1, 6)))),
                edges=(Array(),),
            ),
        },
        "int",
        """
        let rec search low high =
          if low >= high then -1
          else
            let middle = (low + high) / 2 in
            if a.(middle) = x then middle
            else if a.(middle) < x then search (middle + 1) high
            else search low middle
        in
        search 0 (Array.length a)
        """,
        lambda x, a: bisect_left(a, x) if x in a else -1,
        "medium",
    )
    yield Draft(
        "best_run",
        "The largest sum of a contiguous part of a list that is not empty.",
        {"xs": list_of(ints(-9, 9), shortest=1)},
        "int",
        """
        match xs with
        | [] -> invalid_arg "best_run"
        | first :: rest ->
          let step (here, best) x =
            let here = max x (here + x) in
            (here, max best here)
          in
          snd (List.fold_left step (first, first) rest)
        """,
        lambda xs: max(sum(xs[i:j]) for i in range(len(xs)) for j in range(i + 1, len(xs) + 1)),
        "hard",
    )
    yield Draft(
        "caesar",
        "A text with every lower-case letter moved k places on in the alphabet, around its end; k is not negative.",
        {"k": ints(0, 30), "s": text("abcxyz .", 6)},
        "string",
        """
        let move c =
          if c >= 'a' && c <= 'z' then Char.chr (97 + ((Char.code c - 97 + k) mod 26)) else c
        in
        String.map move s
        """,
        lambda k, s: "".join(chr((ord(c) - 97 + k) % 26 + 97) if c.islower() else c for c in s),
        "medium",
    )
    yield Draft(
        "common_prefix",
        "The longest string with which both of two words begin.",
        {"a": text("ab", 5), "b": text("ab", 5)},
        "string",
        """
        let rec length i =
          if i < String.length a && i < String.length b && a.[i] = b.[i] then length (i + 1) else i
        in
        String.sub a 0 (length 0)
        """,
        lambda a, b: next(a[:n] for n in range(len(a), -1, -1) if b.startswith(a[:n])),
        "medium",
    )
    yield Draft(
        "reverse_words",
        "The words of a sentence in reverse order, single spaces between them.",
        {"s": _sentence()},
        "string",
        "String.concat \" \" (List.rev (String.split_on_char ' ' s))",
        lambda s: " ".join(s.split(" ")[::-1]),
        "medium",
    )
    yield Draft(
        "acronym",
        "The first letters of the words of a sentence in upper case; words are separated by single spaces.",
        {"s": _sentence()},
        "string",
        """
        let initial w = String.uppercase_ascii (String.sub w 0 1) in
        String.concat "" (List.map initial (String.split_on_char ' ' s))
        """,
        lambda s: "".join(w[0].upper() for w in s.split(" ")),
        "medium",
    )
    yield Draft(
        "compress",
        "A string with every run of equal letters written as the letter and, if it is longer than 1, its length.",
        {"s": text("ab", 7)},
        "string",
        """
        let n = String.length s in
        let rec go i =
          if i = n then ""
          else
            let rec stop j = if j < n && s.[j] = s.[i] then stop (j + 1) else j in
            let j = stop i in
            let count = if j - i > 1 then string_of_int (j - i) else "" in
            String.make 1 s.[i] ^ count ^ go j
        in
        go 0
        """,
        lambda s: "".join(c + (str(n) if (n := len(list(run))) > 1 else "") for c, run in groupby(s)),
        "hard",
    )
    yield Draft(
        "count_letter",
        "How often a letter stands in the words of a list.",
        {"c": chars("aeo"), "words": STRINGS},
        "int",
        """
        let count w = String.fold_left (fun acc d -> if d = c then acc + 1 else acc) 0 w in
        List.fold_left (fun acc w -> acc + count w) 0 words
        """,
        lambda c, words: sum(w.count(c) for w in words),
        "medium",
    )
    yield Draft(
        "alphabet_from",
        "The letters from one letter to another, both included; none where the second comes before the first.",
        {"a": LETTER, "b": LETTER},
        "char list",
        """
        let first = Char.code a in
        List.init (max 0 (Char.code b - first + 1)) (fun i -> Char.chr (first + i))
        """,
        lambda a, b: [type(a)(chr(code)) for code in range(ord(a), ord(b) + 1)],
        "medium",
    )


def _sentence() -> Domain:
    return sentence(4).beginning("moon")


def _nested_domain() -> Domain:
    def nested(rng: Random, depth: int) -> Con:
        if depth == 0 or rng.random() < 0.4:
            return con("Item", rng.randint(0, 9))
        return con("Many", [nested(rng, depth - 1) for _ in range(rng.randint(0, 3))])

    return Domain(type="nested", draw=lambda rng: con("Many", [nested(rng, 2) for _ in range(rng.randint(1, 3))]))


def _flat(nested: Con) -> list[object]:
    content = nested.args[0]
    return [x for part in content for x in _flat(part)] if isinstance(content, list) else [content]


def _chunks(k: int) -> Draft:
    about = f"A list cut into parts of {k} items, the last one shorter where it does not come out even."
    body = f"""
    let rec take n xs =
      match xs with
      | x :: rest when n > 0 -> let (part, left) = take (n - 1) rest in (x :: part, left)
      | _ -> ([], xs)
    in
    match take {k} xs with
    | [], _ -> []
    | part, left -> part :: chunks left
    """
    return Draft(
        "chunks",
        about,
        {"xs": list_of(ints(0, 9), longest=7)},
        "int list list",
        body,
        lambda xs: [xs[i : i + k] for i in range(0, len(xs), k)],
        "hard",
        rec=True,
    )


def _rotated(k: int) -> Draft:
    about = f"A list with its first {k} items moved to its end; a shorter list as it is."
    body = f"""
    let front = List.filteri (fun i _ -> i < {k}) xs in
    let back = List.filteri (fun i _ -> i >= {k}) xs in
    back @ front
    """
    return Draft(
        "rotated", about, {"xs": list_of(ints(0, 9), longest=7)}, "int list", body, lambda xs: xs[k:] + xs[:k], "medium"
    )
