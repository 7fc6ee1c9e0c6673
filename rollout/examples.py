"""Solved examples for few-shot prompts: the built-in ones, and those of a file."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from cluster.types import Problem
from rollout.text_file import read_text_file


class Example(BaseModel):
    """A solved problem for few-shot prompts."""

    # Rows of a data set may have further columns.
    model_config = ConfigDict(frozen=True, extra="ignore")

    prompt: str
    """The statement and the signature, as in a data set."""
    solution: str
    """The whole definition, from its signature on."""

    @field_validator("prompt", "solution")
    @classmethod
    def _has_text(cls, text: str) -> str:
        stripped = text.replace("\r\n", "\n").rstrip().lstrip("\n")
        if not stripped:
            raise ValueError("is empty")
        return stripped

    @property
    def signature(self) -> str:
        """The last line of the prompt if the solution begins with it, else the first line of the solution."""
        last = self.prompt.rpartition("\n")[2].strip()
        return last if self.solution.startswith(last) else self.solution.partition("\n")[0]

    @property
    def statement(self) -> str:
        """The prompt without the signature."""
        before, _, last = self.prompt.rpartition("\n")
        return before if last.strip() == self.signature else self.prompt

    def as_problem(self) -> Problem:
        """Return the example as a problem without tests, on which a prompt template is tried."""
        return Problem(id="example", statement=self.statement, signature=self.signature, tests="")

    def fields(self) -> dict[str, str]:
        """Return the fields of an example in a prompt template."""
        return {
            "prompt": self.prompt,
            "statement": self.statement,
            "signature": self.signature,
            "solution": self.solution,
        }


BUILT_IN_EXAMPLES = (
    Example(
        prompt="(** Sum of the squares of the even numbers of a list.\n"
        " * >>> sum_even_squares [1; 2; 3; 4]\n * 20\n *)\n"
        "let sum_even_squares (numbers : int list) : int =",
        solution="let sum_even_squares (numbers : int list) : int =\n"
        "  List.fold_left\n    (fun total n -> if n mod 2 = 0 then total + (n * n) else total)\n    0 numbers",
    ),
    Example(
        prompt="(** The longest word of a sentence, the first one where several are as long; None without words.\n"
        ' * >>> longest_word "a quiet river"\n * Some "quiet"\n *)\n'
        "let longest_word (sentence : string) : string option =",
        solution="let longest_word (sentence : string) : string option =\n"
        "  let longer best word =\n    match best with\n"
        "    | Some found when String.length found >= String.length word -> best\n    | _ -> Some word\n  in\n"
        "  String.split_on_char ' ' sentence\n  |> List.filter (fun word -> word <> \"\")\n  |> List.fold_left longer None",
    ),
    Example(
        prompt="(** Replace every run of equal neighbours by one of them.\n"
        " * >>> squeeze [1; 1; 2; 1]\n * [1; 2; 1]\n *)\n"
        "let rec squeeze (items : int list) : int list =",
        solution="let rec squeeze (items : int list) : int list =\n"
        "  match items with\n  | first :: (second :: _ as rest) when first = second -> squeeze rest\n"
        "  | first :: rest -> first :: squeeze rest\n  | [] -> []",
    ),
)


def read_examples(path: Path) -> list[dict[str, str]]:
    """Read a JSONL file of examples, without further columns. Raises ValueError, which names the line and the cause."""
    try:
        lines = read_text_file(path).split("\n")
    except ValueError as error:
        raise ValueError(f"cannot be read: {error} (in {Path.cwd()})") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} is not JSON ({error}): give one object per line (JSONL)") from None
        try:
            found.append(Example.model_validate(row).model_dump())
        except ValidationError as error:
            problem = error.errors()[0]
            name = ".".join(map(str, problem["loc"])) or "the row"
            cause = str(problem["msg"]).removeprefix("Value error, ")
            raise ValueError(f"line {number}: {name}: {cause}; a row has the texts `prompt` and `solution`") from None
    if not found:
        raise ValueError("has no row")
    return found
