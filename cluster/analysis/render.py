"""HTML of the report and the dashboard: Jinja templates with autoescape.

Completions are hostile programs. Three rules hold for every page because they are applied here: values are escaped, a missing
value is an error, and invisible characters and characters that change the direction of text are replaced.
"""

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers.ml import OcamlLexer

MAX_HIGHLIGHTED_LINE = 1000
"""Characters. Longer lines are not programs, and the lexer takes time quadratic in the length of a line."""

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"
)
_FORMATTER = HtmlFormatter(nowrap=True)


def render(template: str, **context: object) -> str:
    """Render a page; raises jinja2.UndefinedError if the template needs a value that ``context`` does not have."""
    return _visible(_ENVIRONMENT.get_template(template).render(context))


def format_number(value: float | None, spec: str = ".3f") -> str:
    """Format a number by a Python format spec; None becomes a dash."""
    return "\N{EN DASH}" if value is None else f"{value:{spec}}"


def highlighted_lines(program: str) -> list[Markup]:
    """Split an OCaml program into lines of HTML with syntax highlighting; each line is well-formed by itself."""
    if max(map(len, program.split("\n"))) > MAX_HIGHLIGHTED_LINE:
        return [escape(line) for line in program.split("\n")]
    # The lexer would take some invisible characters for line ends or spaces.
    marked: str = highlight(_visible(program), OcamlLexer(stripnl=False, ensurenl=False), _FORMATTER)
    return [Markup(line) for line in marked.removesuffix("\n").split("\n")]


def code_style(style: str) -> Markup:
    """CSS of a Pygments style for highlighted programs in ``<pre>``."""
    return Markup(HtmlFormatter(style=style).get_style_defs("pre"))


def truncate(text: str, max_chars: int, note: str = "... {} more characters") -> str:
    """Cut a text to ``max_chars`` characters and append a line with the number of characters left."""
    return text if len(text) <= max_chars else f"{text[:max_chars]}\n{note.format(len(text) - max_chars)}"


def _visible(text: str) -> str:
    return _INVISIBLE.sub("\N{REPLACEMENT CHARACTER}", text)


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters["number"] = format_number
_ENVIRONMENT.filters["highlighted"] = highlighted_lines
_ENVIRONMENT.filters["truncated"] = truncate
