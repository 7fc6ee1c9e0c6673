"""From text to values, and back."""

import re
from collections.abc import Iterator
from random import Random

from cluster.problems.builtin.domains import WORD, Domain, ints, text
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.values import NONE, Con, some

ROMAN = (
    (1000, "M"),
    (900, "CM"),
    (500, "D"),
    (400, "CD"),
    (100, "C"),
    (90, "XC"),
    (50, "L"),
    (40, "XL"),
    (10, "X"),
    (9, "IX"),
    (5, "V"),
    (4, "IV"),
    (1, "I"),
)


def _to_roman(n: int) -> str:
    written = ""
    for value, letters in ROMAN:
        while n >= value:
            written, n = written + letters, n - value
    return written


_ROMANS = Domain(type="string", draw=lambda rng: _to_roman(rng.randint(1, 399)))


def parsing() -> Iterator[Draft]:
    """From text to values, and back."""
    for mark in ("=", ":", "->", "@"):
        yield _key_value(mark)
    for k in (60, 100, 12, 16):
        yield _two_parts(k)
    yield Draft(
        "to_roman",
        "A number from 1 to 3999 in Roman numerals.",
        {"n": ints(1, 399)},
        "string",
        """
        let steps =
          [ (1000, "M"); (900, "CM"); (500, "D"); (400, "CD"); (100, "C"); (90, "XC"); (50, "L");
            (40, "XL"); (10, "X"); (9, "IX"); (5, "V"); (4, "IV"); (1, "I") ]
        in
        let rec go n = function
          | [] -> ""
          | (value, letters) :: rest as steps ->
            if n >= value then letters ^ go (n - value) steps else go n rest
        in
        go n steps
        """,
        _to_roman,
        "hard",
    )
    yield Draft(
        "from_roman",
        "The value of a Roman numeral.",
        {"s": _ROMANS},
        "int",
        """
        let value = function
          | 'I' -> 1 | 'V' -> 5 | 'X' -> 10 | 'L' -> 50 | 'C' -> 100 | 'D' -> 500 | 'M' -> 1000 | _ -> 0
        in
        let n = String.length s in
        let rec go i =
          if i = n then 0
          else
            let v = value s.[i] in
            if i + 1 < n && v < value s.[i + 1] then go (i + 1) - v else go (i + 1) + v
        in
        go 0
        """,
        lambda s: next(n for n in range(400) if _to_roman(n) == s),
        "hard",
    )
    yield Draft(
        "read_time",
        'The minutes since midnight of a time written as "hours:minutes"; None where it is no such time.',
        {"s": Domain(type="string", draw=lambda rng: f"{rng.randint(0, 28)}:{rng.randint(0, 70):02d}")},
        "int option",
        """
        match List.map int_of_string_opt (String.split_on_char ':' s) with
        | [Some hours; Some minutes] when hours >= 0 && hours < 24 && minutes >= 0 && minutes < 60 ->
          Some ((hours * 60) + minutes)
        | _ -> None
        """,
        _read_time,
        "hard",
        cases=[("7:30",), ("24:00",), ("12",), ("x:10",), ("23:59",)],
    )
    yield Draft(
        "words",
        "The words of a text, which one space or more separate.",
        {"s": text("ab  ", 8)},
        "string list",
        "List.filter (fun w -> w <> \"\") (String.split_on_char ' ' s)",
        str.split,
        "medium",
    )
    yield Draft(
        "numbers_in",
        "All numbers that stand in a text as runs of digits.",
        {"s": text("0123ab -", 8)},
        "int list",
        """
        let spaced = String.map (fun c -> if c >= '0' && c <= '9' then c else ' ') s in
        List.filter_map int_of_string_opt (String.split_on_char ' ' spaced)
        """,
        lambda s: list(map(int, re.findall("[0-9]+", s))),
        "medium",
    )
    yield Draft(
        "from_binary",
        "The value of a string of binary digits; None where it is empty or has another character.",
        {"s": text("01", 6)},
        "int option",
        """
        let digit acc c =
          match acc, c with
          | Some n, '0' -> Some (2 * n)
          | Some n, '1' -> Some ((2 * n) + 1)
          | _ -> None
        in
        if s = "" then None else String.fold_left digit (Some 0) s
        """,
        lambda s: some(int(s, 2)) if s and set(s) <= set("01") else NONE,
        "medium",
        cases=[("101",), ("12",), ("abc",), ("11111",)],
    )
    yield Draft(
        "tokens",
        "The tokens of a formula: numbers, and single characters for all else but spaces.",
        {"s": text("12+-() 3", 7)},
        "string list",
        """
        let n = String.length s in
        let is_digit i = i < n && s.[i] >= '0' && s.[i] <= '9' in
        let rec go i =
          if i >= n then []
          else if s.[i] = ' ' then go (i + 1)
          else
            let rec stop j = if is_digit j then stop (j + 1) else j in
            let j = max (i + 1) (stop i) in
            String.sub s i (j - i) :: go j
        in
        go 0
        """,
        lambda s: re.findall("[0-9]+|[^ ]", s),
        "hard",
    )
    yield Draft(
        "calculate",
        "The value of a formula of one-digit numbers, +, * and round brackets, without spaces; * binds tighter.",
        {"s": _formulas()},
        "int",
        """
        let rec sum i =
          let (a, i) = product i in
          if i < String.length s && s.[i] = '+' then
            let (b, i) = sum (i + 1) in
            (a + b, i)
          else (a, i)
        and product i =
          let (a, i) = atom i in
          if i < String.length s && s.[i] = '*' then
            let (b, i) = product (i + 1) in
            (a * b, i)
          else (a, i)
        and atom i =
          if s.[i] = '(' then
            let (a, i) = sum (i + 1) in
            (a, i + 1)
          else (Char.code s.[i] - Char.code '0', i + 1)
        in
        fst (sum 0)
        """,
        lambda s: eval(s, {"__builtins__": {}}),
        "hard",  # the formulas are made by _formulas
        cases=[("2+3*4",), ("(2+3)*4",), ("7",), ("2*3+4",)],
    )
    yield Draft(
        "read_pairs",
        'A list of pairs from a text like "a=1;b=2"; parts of another form are left out.',
        {
            "s": Domain(
                type="string",
                draw=lambda rng: ";".join(
                    rng.choice(("a=1", "b=25", "cd=7", "e", "f=x", "g=0")) for _ in range(rng.randint(1, 4))
                ),
                edges=("",),
            )
        },
        "(string * int) list",
        """
        let read part =
          match String.split_on_char '=' part with
          | [key; value] -> Option.map (fun n -> (key, n)) (int_of_string_opt value)
          | _ -> None
        in
        List.filter_map read (String.split_on_char ';' s)
        """,
        lambda s: [(m[1], int(m[2])) for part in s.split(";") if (m := re.fullmatch("([^=]*)=([0-9]+)", part))],
        "hard",
    )
    yield Draft(
        "camel",
        "A name in camel case from words separated by '_': the first word as it is, each other one with a capital.",
        {"s": Domain(type="string", draw=lambda rng: "_".join(str(WORD.draw(rng)) for _ in range(rng.randint(1, 3))))},
        "string",
        """
        match String.split_on_char '_' s with
        | [] -> ""
        | first :: rest -> String.concat "" (first :: List.map String.capitalize_ascii rest)
        """,
        lambda s: re.sub("_(.)", lambda m: m[1].upper(), s),
        "medium",
    )
    yield Draft(
        "snake",
        "A name in camel case as words in lower case with '_' between them.",
        {
            "s": Domain(
                type="string",
                draw=lambda rng: "".join(
                    [str(WORD.draw(rng)), *(str(WORD.draw(rng)).capitalize() for _ in range(rng.randint(0, 2)))]
                ),
            )
        },
        "string",
        """
        let letter c =
          if c >= 'A' && c <= 'Z' then "_" ^ String.make 1 (Char.lowercase_ascii c) else String.make 1 c
        in
        String.concat "" (List.map letter (List.of_seq (String.to_seq s)))
        """,
        lambda s: re.sub("[A-Z]", lambda m: "_" + m[0].lower(), s),
        "medium",
    )


