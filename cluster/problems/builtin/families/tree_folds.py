"""Recursion over a binary tree."""

from collections.abc import Iterator
from random import Random

from cluster.problems.builtin import operations
from cluster.problems.builtin.domains import Domain
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.operations import Operation
from cluster.problems.builtin.values import Con, con


def _tree(rng: Random, depth: int) -> Con:
    if depth == 0 or rng.random() < 0.25:
        return con("Leaf")
    return con("Node", _tree(rng, depth - 1), rng.randint(-5, 9), _tree(rng, depth - 1))


def values_of(tree: Con) -> list[int]:
    """Return the numbers of a tree from left to right."""
    if not tree.args:
        return []
    left, value, right = tree.args
    assert isinstance(left, Con) and isinstance(value, int) and isinstance(right, Con)
    return [*values_of(left), value, *values_of(right)]


TREE = Domain(
    type="tree",
    draw=lambda rng: con("Node", _tree(rng, 2), rng.randint(-5, 9), _tree(rng, 1)),
    edges=(con("Leaf"),),
)


TREE_TYPE = "type tree = Leaf | Node of tree * int * tree"


def tree_folds() -> Iterator[Draft]:
    """Recursion over a binary tree."""
    for change in operations.MAPS:
        yield _tree_sum(change)
        yield _tree_map(change)
    for test in operations.TESTS:
        yield _tree_count(test)
    for k in range(1, 8):
        yield _tree_weight(k)


def _tree_draft(name: str, about: str, leaf: str, node: str, reference: object, result: str = "int") -> Draft:
    body = f"match t with\n| Leaf -> {leaf}\n| Node (l, x, r) -> {node}"
    assert callable(reference)
    return Draft(name, about, {"t": TREE}, result, body, reference, rec=True, types=TREE_TYPE, difficulty="medium")


def _tree_sum(change: Operation) -> Draft:
    about = f"The sum of the numbers of a tree, each {change.words}."
    node = f"tree_sum l + ({change.code('x')}) + tree_sum r"
    return _tree_draft("tree_sum", about, "0", node, lambda t: sum(map(change.apply, values_of(t))))


def _tree_map(change: Operation) -> Draft:
    about = f"A tree of the same shape with every number {change.words}."
    node = f"Node (tree_map l, {change.code('x')}, tree_map r)"

    def mapped(t: Con) -> Con:
        if not t.args:
            return t
        left, value, right = t.args
        assert isinstance(left, Con) and isinstance(right, Con)
        return con("Node", mapped(left), change.apply(value), mapped(right))

    return _tree_draft("tree_map", about, "Leaf", node, mapped, "tree")


def _tree_count(test: Operation) -> Draft:
    about = f"How many numbers of a tree are {test.words}."
    node = f"tree_count l + (if {test.code('x')} then 1 else 0) + tree_count r"
    return _tree_draft("tree_count", about, "0", node, lambda t: sum(map(test.apply, values_of(t))))


def _tree_weight(k: int) -> Draft:
    about = f"The number of inner nodes of a tree times {k}."
    return _tree_draft("weight", about, "0", f"weight l + {k} + weight r", lambda t: k * len(values_of(t)))
