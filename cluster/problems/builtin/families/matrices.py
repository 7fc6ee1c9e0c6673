"""Lists of rows."""

from collections.abc import Iterator

from cluster.problems.builtin.domains import grid
from cluster.problems.builtin.draft import Draft

GRID = grid(-5, 9)


SQUARE = grid(-5, 9, square=True)


def matrices() -> Iterator[Draft]:
    """Lists of rows."""
    for k in range(2, 8):
        yield _scaled(k)
    yield Draft(
        "transpose",
        "A matrix with rows and columns exchanged.",
        {"m": GRID},
        "int list list",
        """
        match m with
        | [] | [] :: _ -> []
        | _ -> List.map List.hd m :: transpose (List.map List.tl m)
        """,
        lambda m: [list(column) for column in zip(*m, strict=True)],
        "medium",
        rec=True,
    )
    yield Draft(
        "diagonal",
        "The sum of the main diagonal of a square matrix.",
        {"m": SQUARE},
        "int",
        "List.fold_left ( + ) 0 (List.mapi (fun i row -> List.nth row i) m)",
        lambda m: sum(row[i] for i, row in enumerate(m)),
        "medium",
    )
    yield Draft(
        "row_sums",
        "The sum of each row of a matrix.",
        {"m": GRID},
        "int list",
        "List.map (List.fold_left ( + ) 0) m",
        lambda m: list(map(sum, m)),
    )
    yield Draft(
        "column_max",
        "The largest number of each column of a matrix.",
        {"m": GRID},
        "int list",
        """
        match m with
        | [] -> []
        | first :: rest -> List.fold_left (List.map2 max) first rest
        """,
        lambda m: list(map(max, zip(*m, strict=True))),
        "medium",
    )
    yield Draft(
        "multiply",
        "The product of two square matrices of the same size.",
        {"a": grid(-3, 5, (2,), square=True), "b": grid(-3, 5, (2,), square=True)},
        "int list list",
        """
        let column j = List.map (fun row -> List.nth row j) b in
        let dot xs ys = List.fold_left2 (fun acc x y -> acc + (x * y)) 0 xs ys in
        List.map (fun row -> List.mapi (fun j _ -> dot row (column j)) row) a
        """,
        lambda a, b: [
            [sum(x * y for x, y in zip(row, column, strict=True)) for column in zip(*b, strict=True)] for row in a
        ],
        "hard",
    )
    yield Draft(
        "rotate",
        "A matrix turned clockwise by a quarter.",
        {"m": GRID},
        "int list list",
        """
        let rec columns m =
          match m with
          | [] | [] :: _ -> []
          | _ -> List.rev_map List.hd m :: columns (List.map List.tl m)
        in
        columns m
        """,
        lambda m: [list(column)[::-1] for column in zip(*m, strict=True)],
        "hard",
    )
    yield Draft(
        "spiral",
        "The numbers of a matrix clockwise from the outside in, from the top left corner on.",
        {"m": GRID},
        "int list",
        """
        let rec transpose m =
          match m with
          | [] | [] :: _ -> []
          | _ -> List.map List.hd m :: transpose (List.map List.tl m)
        in
        match m with
        | [] -> []
        | row :: rest -> row @ spiral (List.rev (transpose rest))
        """,
        _spiral,
        "hard",
        rec=True,
    )
    yield Draft(
        "saddles",
        "Whether a matrix has a number that is the smallest of its row and the largest of its column.",
        {"m": GRID},
        "bool",
        """
        let smallest row = List.fold_left min max_int row in
        let largest j = List.fold_left (fun acc row -> max acc (List.nth row j)) min_int m in
        let holds row = List.exists Fun.id (List.mapi (fun j x -> x = smallest row && x = largest j) row) in
        List.exists holds m
        """,
        lambda m: any(x == min(row) and x == max(r[j] for r in m) for row in m for j, x in enumerate(row)),
        "hard",
    )
    yield Draft(
        "is_symmetric",
        "Whether a square matrix equals itself with rows and columns exchanged.",
        {"m": grid(0, 1, (2, 3), square=True)},
        "bool",
        """
        let a = Array.of_list (List.map Array.of_list m) in
        let n = Array.length a in
        let all = List.init n Fun.id in
        List.for_all (fun i -> List.for_all (fun j -> a.(i).(j) = a.(j).(i)) all) all
        """,
        lambda m: m == [list(column) for column in zip(*m, strict=True)],
        "medium",
    )
    yield Draft(
        "neighbours",
        "For each cell of a matrix of 0 and 1 the number of ones among its up to eight neighbours.",
        {"m": grid(0, 1, (2, 3))},
        "int list list",
        """
        let a = Array.of_list (List.map Array.of_list m) in
        let height = Array.length a and width = Array.length a.(0) in
        let at i j = if i >= 0 && i < height && j >= 0 && j < width then a.(i).(j) else 0 in
        let around i j =
          at (i - 1) (j - 1) + at (i - 1) j + at (i - 1) (j + 1) + at i (j - 1) + at i (j + 1)
          + at (i + 1) (j - 1) + at (i + 1) j + at (i + 1) (j + 1)
        in
        List.init height (fun i -> List.init width (around i))
        """,
        _neighbours,
        "hard",
    )


def _scaled(k: int) -> Draft:
    about = f"A matrix with every number multiplied by {k}."
    body = f"List.map (fun row -> List.map (fun x -> x * {k}) row) m"
    return Draft("scaled", about, {"m": GRID}, "int list list", body, lambda m: [[x * k for x in row] for row in m])


def _spiral(m: list[list[int]]) -> list[int]:
    taken: list[int] = []
    while m:
        taken += m[0]
        m = [list(column) for column in zip(*m[1:], strict=True)][::-1]
    return taken


def _neighbours(m: list[list[int]]) -> list[list[int]]:
    def around(i: int, j: int) -> int:
        cells = [(i + di, j + dj) for di in (-1, 0, 1) for dj in (-1, 0, 1) if (di, dj) != (0, 0)]
        return sum(m[y][x] for y, x in cells if 0 <= y < len(m) and 0 <= x < len(m[0]))

    return [[around(i, j) for j in range(len(m[0]))] for i in range(len(m))]
