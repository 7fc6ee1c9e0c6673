"""Numbers as rows of bits."""

from collections.abc import Iterator

from cluster.problems.builtin.domains import NAT, ints, list_of
from cluster.problems.builtin.draft import Draft


def bits() -> Iterator[Draft]:
    """Numbers as rows of bits."""
    for k in range(6):
        yield _test_bit(k)
        yield _flip_bit(k)
        yield _shift_left(k + 1)
        yield _shift_right(k + 1)
    for mask in (3, 7, 5, 12, 15, 9, 6, 31):
        yield _masked(mask)
        yield _mixed(mask)
    yield from _bit_algorithms()


def _test_bit(k: int) -> Draft:
    about = f"Whether bit {k} of a number is set, bit 0 being the lowest."
    body = f"(n lsr {k}) land 1 = 1"
    return Draft("bit_set", about, {"n": ints(0, 127)}, "bool", body, lambda n: n >> k & 1 == 1)


def _flip_bit(k: int) -> Draft:
    about = f"A number with bit {k} flipped, bit 0 being the lowest."
    return Draft("flip_bit", about, {"n": ints(0, 127)}, "int", f"n lxor (1 lsl {k})", lambda n: n ^ 1 << k)


def _shift_left(k: int) -> Draft:
    about = f"A number with its bits shifted left by {k}."
    return Draft("shift_left", about, {"n": ints(0, 50)}, "int", f"n lsl {k}", lambda n: n << k)


def _shift_right(k: int) -> Draft:
    about = f"A number with its lowest {k} bits cut off."
    return Draft("shift_right", about, {"n": ints(0, 900)}, "int", f"n lsr {k}", lambda n: n >> k)


def _masked(mask: int) -> Draft:
    about = f"The bits that a number has in common with {mask}."
    return Draft("common_bits", about, {"n": ints(0, 63)}, "int", f"n land {mask}", lambda n: n & mask)


def _mixed(mask: int) -> Draft:
    about = f"All bits of two numbers together, without those of {mask}."
    params = {"a": ints(0, 63), "b": ints(0, 63)}
    return Draft("other_bits", about, params, "int", f"(a lor b) land lnot {mask}", lambda a, b: (a | b) & ~mask)


def _bit_algorithms() -> Iterator[Draft]:
    yield Draft(
        "popcount",
        "The number of set bits of a number that is not negative.",
        {"n": ints(0, 1000, 0)},
        "int",
        "if n = 0 then 0 else (n land 1) + popcount (n lsr 1)",
        lambda n: n.bit_count(),
        "medium",
        rec=True,
    )
    yield Draft(
        "gray_code",
        "The n-th number of the reflected Gray code.",
        {"n": ints(0, 200, 0)},
        "int",
        "n lxor (n lsr 1)",
        lambda n: n ^ n >> 1,
        "medium",
    )
    yield Draft(
        "from_gray",
        "The position at which a number stands in the reflected Gray code.",
        {"g": ints(0, 200, 0)},
        "int",
        """
        let rec go acc g = if g = 0 then acc else go (acc lxor g) (g lsr 1) in
        go 0 g
        """,
        lambda g: next(n for n in range(512) if n ^ n >> 1 == g),
        "hard",
    )
    yield Draft(
        "to_binary",
        'The binary digits of a number that is not negative, "0" for 0.',
        {"n": ints(0, 99, 0)},
        "string",
        """
        let digit n = string_of_int (n land 1) in
        if n < 2 then digit n else to_binary (n lsr 1) ^ digit n
        """,
        lambda n: f"{n:b}",
        "medium",
        rec=True,
    )
    yield Draft(
        "reverse_byte",
        "A number from 0 to 255 with its eight bits in reverse order.",
        {"n": ints(0, 255)},
        "int",
        """
        let rec go i acc n =
          if i = 0 then acc else go (i - 1) ((acc lsl 1) lor (n land 1)) (n lsr 1)
        in
        go 8 0 n
        """,
        lambda n: int(f"{n:08b}"[::-1], 2),
        "medium",
    )
    yield Draft(
        "lonely",
        "The one number that stands an odd number of times in a list; all others stand there twice.",
        {"xs": list_of(NAT)},
        "int",
        "List.fold_left (fun acc x -> acc lxor x) 0 xs",
        lambda xs: next((x for x in xs if xs.count(x) % 2), 0),
        "medium",
        cases=[
            ([4, 7, 4],),
            ([2, 2, 9],),
            ([5],),
            ([1, 3, 8, 3, 1],),
            ([6, 0, 6],),
            ([11, 12, 13, 12, 11],),
            ([20, 1, 1, 30, 30],),
        ],
    )
    yield Draft(
        "hamming",
        "In how many bits two numbers differ.",
        {"a": ints(0, 255), "b": ints(0, 255)},
        "int",
        """
        let rec count n = if n = 0 then 0 else 1 + count (n land (n - 1)) in
        count (a lxor b)
        """,
        lambda a, b: (a ^ b).bit_count(),
        "medium",
    )
    yield Draft(
        "subset_masks",
        "All numbers whose set bits are among those of a mask, in ascending order.",
        {"mask": ints(0, 21, 0)},
        "int list",
        "List.filter (fun n -> n land mask = n) (List.init (mask + 1) (fun n -> n))",
        lambda mask: [n for n in range(mask + 1) if n & mask == n],
        "medium",
    )
    yield Draft(
        "next_power",
        "The smallest power of two that is not below a positive number.",
        {"n": ints(1, 600, 1)},
        "int",
        """
        let rec go p = if p >= n then p else go (p * 2) in
        go 1
        """,
        lambda n: 1 << (n - 1).bit_length(),
        "medium",
    )
