"""Large answers from smaller ones."""

from collections.abc import Iterator
from itertools import combinations, pairwise

from cluster.problems.builtin.domains import Domain, grid, ints, list_of, text, tuple_of
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.families.backtracking import sublists
from cluster.problems.builtin.values import NONE, Con, some

POSITIVE = list_of(ints(1, 9), longest=5)


def dynamic_programming() -> Iterator[Draft]:
    """Large answers from smaller ones."""
    for steps in ((1, 2), (1, 3), (1, 2, 3), (2, 3), (1, 4), (2, 5), (1, 2, 5), (3, 4)):
        yield _stairs(steps)
    yield Draft(
        "fewest_coins",
        "The smallest number of coins that make an amount, each coin used as often as wanted, if they can.",
        {"coins": one_set(), "amount": ints(0, 20, 0)},
        "int option",
        """
        let best = Array.make (amount + 1) None in
        best.(0) <- Some 0;
        for a = 1 to amount do
          let try_coin coin =
            if coin <= a then
              match best.(a - coin), best.(a) with
              | Some n, Some m when n + 1 >= m -> ()
              | Some n, _ -> best.(a) <- Some (n + 1)
              | None, _ -> ()
          in
          List.iter try_coin coins
        done;
        best.(amount)
        """,
        _fewest_coins,
        "hard",
    )
    yield Draft(
        "ways_to_pay",
        "In how many ways coins make an amount; the order of the coins does not matter.",
        {"coins": one_set(), "amount": ints(0, 20, 0)},
        "int",
        """
        if amount = 0 then 1
        else if amount < 0 then 0
        else
          match coins with
          | [] -> 0
          | coin :: rest -> ways_to_pay coins (amount - coin) + ways_to_pay rest amount
        """,
        _ways_to_pay,
        "hard",
        rec=True,
    )
    yield Draft(
        "longest_rising",
        "The length of the longest strictly rising subsequence of a list.",
        {"xs": list_of(ints(0, 9), longest=7)},
        "int",
        """
        let extend done_before x =
          let best = List.fold_left (fun m (y, n) -> if y < x then max m n else m) 0 done_before in
          (x, best + 1) :: done_before
        in
        List.fold_left (fun m (_, n) -> max m n) 0 (List.fold_left extend [] xs)
        """,
        _longest_rising,
        "hard",
    )
    yield Draft(
        "common_length",
        "The length of the longest common subsequence of two strings.",
        {"a": text("abc", 6), "b": text("abc", 6)},
        "int",
        """
        let n = String.length a and m = String.length b in
        let t = Array.make_matrix (n + 1) (m + 1) 0 in
        for i = 1 to n do
          for j = 1 to m do
            t.(i).(j) <-
              (if a.[i - 1] = b.[j - 1] then t.(i - 1).(j - 1) + 1 else max t.(i - 1).(j) t.(i).(j - 1))
          done
        done;
        t.(n).(m)
        """,
        _common_length,
        "hard",
    )
    yield Draft(
        "edit_distance",
        "The smallest number of letters to insert, delete or replace that makes one string of another.",
        {"a": text("abc", 5), "b": text("abc", 5)},
        "int",
        """
        let rec go i j =
          if i = 0 then j
          else if j = 0 then i
          else if a.[i - 1] = b.[j - 1] then go (i - 1) (j - 1)
          else 1 + min (go (i - 1) (j - 1)) (min (go (i - 1) j) (go i (j - 1)))
        in
        go (String.length a) (String.length b)
        """,
        _edit_distance,
        "hard",
    )
    yield Draft(
        "knapsack",
        "The largest total value of things, each (weight, value), whose weights together are not above a limit.",
        {"limit": ints(3, 12), "things": list_of(tuple_of(ints(1, 6), ints(1, 9)), longest=5)},
        "int",
        """
        match things with
        | [] -> 0
        | (weight, value) :: rest ->
          let without = knapsack limit rest in
          if weight > limit then without else max without (value + knapsack (limit - weight) rest)
        """,
        lambda limit, things: max(
            sum(v for _, v in chosen) for chosen in sublists(things) if sum(w for w, _ in chosen) <= limit
        ),
        "hard",
        rec=True,
    )
    yield Draft(
        "apart",
        "The largest sum of numbers of a list no two of which are neighbours in it; 0 for none.",
        {"xs": POSITIVE},
        "int",
        """
        let step (with_last, without_last) x = (without_last + x, max with_last without_last) in
        let (a, b) = List.fold_left step (0, 0) xs in
        max a b
        """,
        lambda xs: max(sum(xs[i] for i in range(len(xs)) if m >> i & 1) for m in range(1 << len(xs)) if not m & m << 1),
        "hard",
    )
    yield Draft(
        "cheapest_path",
        "The smallest sum of a path from the top left to the bottom right of a matrix, going right or down.",
        {"m": grid(0, 9, (2, 3))},
        "int",
        """
        let a = Array.of_list (List.map Array.of_list m) in
        let rec cost i j =
          if i < 0 || j < 0 then max_int
          else if i = 0 && j = 0 then a.(0).(0)
          else a.(i).(j) + min (cost (i - 1) j) (cost i (j - 1))
        in
        cost (Array.length a - 1) (Array.length a.(0) - 1)
        """,
        _cheapest_path,
        "hard",
    )
    yield Draft(
        "can_split",
        "Whether a list of positive numbers can be split into two parts of the same sum.",
        {"xs": POSITIVE},
        "bool",
        """
        let rec reach left = function
          | _ when left = 0 -> true
          | [] -> false
          | x :: rest -> (x <= left && reach (left - x) rest) || reach left rest
        in
        let sum = List.fold_left ( + ) 0 xs in
        sum mod 2 = 0 && reach (sum / 2) xs
        """,
        lambda xs: any(2 * sum(chosen) == sum(xs) for chosen in sublists(xs)),
        "hard",
    )
    yield Draft(
        "longest_mirror",
        "The longest part of a string that reads the same from both ends, the first of several.",
        {"s": text("abc", 7)},
        "string",
        """
        let n = String.length s in
        let rec mirror i j = i >= j || (s.[i] = s.[j] && mirror (i + 1) (j - 1)) in
        let best = ref "" in
        for i = 0 to n - 1 do
          for j = i to n - 1 do
            if mirror i j && j - i + 1 > String.length !best then best := String.sub s i (j - i + 1)
          done
        done;
        !best
        """,
        _longest_mirror,
        "hard",
    )
    yield Draft(
        "best_trade",
        "The largest gain from buying on one day and selling on a later one, 0 where there is none.",
        {"prices": list_of(ints(1, 20))},
        "int",
        """
        match prices with
        | [] -> 0
        | first :: rest ->
          let step (low, gain) price = (min low price, max gain (price - low)) in
          snd (List.fold_left step (first, 0) rest)
        """,
        lambda prices: max([0, *(b - a for a, b in combinations(prices, 2))]),
        "medium",
    )
    yield Draft(
        "partitions",
        "In how many ways a number is a sum of positive numbers; their order does not matter.",
        {"n": ints(0, 20, 0)},
        "int",
        """
        let rec count n largest =
          if n = 0 then 1
          else if n < 0 || largest = 0 then 0
          else count (n - largest) largest + count n (largest - 1)
        in
        count n n
        """,
        lambda n: _ways_to_pay(list(range(1, n + 1)), n),
        "hard",
    )
    yield Draft(
        "decodings",
        "In how many ways a string of digits can be read as numbers from 1 to 26, none with a leading 0; 1 for an empty one.",
        {"s": text("12037", 5)},
        "int",
        """
        let n = String.length s in
        let rec go i =
          if i = n then 1
          else if s.[i] = '0' then 0
          else
            let two = i + 1 < n && int_of_string (String.sub s i 2) <= 26 in
            go (i + 1) + if two then go (i + 2) else 0
        in
        go 0
        """,
        _decodings,
        "hard",
        cases=[("12",), ("226",), ("06",), ("10",), ("1121",)],
    )


