"""Graphs as lists of edges."""

from collections import deque
from collections.abc import Iterator
from itertools import combinations, pairwise, permutations, product
from random import Random

from cluster.problems.builtin.domains import Domain, grid, ints
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.values import NONE, Con, some


def _edges(largest: int) -> Domain:
    def draw(rng: Random) -> object:
        every = list(combinations(range(largest + 1), 2))
        return sorted(rng.sample(every, rng.randint(2, 5)))

    return Domain(type="(int * int) list", draw=draw, edges=([],))


def _reached(edges: list[tuple[int, int]], start: int, *, both: bool) -> dict[int, int]:
    """The distance of every node that can be reached."""
    distance, queue = {start: 0}, deque([start])
    while queue:
        here = queue.popleft()
        for a, b in edges:
            for x, y in ((a, b), (b, a)) if both else ((a, b),):
                if x == here and y not in distance:
                    distance[y] = distance[here] + 1
                    queue.append(y)
    return distance


def graphs() -> Iterator[Draft]:
    """Graphs as lists of edges."""
    edges = _edges(5)
    for k in range(4):
        yield _successors(k)
        yield _degree(k)
    yield Draft(
        "reachable",
        "All nodes that a directed graph, a list of edges, leads to from a start, the start included, in ascending order.",
        {"start": ints(0, 3), "edges": edges},
        "int list",
        """
        let rec visit seen node =
          if List.mem node seen then seen
          else
            let next = List.filter_map (fun (a, b) -> if a = node then Some b else None) edges in
            List.fold_left visit (node :: seen) next
        in
        List.sort compare (visit [] start)
        """,
        lambda start, edges: sorted(_reached(edges, start, both=False)),
        "hard",
    )
    yield Draft(
        "distance",
        "The smallest number of edges from one node to another in an undirected graph, if they are connected.",
        {"a": ints(0, 2), "b": ints(3, 5), "edges": edges},
        "int option",
        """
        let neighbours node =
          List.concat_map (fun (x, y) -> if x = node then [y] else if y = node then [x] else []) edges
        in
        let rec search steps seen frontier =
          if frontier = [] then None
          else if List.mem b frontier then Some steps
          else
            let fresh n = not (List.mem n seen) in
            let next = List.sort_uniq compare (List.filter fresh (List.concat_map neighbours frontier)) in
            search (steps + 1) (next @ seen) next
        in
        search 0 [a] [a]
        """,
        lambda a, b, edges: some(d) if (d := _reached(edges, a, both=True).get(b)) is not None else NONE,
        "hard",
    )
    yield Draft(
        "num_components",
        "Into how many connected parts the undirected graph with nodes 0 to n - 1 falls.",
        {"n": ints(6, 7), "edges": edges},
        "int",
        """
        let parent = Array.init n Fun.id in
        let rec root x = if parent.(x) = x then x else root parent.(x) in
        let join count (a, b) =
          let a = root a and b = root b in
          if a = b then count else (parent.(a) <- b; count - 1)
        in
        List.fold_left join n edges
        """,
        lambda n, edges: len({tuple(sorted(_reached(edges, v, both=True))) for v in range(n)}),
        "hard",
    )
    yield Draft(
        "order",
        "The nodes 0 to n - 1 in an order in which each edge (a, b) has a before b; of several nodes that could come next the "
        "smallest one. None where the edges run in a circle.",
        {"n": ints(4, 4), "edges": _arrows()},
        "int list option",
        """
        let rec go placed left =
          match left with
          | [] -> Some (List.rev placed)
          | _ -> (
            let free b = List.for_all (fun (a, c) -> c <> b || List.mem a placed) edges in
            match List.find_opt free left with
            | None -> None
            | Some b -> go (b :: placed) (List.filter (( <> ) b) left))
        in
        go [] (List.init n Fun.id)
        """,
        _topological,
        "hard",
    )
    yield Draft(
        "has_cycle",
        "Whether a directed graph, a list of edges, has a way from some node back to itself.",
        {"edges": _arrows()},
        "bool",
        """
        let rec leads seen target node =
          List.exists
            (fun (a, b) ->
              a = node && (b = target || ((not (List.mem b seen)) && leads (b :: seen) target b)))
            edges
        in
        List.exists (fun (a, _) -> leads [] a a) edges
        """,
        lambda edges: _topological(4, edges) == NONE,
        "hard",
    )
    yield Draft(
        "islands",
        "How many areas of ones a matrix of 0 and 1 has; cells belong together across their sides.",
        {"m": grid(0, 1, (2, 3, 4))},
        "int",
        """
        let a = Array.of_list (List.map Array.of_list m) in
        let rec sink i j =
          if i >= 0 && i < Array.length a && j >= 0 && j < Array.length a.(0) && a.(i).(j) = 1 then begin
            a.(i).(j) <- 0;
            sink (i + 1) j; sink (i - 1) j; sink i (j + 1); sink i (j - 1)
          end
        in
        let count = ref 0 in
        Array.iteri
          (fun i row -> Array.iteri (fun j cell -> if cell = 1 then (incr count; sink i j)) row)
          a;
        !count
        """,
        _islands,
        "hard",
    )
    yield Draft(
        "cheapest_route",
        "The smallest total cost from node 0 to a node along directed edges (from, to, cost), if there is a way.",
        {"goal": ints(1, 3), "edges": _costs()},
        "int option",
        """
        let best = Array.make 4 max_int in
        best.(0) <- 0;
        for _ = 1 to 3 do
          let relax (a, b, cost) =
            if best.(a) < max_int && best.(a) + cost < best.(b) then best.(b) <- best.(a) + cost
          in
          List.iter relax edges
        done;
        if best.(goal) = max_int then None else Some best.(goal)
        """,
        _cheapest_route,
        "hard",
    )
    yield Draft(
        "two_colours",
        "Whether the nodes of an undirected graph can be painted in two colours so that no edge joins equal ones.",
        {"edges": _edges(3)},
        "bool",
        """
        let colour = Array.make 6 (-1) in
        let rec paint node c =
          if colour.(node) >= 0 then colour.(node) = c
          else begin
            colour.(node) <- c;
            List.for_all
              (fun (a, b) ->
                if a = node then paint b (1 - c) else if b = node then paint a (1 - c) else true)
              edges
          end
        in
        List.for_all (fun (a, _) -> colour.(a) >= 0 || paint a 0) edges
        """,
        lambda edges: any(all(c[a] != c[b] for a, b in edges) for c in product((0, 1), repeat=4)),
        "hard",
    )


