"""Expressions as values of a type."""

from collections.abc import Iterator
from random import Random

from cluster.problems.builtin.domains import Domain, ints
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.values import Con, con

EXPR_TYPE = "type expr = Num of int | Var | Add of expr * expr | Mul of expr * expr"


def _expr(rng: Random, depth: int) -> Con:
    if depth == 0 or rng.random() < 0.2:
        return con("Var") if rng.random() < 0.4 else con("Num", rng.randint(0, 4))
    return con(rng.choice(("Add", "Mul")), _expr(rng, depth - 1), _expr(rng, depth - 1))


EXPR = Domain(type="expr", draw=lambda rng: _expr(rng, 2), edges=(con("Var"), con("Num", 3)))


def _value(e: Con, x: int) -> int:
    if e.name == "Num":
        number = e.args[0]
        assert isinstance(number, int)
        return number
    if e.name == "Var":
        return x
    a, b = (_value(part, x) for part in e.args if isinstance(part, Con))
    return a + b if e.name == "Add" else a * b


def _parts(e: Con) -> list[Con]:
    return [e, *(part for child in e.args if isinstance(child, Con) for part in _parts(child))]


def _simple(e: Con) -> Con:
    children = [_simple(part) for part in e.args if isinstance(part, Con)]
    if len(children) != 2:
        return e
    a, b = children
    zero, one = con("Num", 0), con("Num", 1)
    neutral = zero if e.name == "Add" else one
    if e.name == "Mul" and zero in (a, b):
        return zero
    return b if a == neutral else a if b == neutral else con(e.name, a, b)


def _derived(e: Con) -> Con:
    if e.name in ("Num", "Var"):
        return con("Num", int(e.name == "Var"))
    a, b = (part for part in e.args if isinstance(part, Con))
    if e.name == "Add":
        return con("Add", _derived(a), _derived(b))
    return con("Add", con("Mul", _derived(a), b), con("Mul", a, _derived(b)))


def _shown(e: Con) -> str:
    if e.name in ("Num", "Var"):
        return str(e.args[0]) if e.args else "x"
    a, b = (_shown(part) for part in e.args if isinstance(part, Con))
    return f"({a} {'+' if e.name == 'Add' else '*'} {b})"


def expressions() -> Iterator[Draft]:
    """Expressions as values of a type."""
    for k in range(7):
        yield _value_at(k)
    for name in ("Num", "Var", "Add", "Mul"):
        yield _count_parts(name)
    yield Draft(
        "evaluate",
        "The value of an expression for a value of its variable.",
        {"x": ints(-3, 5), "e": EXPR},
        "int",
        """
        match e with
        | Num n -> n
        | Var -> x
        | Add (a, b) -> evaluate x a + evaluate x b
        | Mul (a, b) -> evaluate x a * evaluate x b
        """,
        lambda x, e: _value(e, x),
        "medium",
        rec=True,
        types=EXPR_TYPE,
    )
    yield Draft(
        "show",
        "An expression as text: x for the variable, every sum and product in round brackets.",
        {"e": EXPR},
        "string",
        """
        match e with
        | Num n -> string_of_int n
        | Var -> "x"
        | Add (a, b) -> "(" ^ show a ^ " + " ^ show b ^ ")"
        | Mul (a, b) -> "(" ^ show a ^ " * " ^ show b ^ ")"
        """,
        _shown,
        "medium",
        rec=True,
        types=EXPR_TYPE,
    )
    yield Draft(
        "simplify",
        "An expression without needless parts, from the inside out: e + 0, 0 + e, e * 1 and 1 * e become e, "
        "e * 0 and 0 * e become 0.",
        {"e": EXPR},
        "expr",
        """
        match e with
        | Add (a, b) -> (
          match simplify a, simplify b with
          | Num 0, e | e, Num 0 -> e
          | a, b -> Add (a, b))
        | Mul (a, b) -> (
          match simplify a, simplify b with
          | Num 0, _ | _, Num 0 -> Num 0
          | Num 1, e | e, Num 1 -> e
          | a, b -> Mul (a, b))
        | e -> e
        """,
        _simple,
        "hard",
        rec=True,
        types=EXPR_TYPE,
    )
    yield Draft(
        "derive",
        "The derivative of an expression by its variable, not simplified: (a * b)' is a' * b + a * b'.",
        {"e": EXPR},
        "expr",
        """
        match e with
        | Num _ -> Num 0
        | Var -> Num 1
        | Add (a, b) -> Add (derive a, derive b)
        | Mul (a, b) -> Add (Mul (derive a, b), Mul (a, derive b))
        """,
        _derived,
        "hard",
        rec=True,
        types=EXPR_TYPE,
    )
    yield Draft(
        "size",
        "The number of sums and products in an expression.",
        {"e": EXPR},
        "int",
        """
        match e with
        | Num _ | Var -> 0
        | Add (a, b) | Mul (a, b) -> 1 + size a + size b
        """,
        lambda e: sum(part.name in ("Add", "Mul") for part in _parts(e)),
        "medium",
        rec=True,
        types=EXPR_TYPE,
    )
    yield Draft(
        "replace",
        "An expression with another one in place of its variable.",
        {"by": EXPR.beginning(), "e": EXPR},
        "expr",
        """
        match e with
        | Var -> by
        | Num n -> Num n
        | Add (a, b) -> Add (replace by a, replace by b)
        | Mul (a, b) -> Mul (replace by a, replace by b)
        """,
        _replaced,
        "medium",
        rec=True,
        types=EXPR_TYPE,
    )


def _replaced(by: Con, e: Con) -> Con:
    if e.name == "Var":
        return by
    return con(e.name, *(_replaced(by, part) if isinstance(part, Con) else part for part in e.args))


def _value_at(k: int) -> Draft:
    about = f"The value of an expression where its variable is {k}."
    body = f"""
    match e with
    | Num n -> n
    | Var -> {k}
    | Add (a, b) -> value a + value b
    | Mul (a, b) -> value a * value b
    """
    return Draft("value", about, {"e": EXPR}, "int", body, lambda e: _value(e, k), "medium", rec=True, types=EXPR_TYPE)


def _count_parts(name: str) -> Draft:
    about = f"How often {name} stands in an expression."
    ones = [f"| {part}{' _' if part == 'Num' else ''} -> {int(part == name)}" for part in ("Num", "Var")]
    sums = [f"| {part} (a, b) -> {'1 + ' if part == name else ''}count a + count b" for part in ("Add", "Mul")]
    body = "\n".join(["match e with", *ones, *sums])
    return Draft(
        "count",
        about,
        {"e": EXPR},
        "int",
        body,
        lambda e: [part.name for part in _parts(e)].count(name),
        "medium",
        rec=True,
        types=EXPR_TYPE,
    )