def _key_value(mark: str) -> Draft:
    about = f'The parts of a string before and after the first "{mark}", if there is one.'
    size = len(mark)
    found = " && ".join(f"s.[i + {i}] = '{c}'" if i else f"s.[i] = '{c}'" for i, c in enumerate(mark))
    body = f"""
    let n = String.length s in
    let rec find i =
      if i + {size} > n then None
      else if {found} then Some (String.sub s 0 i, String.sub s (i + {size}) (n - i - {size}))
      else find (i + 1)
    in
    find 0
    """
    return Draft(
        "cut",
        about,
        {"s": text(f"ab{mark}", 6)},
        "(string * string) option",
        body,
        lambda s: some(tuple(s.split(mark, 1))) if mark in s else NONE,
        "hard",
        cases=[(f"a{mark}b",), ("abc",), (f"x{mark}y{mark}z",), (f"{mark}end",)],
    )


def _two_parts(k: int) -> Draft:
    about = f'A number as "a:b", where a counts the whole times that {k} goes into it and b is the rest.'
    body = f'string_of_int (n / {k}) ^ ":" ^ string_of_int (n mod {k})'
    return Draft("show_parts", about, {"n": ints(0, 500)}, "string", body, lambda n: f"{n // k}:{n % k}")


def _read_time(s: str) -> Con:
    match = re.fullmatch("([0-9]+):([0-9]+)", s)
    if not match or int(match[1]) > 23 or int(match[2]) > 59:
        return NONE
    return some(int(match[1]) * 60 + int(match[2]))


def _formulas() -> Domain:
    def formula(rng: Random, depth: int) -> str:
        if depth == 0:
            return str(rng.randint(0, 9))
        joined = formula(rng, depth - 1) + rng.choice("+*") + formula(rng, rng.randint(0, depth - 1))
        return f"({joined})" if rng.random() < 0.4 else joined

    return Domain(type="string", draw=lambda rng: formula(rng, rng.randint(1, 2)))
