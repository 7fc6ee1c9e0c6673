"""Binary trees and search trees."""

from collections.abc import Iterator
from itertools import pairwise
from random import Random

from cluster.problems.builtin.domains import Domain, ints
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.families.tree_folds import TREE, TREE_TYPE, values_of
from cluster.problems.builtin.values import NONE, Con, con, some


def _search_tree(numbers: list[int]) -> Con:
    if not numbers:
        return con("Leaf")
    first, rest = numbers[0], numbers[1:]
    return con(
        "Node", _search_tree([n for n in rest if n < first]), first, _search_tree([n for n in rest if n > first])
    )


SEARCH_TREE = Domain(
    type="tree", draw=lambda rng: _search_tree(rng.sample(range(1, 12), rng.randint(1, 5))), edges=(con("Leaf"),)
)


def _children(t: Con) -> list[Con]:
    return [part for part in t.args if isinstance(part, Con)]


def _height(t: Con) -> int:
    return 1 + max(map(_height, _children(t))) if t.args else 0


def _levels(t: Con) -> list[list[object]]:
    levels, row = [], [t]
    while row := [node for node in row if node.args]:
        levels.append([node.args[1] for node in row])
        row = [child for node in row for child in _children(node)]
    return levels


def _mirrored(t: Con) -> Con:
    return con("Node", _mirrored(_children(t)[1]), t.args[1], _mirrored(_children(t)[0])) if t.args else t


def _is_balanced(t: Con) -> bool:
    heights = list(map(_height, _children(t)))
    return all(map(_is_balanced, _children(t))) and (not heights or abs(heights[0] - heights[1]) <= 1)


def _preorder(t: Con) -> list[int]:
    if not t.args:
        return []
    left, value, right = t.args
    assert isinstance(left, Con) and isinstance(value, int) and isinstance(right, Con)
    return [value, *_preorder(left), *_preorder(right)]


def _paths(t: Con) -> list[int]:
    if not t.args:
        return []
    value = t.args[1]
    assert isinstance(value, int)
    below = [total for child in _children(t) for total in _paths(child)]
    return [value + total for total in below] if below else [value]