def _arrows() -> Domain:
    every = [(a, b) for a in range(4) for b in range(4) if a != b]
    return Domain(type="(int * int) list", draw=lambda rng: sorted(rng.sample(every, rng.randint(1, 4))), edges=([],))


def _costs() -> Domain:
    every = [(a, b) for a in range(4) for b in range(4) if a != b]
    return Domain(
        type="(int * int * int) list",
        draw=lambda rng: [(a, b, rng.randint(1, 9)) for a, b in sorted(rng.sample(every, rng.randint(2, 6)))],
    )


def _successors(k: int) -> Draft:
    about = f"The nodes to which the edges of a directed graph lead from node {k}, in their order."
    body = f"List.map snd (List.filter (fun (a, _) -> a = {k}) edges)"
    return Draft(
        "successors",
        about,
        {"edges": _arrows()},
        "int list",
        body,
        lambda edges: [b for a, b in edges if a == k],
        "medium",
    )


def _degree(k: int) -> Draft:
    about = f"How many edges of an undirected graph end at node {k}."
    body = f"List.length (List.filter (fun (a, b) -> a = {k} || b = {k}) edges)"
    return Draft(
        "degree", about, {"edges": _edges(4)}, "int", body, lambda edges: sum(k in edge for edge in edges), "medium"
    )


def _topological(n: int, edges: list[tuple[int, int]]) -> Con:
    orders = (order for order in permutations(range(n)) if all(order.index(a) < order.index(b) for a, b in edges))
    return next((some(list(order)) for order in orders), NONE)


def _islands(m: list[list[int]]) -> int:
    cells = {(i, j) for i, row in enumerate(m) for j, cell in enumerate(row) if cell}
    count = 0
    while cells:
        count += 1
        wave = [cells.pop()]
        while wave:
            i, j = wave.pop()
            near = {(i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)} & cells
            cells -= near
            wave += near
    return count


def _cheapest_route(goal: int, edges: list[tuple[int, int, int]]) -> Con:
    cost = {(a, b): c for a, b, c in edges}
    routes = [(0, *middle, goal) for k in range(3) for middle in permutations({1, 2, 3} - {goal}, k)]
    sums = [
        sum(cost[leg] for leg in pairwise(route)) for route in routes if all(leg in cost for leg in pairwise(route))
    ]
    return some(min(sums)) if sums else NONE
