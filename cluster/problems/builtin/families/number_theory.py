"""Divisors, primes, digits and sequences."""

import math
from collections.abc import Iterator

from cluster.problems.builtin.domains import array_of, ints
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.values import NONE, Array, some


def number_theory() -> Iterator[Draft]:
    """Divisors, primes, digits and sequences."""
    for base in (2, 3, 5, 6, 7, 8, 9, 16):
        yield _digits(base)
        yield _digit_sum(base)
    for k in (2, 3, 5, 7):
        yield _valuation(k)
    yield from _classics()


def _in_base(n: int, base: int) -> list[int]:
    return [n] if n < base else [*_in_base(n // base, base), n % base]


def _digits(base: int) -> Draft:
    about = f"The digits of a number that is not negative in base {base}, the highest first."
    body = f"if n < {base} then [n] else digits (n / {base}) @ [n mod {base}]"
    return Draft(
        "digits", about, {"n": ints(0, 900, 0)}, "int list", body, lambda n: _in_base(n, base), "medium", rec=True
    )


def _digit_sum(base: int) -> Draft:
    about = f"The sum of the digits that a number has in base {base}."
    body = f"if n = 0 then 0 else (n mod {base}) + digit_sum (n / {base})"
    return Draft(
        "digit_sum", about, {"n": ints(0, 900, 0)}, "int", body, lambda n: sum(_in_base(n, base)), "medium", rec=True
    )


def _valuation(k: int) -> Draft:
    about = f"How often a positive number can be divided by {k} without a remainder."
    body = f"if n mod {k} <> 0 then 0 else 1 + valuation (n / {k})"
    params = {"n": ints(1, 12, k**3)}
    return Draft(
        "valuation",
        about,
        params,
        "int",
        body,
        lambda n: max(e for e in range(12) if n % k**e == 0),
        "medium",
        rec=True,
        cases=[(k,), (k * k + 1,), (k * k,), (2 * k**4 + k**4,)],
    )


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _is_prime(n: int) -> bool:
    return len(_divisors(n)) == 2


def _factors(n: int) -> list[int]:
    factors = []
    for p in range(2, n + 1):
        while n % p == 0:
            factors.append(p)
            n //= p
    return factors


def _collatz(n: int) -> int:
    steps = 0
    while n != 1:
        n, steps = (n // 2 if n % 2 == 0 else 3 * n + 1), steps + 1
    return steps


def _josephus(n: int, k: int) -> int:
    people, at = list(range(n)), 0
    while len(people) > 1:
        at = (at + k - 1) % len(people)
        people.pop(at)
    return people[0]


def _classics() -> Iterator[Draft]:
    positive = {"n": ints(1, 60, 1)}
    yield Draft(
        "gcd",
        "The greatest common divisor of two numbers that are not negative.",
        {"a": ints(0, 90), "b": ints(0, 90)},
        "int",
        "if b = 0 then a else gcd b (a mod b)",
        math.gcd,
        rec=True,
        cases=[(12, 18), (35, 14), (0, 7), (17, 5), (48, 36)],
    )
    yield Draft(
        "lcm",
        "The least common multiple of two positive numbers.",
        {"a": ints(1, 20), "b": ints(1, 20)},
        "int",
        """
        let rec gcd a b = if b = 0 then a else gcd b (a mod b) in
        a / gcd a b * b
        """,
        math.lcm,
        "medium",
    )
    yield Draft(
        "divisors",
        "All divisors of a positive number in ascending order.",
        positive,
        "int list",
        "List.filter (fun d -> n mod d = 0) (List.init n (fun i -> i + 1))",
        _divisors,
        "medium",
    )
    yield Draft(
        "is_prime",
        "Whether a number is a prime.",
        {"n": ints(-3, 60, 1)},
        "bool",
        """
        let rec no_divisor d = d * d > n || (n mod d <> 0 && no_divisor (d + 1)) in
        n > 1 && no_divisor 2
        """,
        _is_prime,
        "medium",
    )
    yield Draft(
        "prime_factors",
        "The prime factors of a positive number in ascending order, each as often as it divides.",
        {"n": ints(1, 400, 1)},
        "int list",
        """
        let rec go d n =
          if n = 1 then []
          else if n mod d = 0 then d :: go d (n / d)
          else go (d + 1) n
        in
        go 2 n
        """,
        _factors,
        "medium",
    )
    yield Draft(
        "primes_below",
        "All primes below n, by the sieve of Eratosthenes.",
        {"n": ints(0, 50, 2)},
        "int list",
        """
        let composite = Array.make (max n 2) false in
        for d = 2 to n - 1 do
          if not composite.(d) then begin
            let multiple = ref (d * d) in
            while !multiple < n do
              composite.(!multiple) <- true;
              multiple := !multiple + d
            done
          end
        done;
        List.filter (fun d -> d > 1 && not composite.(d)) (List.init n (fun i -> i))
        """,
        lambda n: [p for p in range(n) if _is_prime(p)],
        "hard",
    )
    yield Draft(
        "totient",
        "How many of the numbers 1 to n have no common divisor with n but 1.",
        positive,
        "int",
        """
        let rec gcd a b = if b = 0 then a else gcd b (a mod b) in
        List.length (List.filter (fun k -> gcd n k = 1) (List.init n (fun i -> i + 1)))
        """,
        lambda n: sum(math.gcd(n, k) == 1 for k in range(1, n + 1)),
        "medium",
    )
    yield Draft(
        "is_perfect",
        "Whether a positive number equals the sum of its divisors other than itself.",
        {"n": ints(1, 40)},
        "bool",
        """
        let rec total d = if d >= n then 0 else (if n mod d = 0 then d else 0) + total (d + 1) in
        n > 1 && total 1 = n
        """,
        lambda n: sum(_divisors(n)[:-1]) == n,
        "medium",
        cases=[(6,), (8,), (28,), (496,), (1,), (12,)],
    )
    yield Draft(
        "collatz",
        "The number of steps until a positive number is 1: halve an even one, triple an odd one and add 1.",
        {"n": ints(1, 30, 1)},
        "int",
        "if n = 1 then 0 else 1 + collatz (if n mod 2 = 0 then n / 2 else (3 * n) + 1)",
        _collatz,
        "medium",
        rec=True,
    )
    yield Draft(
        "power_mod",
        "a to the power of n modulo m, for n that is not negative and m > 0, in steps of halving n.",
        {"a": ints(0, 30), "n": ints(0, 40), "m": ints(2, 50)},
        "int",
        """
        if n = 0 then 1 mod m
        else
          let half = power_mod a (n / 2) m in
          let square = half * half mod m in
          if n mod 2 = 0 then square else square * a mod m
        """,
        pow,
        "hard",
        rec=True,
        cases=[(2, 10, 1000), (3, 0, 7), (5, 3, 1)],
    )
    yield Draft(
        "isqrt",
        "The largest number whose square is not above n.",
        {"n": ints(0, 500, 0)},
        "int",
        """
        let rec search low high =
          if high - low <= 1 then low
          else
            let middle = (low + high) / 2 in
            if middle * middle <= n then search middle high else search low middle
        in
        search 0 (n + 1)
        """,
        math.isqrt,
        "medium",
    )
    yield Draft(
        "digital_root",
        "Add up the decimal digits of a number, again and again, until one digit is left.",
        {"n": ints(0, 99999, 0)},
        "int",
        """
        let rec sum n = if n = 0 then 0 else (n mod 10) + sum (n / 10) in
        if n < 10 then n else digital_root (sum n)
        """,
        lambda n: n and (n - 1) % 9 + 1,
        "medium",
        rec=True,
    )
    yield Draft(
        "reverse_digits",
        "A number with its decimal digits in reverse order, the sign kept.",
        {"n": ints(-999, 9999, 0)},
        "int",
        """
        let rec go acc n = if n = 0 then acc else go ((acc * 10) + (n mod 10)) (n / 10) in
        go 0 n
        """,
        lambda n: int(str(abs(n))[::-1]) * (-1 if n < 0 else 1),
        "medium",
    )
    yield Draft(
        "survivor",
        "n people, numbered from 0, stand in a circle; every k-th one leaves until one is left. Its number.",
        {"n": ints(1, 15), "k": ints(1, 5)},
        "int",
        "if n = 1 then 0 else (survivor (n - 1) k + k) mod n",
        _josephus,
        "hard",
        rec=True,
    )
    yield Draft(
        "pascal_row",
        "Row n of Pascal's triangle, row 0 being [1].",
        {"n": ints(0, 8, 0)},
        "int list",
        """
        let rec sums = function
          | a :: (b :: _ as rest) -> (a + b) :: sums rest
          | rest -> rest
        in
        if n = 0 then [1] else 1 :: sums (pascal_row (n - 1))
        """,
        lambda n: [math.comb(n, k) for k in range(n + 1)],
        "medium",
        rec=True,
    )
    yield Draft(
        "extended_gcd",
        "A triple (g, x, y) for two positive numbers, made by Euclid's algorithm, with a x + b y = g, their "
        "greatest common divisor; (a, 1, 0) where b is 0.",
        {"a": ints(1, 60), "b": ints(0, 60, 0)},
        "int * int * int",
        """
        if b = 0 then (a, 1, 0)
        else
          let (g, x, y) = extended_gcd b (a mod b) in
          (g, y, x - (a / b * y))
        """,
        _extended_gcd,
        "hard",
        rec=True,
    )
    yield Draft(
        "two_squares",
        "A pair (a, b) with a <= b and a * a + b * b = n and the smallest such a, if there is one.",
        {"n": ints(0, 60)},
        "(int * int) option",
        """
        let rec find a b =
          if 2 * a * a > n then None
          else
            let sum = (a * a) + (b * b) in
            if sum = n then Some (a, b) else if sum < n then find a (b + 1) else next (a + 1)
        and next a = find a a in
        next 0
        """,
        lambda n: next((some((a, b)) for a in range(9) for b in range(a, 9) if a * a + b * b == n), NONE),
        "hard",
    )
    yield Draft(
        "prefix_gcds",
        "For each position of an array the greatest common divisor of the numbers up to it.",
        {"a": array_of(ints(1, 40), longest=5)},
        "int array",
        """
        let rec gcd a b = if b = 0 then a else gcd b (a mod b) in
        let current = ref 0 in
        Array.map (fun x -> current := gcd !current x; !current) a
        """,
        lambda a: Array(math.gcd(*a[: i + 1]) for i in range(len(a))),
        "medium",
    )


def _extended_gcd(a: int, b: int) -> tuple[int, int, int]:
    x, y, next_x, next_y = 1, 0, 0, 1
    while b:
        quotient, a, b = a // b, b, a % b
        x, next_x = next_x, x - quotient * next_x
        y, next_y = next_y, y - quotient * next_y
    return a, x, y