def trees() -> Iterator[Draft]:
    """Binary trees and search trees."""
    for k in range(2, 9):
        yield _range_sum(k)
    both = {"x": ints(1, 11), "t": SEARCH_TREE}

    def on_tree(name: str, about: str, result: str, body: str, reference: object, level: str = "medium") -> Draft:
        assert callable(reference)
        return Draft(name, about, {"t": TREE}, result, body, reference, level, rec=True, types=TREE_TYPE)

    yield on_tree(
        "height",
        "The number of nodes on the longest way down a tree.",
        "int",
        "match t with\n| Leaf -> 0\n| Node (l, _, r) -> 1 + max (height l) (height r)",
        _height,
    )
    yield on_tree(
        "in_order",
        "The numbers of a tree from left to right.",
        "int list",
        "match t with\n| Leaf -> []\n| Node (l, x, r) -> in_order l @ (x :: in_order r)",
        values_of,
    )
    yield on_tree(
        "pre_order",
        "The numbers of a tree, each node before what is below it, the left side before the right one.",
        "int list",
        "match t with\n| Leaf -> []\n| Node (l, x, r) -> x :: (pre_order l @ pre_order r)",
        _preorder,
    )
    yield on_tree(
        "mirror",
        "A tree with left and right exchanged everywhere.",
        "tree",
        "match t with\n| Leaf -> Leaf\n| Node (l, x, r) -> Node (mirror r, x, mirror l)",
        _mirrored,
    )
    yield on_tree(
        "levels",
        "The numbers of a tree level by level, from the top, each level from left to right.",
        "int list list",
        """
        let rec join a b =
          match a, b with
          | [], rest | rest, [] -> rest
          | x :: xs, y :: ys -> (x @ y) :: join xs ys
        in
        match t with
        | Leaf -> []
        | Node (l, x, r) -> [x] :: join (levels l) (levels r)
        """,
        _levels,
        "hard",
    )
    yield on_tree(
        "is_balanced",
        "Whether at every node the heights of both sides differ by at most 1.",
        "bool",
        """
        let rec height = function Leaf -> 0 | Node (l, _, r) -> 1 + max (height l) (height r) in
        match t with
        | Leaf -> true
        | Node (l, _, r) -> abs (height l - height r) <= 1 && is_balanced l && is_balanced r
        """,
        _is_balanced,
        "hard",
    )
    yield on_tree(
        "path_sums",
        "The sums of the numbers on all ways from the root to a node without a node below it, from left to right.",
        "int list",
        """
        match t with
        | Leaf -> []
        | Node (Leaf, x, Leaf) -> [x]
        | Node (l, x, r) -> List.map (fun sum -> x + sum) (path_sums l @ path_sums r)
        """,
        _paths,
        "hard",
    )
    yield on_tree(
        "largest",
        "The largest number of a tree, if it has one.",
        "int option",
        """
        match t with
        | Leaf -> None
        | Node (l, x, r) ->
          let better best side = match side with Some y when y > best -> y | _ -> best in
          Some (better (better x (largest l)) (largest r))
        """,
        lambda t: some(max(values_of(t))) if t.args else NONE,
    )
    yield on_tree(
        "is_search_tree",
        "Whether the numbers of a tree strictly rise from left to right.",
        "bool",
        """
        let rec inside low high = function
          | Leaf -> true
          | Node (l, x, r) -> x > low && x < high && inside low x l && inside x high r
        in
        inside min_int max_int t
        """,
        lambda t: all(a < b for a, b in pairwise(values_of(t))),
        "hard",
    )
    yield Draft(
        "insert",
        "A search tree with one more number; the same tree where the number is in it.",
        both,
        "tree",
        """
        match t with
        | Leaf -> Node (Leaf, x, Leaf)
        | Node (l, y, r) ->
          if x < y then Node (insert x l, y, r)
          else if x > y then Node (l, y, insert x r)
          else t
        """,
        lambda x, t: t if x in values_of(t) else _search_tree([*_preorder(t), x]),
        "hard",
        rec=True,
        types=TREE_TYPE,
    )
    yield Draft(
        "member",
        "Whether a number is in a search tree.",
        both,
        "bool",
        """
        match t with
        | Leaf -> false
        | Node (l, y, r) -> x = y || member x (if x < y then l else r)
        """,
        lambda x, t: x in values_of(t),
        "medium",
        rec=True,
        types=TREE_TYPE,
    )
    yield Draft(
        "build",
        "The search tree that grows when the numbers of a list are inserted one after another; all differ.",
        {"xs": Domain(type="int list", draw=lambda rng: rng.sample(range(1, 10), rng.randint(1, 4)), edges=([],))},
        "tree",
        """
        match xs with
        | [] -> Leaf
        | x :: rest -> Node (build (List.filter (fun y -> y < x) rest), x, build (List.filter (fun y -> y > x) rest))
        """,
        _search_tree,
        "hard",
        rec=True,
        types=TREE_TYPE,
    )
    yield Draft(
        "rank",
        "How many numbers of a search tree are smaller than a given one.",
        both,
        "int",
        """
        match t with
        | Leaf -> 0
        | Node (l, y, r) -> if x <= y then rank x l else rank x l + 1 + rank x r
        """,
        lambda x, t: sum(y < x for y in values_of(t)),
        "medium",
        rec=True,
        types=TREE_TYPE,
    )
    yield Draft(
        "remove_smallest",
        "The smallest number of a search tree and the tree without it, if it has one.",
        {"t": SEARCH_TREE},
        "(int * tree) option",
        """
        match t with
        | Leaf -> None
        | Node (l, x, r) -> (
          match remove_smallest l with
          | None -> Some (x, r)
          | Some (least, l) -> Some (least, Node (l, x, r)))
        """,
        lambda t: some((min(values_of(t)), _without_smallest(t))) if t.args else NONE,
        "hard",
        rec=True,
        types=TREE_TYPE,
    )
    yield Draft(
        "same_numbers",
        "Whether two trees hold the same numbers from left to right, whatever their shapes.",
        {"a": _shapes(), "b": _shapes()},
        "bool",
        """
        let rec numbers = function Leaf -> [] | Node (l, x, r) -> numbers l @ (x :: numbers r) in
        numbers a = numbers b
        """,
        lambda a, b: values_of(a) == values_of(b),
        "medium",
        types=TREE_TYPE,
    )
    yield Draft(
        "rose_sum",
        "The sum of all numbers of a tree whose nodes have any number of children.",
        {"t": _rose()},
        "int",
        "match t with Rose (x, children) -> List.fold_left (fun sum child -> sum + rose_sum child) x children",
        lambda t: t.args[0] + sum(_rose_sum(child) for child in t.args[1]),
        "medium",
        rec=True,
        types="type rose = Rose of int * rose list",
    )


def _without_smallest(t: Con) -> Con:
    left, right = _children(t)
    return con("Node", _without_smallest(left), t.args[1], right) if left.args else right


def _shapes() -> Domain:
    return Domain(type="tree", draw=lambda rng: _search_tree(rng.sample((1, 2, 3), rng.randint(2, 3))))


def _rose() -> Domain:
    def rose(rng: Random, depth: int) -> Con:
        return con("Rose", rng.randint(0, 9), [rose(rng, depth - 1) for _ in range(rng.randint(0, depth))])

    return Domain(type="rose", draw=lambda rng: rose(rng, 2))


def _rose_sum(t: Con) -> int:
    value, children = t.args
    assert isinstance(value, int) and isinstance(children, list)
    return value + sum(map(_rose_sum, children))


def _range_sum(k: int) -> Draft:
    about = f"The sum of the numbers of a search tree that are below {k}."
    body = f"""
    match t with
    | Leaf -> 0
    | Node (l, x, r) -> if x < {k} then x + below l + below r else below l
    """
    params = {"t": SEARCH_TREE}
    return Draft(
        "below",
        about,
        params,
        "int",
        body,
        lambda t: sum(x for x in values_of(t) if x < k),
        "medium",
        rec=True,
        types=TREE_TYPE,
    )
