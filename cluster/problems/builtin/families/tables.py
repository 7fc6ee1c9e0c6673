"""Counting and looking up with Hashtbl and Map."""

from collections import Counter
from collections.abc import Iterator
from random import Random

from cluster.problems.builtin.domains import WORD, Domain, ints, list_of, text, tuple_of
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.values import NONE, Con, some

FEW = list_of(ints(0, 4), longest=7)


FEW_WORDS = list_of(Domain(type="string", draw=lambda rng: rng.choice(("ox", "elm", "ash", "ivy"))), longest=6)


def tables() -> Iterator[Draft]:
    """Counting and looking up with Hashtbl and Map."""
    for k in range(2, 5):
        yield _at_least_times(k)
    yield Draft(
        "frequencies",
        "Each different number of a list with how often it stands there, by ascending number.",
        {"xs": FEW},
        "(int * int) list",
        """
        let counts = Hashtbl.create 16 in
        let count x = Option.value (Hashtbl.find_opt counts x) ~default:0 in
        List.iter (fun x -> Hashtbl.replace counts x (count x + 1)) xs;
        List.sort compare (Hashtbl.fold (fun x n rest -> (x, n) :: rest) counts [])
        """,
        lambda xs: sorted(Counter(xs).items()),
        "medium",
    )
    yield Draft(
        "distinct",
        "The numbers of a list without repetitions, each where it stands first.",
        {"xs": FEW},
        "int list",
        """
        let seen = Hashtbl.create 16 in
        let is_new x = if Hashtbl.mem seen x then false else (Hashtbl.add seen x (); true) in
        List.filter is_new xs
        """,
        lambda xs: list(dict.fromkeys(xs)),
        "medium",
    )
    yield Draft(
        "most_common",
        "The word that stands most often in a list, the first in the alphabet of several, if any.",
        {"words": FEW_WORDS},
        "string option",
        """
        let module M = Map.Make (String) in
        let add m w = M.update w (fun n -> Some (1 + Option.value n ~default:0)) m in
        let better w n best = match best with Some (_, m) when m >= n -> best | _ -> Some (w, n) in
        Option.map fst (M.fold better (List.fold_left add M.empty words) None)
        """,
        lambda ws: some(min(set(ws), key=lambda w: (-ws.count(w), w))) if ws else NONE,
        "hard",
    )
    yield Draft(
        "first_repeated",
        "The first number of a list that has stood in it before, if any.",
        {"xs": FEW},
        "int option",
        """
        let rec go seen = function
          | [] -> None
          | x :: rest -> if List.mem x seen then Some x else go (x :: seen) rest
        in
        go [] xs
        """,
        lambda xs: next((some(x) for i, x in enumerate(xs) if x in xs[:i]), NONE),
        "medium",
    )
    yield Draft(
        "two_sum",
        "The positions i < j of two numbers of a list with a given sum, j the smallest possible and then i, if any.",
        {"target": ints(0, 9), "xs": list_of(ints(0, 9), longest=6)},
        "(int * int) option",
        """
        let seen = Hashtbl.create 16 in
        let rec go j = function
          | [] -> None
          | x :: rest -> (
            match Hashtbl.find_opt seen (target - x) with
            | Some i -> Some (i, j)
            | None ->
              if not (Hashtbl.mem seen x) then Hashtbl.add seen x j;
              go (j + 1) rest)
        in
        go 0 xs
        """,
        _two_sum,
        "hard",
        cases=[(9, [2, 7, 1]), (6, [3, 2, 4]), (8, [1, 2, 3]), (4, [2, 5, 2])],
    )
    yield Draft(
        "anagrams",
        "The words of a list in groups of the same letters; groups and words in the order in which they first come.",
        {"words": list_of(text("abc", 2), longest=5)},
        "string list list",
        """
        let key w = List.sort compare (List.init (String.length w) (String.get w)) in
        let rec add w = function
          | [] -> [[w]]
          | group :: rest ->
            if key (List.hd group) = key w then (group @ [w]) :: rest else group :: add w rest
        in
        List.fold_left (fun groups w -> add w groups) [] words
        """,
        _anagrams,
        "hard",
        cases=[(["eat", "tea", "ox"],), (["ab", "ba", "ab"],), (["a", "b"],), (["abc", "bd", "cab", "db"],)],
    )
    yield Draft(
        "merge_counts",
        "Two ascending lists of a word and a count as one, the counts of equal words added.",
        {"a": _counts(), "b": _counts()},
        "(string * int) list",
        """
        match a, b with
        | [], rest | rest, [] -> rest
        | (v, m) :: x, (w, n) :: y ->
          if v = w then (v, m + n) :: merge_counts x y
          else if v < w then (v, m) :: merge_counts x b
          else (w, n) :: merge_counts a y
        """,
        lambda a, b: sorted((Counter(dict(a)) + Counter(dict(b))).items()),
        "medium",
        rec=True,
    )
    yield Draft(
        "invert",
        "The pairs of a list turned around, by ascending key; of pairs with the same new key the last one counts.",
        {"pairs": list_of(tuple_of(WORD, ints(0, 3)), longest=4)},
        "(int * string) list",
        """
        let module M = Map.Make (Int) in
        M.bindings (List.fold_left (fun m (word, n) -> M.add n word m) M.empty pairs)
        """,
        lambda ps: sorted({n: word for word, n in ps}.items()),
        "medium",
    )
    yield Draft(
        "equal_sum_spans",
        "How many contiguous parts of a list, not empty, have a given sum.",
        {"target": ints(0, 4), "xs": list_of(ints(-1, 3), longest=6)},
        "int",
        """
        let counts = Hashtbl.create 16 in
        let count s = Option.value (Hashtbl.find_opt counts s) ~default:0 in
        Hashtbl.replace counts 0 1;
        let step (sum, found) x =
          let sum = sum + x in
          let found = found + count (sum - target) in
          Hashtbl.replace counts sum (count sum + 1);
          (sum, found)
        in
        snd (List.fold_left step (0, 0) xs)
        """,
        lambda target, xs: sum(sum(xs[i:j]) == target for i in range(len(xs)) for j in range(i + 1, len(xs) + 1)),
        "hard",
    )


def _counts() -> Domain:
    names = ("ash", "elm", "fig", "ivy", "oak")

    def draw(rng: Random) -> object:
        return [(name, rng.randint(1, 9)) for name in sorted(rng.sample(names, rng.randint(1, 3)))]

    return Domain(type="(string * int) list", draw=draw, edges=([],))


def _at_least_times(k: int) -> Draft:
    about = f"The different numbers that stand {k} times or more in a list, in ascending order."
    body = f"List.filter (fun x -> List.length (List.filter (( = ) x) xs) >= {k}) (List.sort_uniq compare xs)"
    params = {"xs": list_of(ints(0, 2), longest=8)}
    return Draft(
        "often",
        about,
        params,
        "int list",
        body,
        lambda xs: sorted({x for x in xs if xs.count(x) >= k}),
        "medium",
    )


def _two_sum(target: int, xs: list[int]) -> Con:
    found = [(j, i) for j in range(len(xs)) for i in range(j) if xs[i] + xs[j] == target]
    return some((min(found)[1], min(found)[0])) if found else NONE


def _anagrams(words: list[str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for word in words:
        groups.setdefault("".join(sorted(word)), []).append(word)
    return list(groups.values())