def one_set() -> Domain:
    """Lists of different coins."""
    return Domain(type="int list", draw=lambda rng: sorted(rng.sample((1, 2, 3, 5, 7), rng.randint(1, 3))))


def _stairs(steps: tuple[int, ...]) -> Draft:
    words = " or ".join(map(str, steps))
    about = f"In how many ways n stairs can be climbed by {words} at a time."
    body = f"if n < 0 then 0 else if n = 0 then 1 else {' + '.join(f'climb (n - {step})' for step in steps)}"
    return Draft("climb", about, {"n": ints(0, 14)}, "int", body, lambda n: _climbed(steps, n), "medium", rec=True)


def _climbed(steps: tuple[int, ...], n: int) -> int:
    ways = [1]
    for stair in range(1, n + 1):
        ways.append(sum(ways[stair - step] for step in steps if step <= stair))
    return ways[n]


def _fewest_coins(coins: list[int], amount: int) -> Con:
    sums, count = {0}, 0
    while amount not in sums:
        sums, count = {s + coin for s in sums for coin in coins if s + coin <= amount}, count + 1
        if not sums:
            return NONE
    return some(count)


def _ways_to_pay(coins: list[int], amount: int) -> int:
    ways = [1] + [0] * amount
    for coin in coins:
        for a in range(coin, amount + 1):
            ways[a] += ways[a - coin]
    return ways[amount]


def _longest_rising(xs: list[int]) -> int:
    return max(len(chosen) for chosen in sublists(xs) if all(a < b for a, b in pairwise(chosen)))


def _common_length(a: str, b: str) -> int:
    return max(len(s) for s in {*sublists(list(a))} & {*sublists(list(b))})


def _edit_distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def _cheapest_path(m: list[list[int]]) -> int:
    down, right = len(m) - 1, len(m[0]) - 1
    sums = []
    for chosen in combinations(range(down + right), down):
        i = j = 0
        total = m[0][0]
        for step in range(down + right):
            i, j = (i + 1, j) if step in chosen else (i, j + 1)
            total += m[i][j]
        sums.append(total)
    return min(sums)


def _longest_mirror(s: str) -> str:
    parts = [s[i:j] for i in range(len(s)) for j in range(i + 1, len(s) + 1)]
    return max((part for part in parts if part == part[::-1]), key=len, default="")


def _decodings(s: str) -> int:
    if not s:
        return 1
    return sum(_decodings(s[k:]) for k in (1, 2) if len(s) >= k and s[0] != "0" and int(s[:k]) <= 26)
