"""Rendering of problems as prompts, text and token ids."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from cluster.errors import ModelError, PromptIncomplete, PromptTooLong
from cluster.types import Problem, Prompt
from rollout.chat_template import ChatTemplate, TemplateFailure
from rollout.tokenizer import (
    PromptEncoder,
    Tokenizer,
    contains,
    keeps,
    marks_thoughts_by_special_tokens,
    special_tokens,
)

END_MARKER = "(* END *)"

INSTRUCTION = (
    "Solve the problem in OCaml. Reply with code only: no explanation, no Markdown. "
    f"Use nothing but the standard library. End with {END_MARKER}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A solved problem for few-shot prompts."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedPrompts:
    """Prompts of problems, and one line per problem without a prompt."""

    prompts: Mapping[str, Prompt]  # by problem id
    too_long: Sequence[str]
    incomplete: Sequence[str]  # problems of which the chat template or the tokenizer loses text
    notes: Sequence[str]  # log lines about the tokenizer and its chat template
    special_tokens: tuple[str, ...]  # tokens that completions may contain as characters


class PromptRenderer:
    """Renders problems for one tokenizer: with its chat template if it has one, else as a text to continue."""

    def __init__(self, tokenizer: Tokenizer, *, num_few_shot: int, max_prompt_tokens: int, today: date) -> None:
        """Test the tokenizer on an example. ``today`` is the date that a chat template may write.

        Raises ModelError, with one line, if the tokenizer or its chat template cannot be used.
        """
        self._examples = FEW_SHOT_EXAMPLES[:num_few_shot]
        self._max_prompt_tokens = max_prompt_tokens
        probe = _problem_of(FEW_SHOT_EXAMPLES[0])
        self._template: ChatTemplate | None = None
        if tokenizer.chat_template:
            self._template = ChatTemplate(
                tokenizer, instruction=INSTRUCTION, probe=question(probe, self._examples), today=today
            )
        self._encoder = PromptEncoder(tokenizer, is_chat=self._template is not None)
        self._keeps_special_tokens = marks_thoughts_by_special_tokens(tokenizer)
        self._special_tokens = special_tokens(tokenizer)
        text = self._text(probe)
        self.notes = (*(self._template.notes if self._template else ()), *self._encoder.notes(text))
        """Log lines about the adjustments for this tokenizer."""
        try:
            self._check_kept(probe, self._encoder.encode(text))
        except PromptIncomplete as error:
            raise ModelError(
                f"its tokenizer cannot be used: {error}. Use the tokenizer that the model was trained with; if "
                "tokenizer_config.json names a tokenizer_class that reads tokenizer.json in its own way (LlamaTokenizer), write "
                "PreTrainedTokenizerFast there"
            ) from None

    def render_all(self, problems: Iterable[Problem]) -> RenderedPrompts:
        """Render problems, and list those whose prompt is too long or incomplete."""
        prompts: dict[str, Prompt] = {}
        too_long: list[str] = []
        incomplete: list[str] = []
        for problem in problems:
            try:
                prompts[problem.id] = self.render(problem)
            except PromptTooLong as error:
                too_long.append(str(error))
            except PromptIncomplete as error:
                incomplete.append(str(error))
        return RenderedPrompts(
            prompts=prompts,
            too_long=too_long,
            incomplete=incomplete,
            notes=self.notes,
            special_tokens=self._special_tokens,
        )

    def render(self, problem: Problem) -> Prompt:
        """Render a problem; prompts are never truncated.

        Raises PromptTooLong for too many tokens, PromptIncomplete for a prompt without some of the problem's text.
        """
        try:
            text = self._text(problem)
        except TemplateFailure as failure:
            raise PromptIncomplete(f"the chat template fails at problem {problem.id!r}: {failure}") from None
        if not contains(text, problem.prompt):
            raise PromptIncomplete(f"the chat template omits some of the text of problem {problem.id!r}")
        token_ids = self._encoder.encode(text)
        if len(token_ids) > self._max_prompt_tokens:
            raise PromptTooLong(
                f"the prompt of problem {problem.id!r} has {len(token_ids)} tokens, "
                f"more than rollout.max_prompt_tokens={self._max_prompt_tokens}"
            )
        self._check_kept(problem, token_ids)
        return Prompt(
            problem_id=problem.id,
            text=text,
            token_ids=tuple(token_ids),
            opened_thought=self._template.opened_thought if self._template else "",
            keeps_special_tokens=self._keeps_special_tokens,
        )

    def _text(self, problem: Problem) -> str:
        if self._template is None:
            return continuation(problem, self._examples)
        return self._template.render(question(problem, self._examples))

    def _check_kept(self, problem: Problem, token_ids: list[int]) -> None:
        """Raise PromptIncomplete if the tokens decode to another text: lower case, or unknown characters."""
        decoded = self._encoder.decode(token_ids)
        if not keeps(decoded, problem.prompt):
            lost = next((word for word in problem.prompt.split() if not keeps(decoded, word)), problem.prompt[:40])
            raise PromptIncomplete(f"the tokens do not decode to {lost!r} of problem {problem.id!r}")


def _problem_of(example: Example) -> Problem:
    statement, _, signature = example.prompt.rpartition("\n")
    return Problem(id="example", statement=statement, signature=signature, tests="")


def question(problem: Problem, examples: Sequence[Example]) -> str:
    """Build the question for a chat model: solved examples, then the problem; the answer repeats the signature."""
    shown = "".join(f"Problem:\n{example.prompt}\n\nAnswer:\n{_answer(example)}\n\n" for example in examples)
    return f"{shown}Problem:\n{problem.prompt}\n\nAnswer with the whole definition, from its `let` on."


def continuation(problem: Problem, examples: Sequence[Example]) -> str:
    """Build the text that a base model continues: it ends in the signature, so the completion is the body."""
    shown = "".join(f"{example.prompt}\n{example.body}\n{END_MARKER}\n\n" for example in examples)
    return f"(* {INSTRUCTION.replace(END_MARKER, 'END')} *)\n\n{shown}{problem.prompt}\n"


def _answer(example: Example) -> str:
    signature = example.prompt.rsplit("*)\n", 1)[-1]
    return f"{signature}\n{example.body}\n{END_MARKER}"
