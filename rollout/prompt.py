"""Problem -> token ids, the way the model will read it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cluster.types import Problem, Prompt, PromptTooLong

END_MARKER = "(* END *)"

INSTRUCTION = (
    "Solve the problem in OCaml. Reply with code only: no explanation, no Markdown. "
    f"Use nothing but the standard library. End with {END_MARKER}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A solved problem shown before the real one."""

    prompt: str
    body: str


FEW_SHOT_EXAMPLES = (
    Example(
        prompt="(** Sum of the squares of the even numbers of a list.\n"
        " * >>> sum_even_squares [1; 2; 3; 4]\n * 20\n *)\n"
        "let sum_even_squares (numbers : int list) : int =",
        body="  List.fold_left\n    (fun total n -> if n mod 2 = 0 then total + (n * n) else total)\n    0 numbers",
    ),
    Example(
        prompt="(** The longest word of a sentence, the first one where several are as long; None without words.\n"
        ' * >>> longest_word "a quiet river"\n * Some "quiet"\n *)\n'
        "let longest_word (sentence : string) : string option =",
        body="  let longer best word =\n    match best with\n"
        "    | Some found when String.length found >= String.length word -> best\n    | _ -> Some word\n  in\n"
        "  String.split_on_char ' ' sentence\n  |> List.filter (fun word -> word <> \"\")\n  |> List.fold_left longer None",
    ),
    Example(
        prompt="(** Replace every run of equal neighbours by one of them.\n"
        " * >>> squeeze [1; 1; 2; 1]\n * [1; 2; 1]\n *)\n"
        "let rec squeeze (items : int list) : int list =",
        body="  match items with\n  | first :: (second :: _ as rest) when first = second -> squeeze rest\n"
        "  | first :: rest -> first :: squeeze rest\n  | [] -> []",
    ),
)


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that rendering needs."""

    chat_template: str | None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text."""
        ...

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        """The conversation in the model's own format."""
        ...


def render(problem: Problem, tokenizer: Tokenizer, *, num_few_shot: int, max_prompt_tokens: int) -> Prompt:
    """Render a problem, with the chat template where the tokenizer has one, else as a text to be continued.

    Raises PromptTooLong where it takes more than ``max_prompt_tokens`` tokens; a prompt is never cut.
    """
    examples = FEW_SHOT_EXAMPLES[:num_few_shot]
    has_template = bool(tokenizer.chat_template)
    if has_template:
        text = tokenizer.apply_chat_template(
            [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": question(problem, examples)}],
            tokenize=False,
            add_generation_prompt=True,
        )
    else:
        text = continuation(problem, examples)
    # A chat template writes its special tokens as text, and the tokenizer's own would double them; a text to be
    # continued needs them (Llama's begin-of-text, for one).
    token_ids = tokenizer.encode(text, add_special_tokens=not has_template)
    if len(token_ids) > max_prompt_tokens:
        raise PromptTooLong(
            f"the prompt of problem {problem.id!r} takes {len(token_ids)} tokens, "
            f"more than rollout.max_prompt_tokens={max_prompt_tokens}"
        )
    return Prompt(problem_id=problem.id, text=text, token_ids=tuple(token_ids))


def question(problem: Problem, examples: Sequence[Example]) -> str:
    """What a chat model is asked: solved examples, then the problem; it repeats the signature in its answer."""
    shown = "".join(f"Problem:\n{example.prompt}\n\nAnswer:\n{_answer(example)}\n\n" for example in examples)
    return f"{shown}Problem:\n{problem.prompt}\n\nAnswer with the whole definition, from its `let` on."


def continuation(problem: Problem, examples: Sequence[Example]) -> str:
    """What a base model continues: the signature comes last, so that the completion is the body."""
    shown = "".join(f"{example.prompt}\n{example.body}\n{END_MARKER}\n\n" for example in examples)
    return f"(* {INSTRUCTION.replace(END_MARKER, 'END')} *)\n\n{shown}{problem.prompt}\n"


def _answer(example: Example) -> str:
    signature = example.prompt.rsplit("*)\n", 1)[-1]
    return f"{signature}\n{example.body}\n{END_MARKER}"
