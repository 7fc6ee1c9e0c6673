"""Python values for OCaml values, and their OCaml spelling.

Plain Python values stand for ``int``, ``bool``, ``string``, lists and tuples. The classes here stand for what Python lacks.
They behave like the value that a Python reference computes with: a ``Char`` is a str, an ``Array`` a list, a ``Record`` has
attributes.
"""

from dataclasses import dataclass


class Char(str):
    """One OCaml ``char``."""

    __slots__ = ()


class Array(list[object]):
    """An OCaml ``array``."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Con:
    """A constructor with its arguments, if any."""

    name: str
    args: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """A record; fields are read as attributes."""

    fields: tuple[tuple[str, object], ...]

    def __getattr__(self, name: str) -> object:
        for field, value in object.__getattribute__(self, "fields"):
            if field == name:
                return value
        raise AttributeError(name)


NONE = Con("None")


def some(value: object) -> Con:
    """Return ``Some value``."""
    return Con("Some", (value,))


def con(name: str, *args: object) -> Con:
    """Return a constructor with its arguments."""
    return Con(name, args)


def record(**fields: object) -> Record:
    """Return a record with these fields in this order."""
    return Record(tuple(fields.items()))


def ocaml(value: object) -> str:
    """Return a value as an OCaml expression for the right side of ``=`` or a list element."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Char):
        return f"'{_escaped(value, quote=chr(39))}'"
    if isinstance(value, str):
        return f'"{_escaped(value, quote=chr(34))}"'
    if isinstance(value, Array):
        return f"[|{'; '.join(map(ocaml, value))}|]"
    if isinstance(value, list):
        return f"[{'; '.join(map(ocaml, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(ocaml, value))})"
    if isinstance(value, Record):
        return "{ " + "; ".join(f"{name} = {ocaml(field)}" for name, field in value.fields) + " }"
    if isinstance(value, Con):
        return _construction(value)
    raise TypeError(f"no OCaml spelling for {value!r}")


def argument(value: object) -> str:
    """Return a value as an OCaml argument: in parentheses where it needs them."""
    text = ocaml(value)
    applied = isinstance(value, Con) and bool(value.args)
    return f"({text})" if applied or text.startswith("-") else text


def _construction(value: Con) -> str:
    if not value.args:
        return value.name
    if len(value.args) == 1:
        return f"{value.name} {argument(value.args[0])}"
    return f"{value.name} ({', '.join(map(ocaml, value.args))})"


def _escaped(text: str, *, quote: str) -> str:
    return "".join({"\\": "\\\\", quote: f"\\{quote}", "\n": "\\n", "\t": "\\t"}.get(char, char) for char in text)
