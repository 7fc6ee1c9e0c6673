"""Jinja templates over the fields of a problem, and Caravan's own two templates."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cluster.types import Problem
from rollout.examples import Example
from rollout.template_errors import TemplateFailure, checked, template_limits, where_and_why
from rollout.text_file import read_text_file
from rollout.tokenizer import contains

END_MARKER = "(* END *)"
MAX_SHOWN_CHARS = 200  # of a template in a message
MAX_FACTOR = 1_000_000
MAX_EXPONENT = 64

INSTRUCTION = (
    "Solve the problem in OCaml. Reply with code only: no explanation, no Markdown. "
    f"Use nothing but the standard library. End with {END_MARKER}"
)

QUESTION = """\
{% for example in examples %}
Problem:
{{ example.prompt }}

Answer:
{{ example.solution }}
{{ end_marker }}

{% endfor %}
Problem:
{{ prompt }}

Answer with the whole definition, from its `let` on.
"""
"""The user turn for a chat template."""

CONTINUATION = """\
{% if system %}
(* {{ system | replace(end_marker, 'END') }} *)

{% endif %}
{% for example in examples %}
{% if example.statement %}
{{ example.statement }}
{% endif %}
{{ example.solution }}
{{ end_marker }}

{% endfor %}
{{ prompt }}

"""
"""The text that a model continues without a chat template. It ends in the signature, so the completion is the body."""

FIELDS: Mapping[str, str] = {
    "prompt": "statement and signature, one after the other",
    "statement": "the OCaml doc comment with its examples, and type definitions before the signature",
    "signature": "the first line of the definition: let rec gcd (a : int) (b : int) : int =",
    "id": "the problem's id",
    "difficulty": "the problem's difficulty; none if the data set has none",
    "system": "the instruction: prompt.system, or Caravan's own. A template that writes it leaves no system message",
    "examples": "prompt.num_few_shot solved examples, each with prompt, statement, signature and solution",
    "end_marker": f"{END_MARKER}, the text that ends an answer",
}
"""Field of a prompt template -> meaning. Tests and reference solutions are no fields: a model never sees them."""

_HIDDEN = ("tests", "solution")


class PromptTemplate:
    """A Jinja template that renders a problem."""

    def __init__(self, text: str) -> None:
        """Raises TemplateFailure, with the line, for a syntax error or an unknown field."""
        environment = _environment()
        try:
            tree = environment.parse(text)
            self._template = environment.from_string(text)
        except TemplateSyntaxError as error:
            raise TemplateFailure(f"line {error.lineno}: {error.message}") from None
        except Exception as error:  # noqa: BLE001 - Python's own limits on nesting, and constants that Jinja computes
            raise TemplateFailure(where_and_why(error)) from None
        names = meta.find_undeclared_variables(tree) - environment.globals.keys()
        self.fields = frozenset(names)
        """Names of the fields that the template uses."""
        if unknown := names - FIELDS.keys():
            first = next(node for node in tree.find_all(nodes.Name) if node.name in unknown and node.ctx == "load")
            why = "a model never sees it" if first.name in _HIDDEN else f"the fields are {', '.join(FIELDS)}"
            raise TemplateFailure(f"line {first.lineno}: there is no field {first.name!r}: {why}")

    def render(self, problem: Problem, *, system: str, examples: Sequence[Example]) -> str:
        """Return the text for a problem. Raises TemplateFailure if the template fails for it."""
        values: dict[str, Any] = {
            "prompt": problem.prompt,
            "statement": problem.statement,
            "signature": problem.signature,
            "id": problem.id,
            "difficulty": problem.difficulty,
            "system": system,
            "examples": [_without_end_marker(example.fields()) for example in examples],
            "end_marker": END_MARKER,
        }
        with template_limits():
            return checked(self._template.render(values))


def _without_end_marker(fields: dict[str, str]) -> dict[str, str]:
    """Remove the end marker from an example's solution: templates write one after it."""
    return {**fields, "solution": fields["solution"].removesuffix(END_MARKER).rstrip()}


def read_template(template: str) -> str:
    """Return a template's text: the argument itself if it has Jinja's braces, else the content of the file that it names.

    Raises ValueError for a file that cannot be read or has no Jinja.
    """
    if is_template(template):
        return template
    try:
        text = read_text_file(Path(template))
    except ValueError as error:
        shown = template if len(template) <= MAX_SHOWN_CHARS else f"{template[:MAX_SHOWN_CHARS]}..."
        raise ValueError(
            f"{shown!r} is neither a template, which would hold {{{{ prompt }}}}, nor a file that can be read: {error} "
            f"(in {Path.cwd()})"
        ) from None
    if not is_template(text):
        raise ValueError(f"the file {template} holds no {{{{ prompt }}}}: every prompt would be the same text")
    return text


def is_template(text: str) -> bool:
    """Return True for a text with Jinja's braces."""
    return "{{" in text or "{%" in text


def has_problem(text: str, problem: Problem) -> bool:
    """Return True if a prompt contains the problem's statement; its signature, if it has no statement."""
    return contains(text, problem.statement or problem.signature)


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox without computations that no signal interrupts, such as ``9 ** (9 ** 9)``."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute a product or a power; prompts need small ones."""
        numbers = [value for value in (left, right) if isinstance(value, int | float)]
        is_small = all(abs(value) <= MAX_FACTOR for value in numbers)
        if not is_small or (operator == "**" and not all(abs(value) <= MAX_EXPONENT for value in numbers[-1:])):
            raise SecurityError(f"the operands of {operator} are too large")
        return super().call_binop(context, operator, left, right)


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    """The environment of prompt templates, with the same white-space rules as that of chat templates."""
    environment = _Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    del environment.filters["random"], environment.globals["lipsum"]  # a problem has one prompt
    return environment
