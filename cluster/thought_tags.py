"""Regular expressions for the tags that models put around a thought (``<think>...</think>``). Standard library only."""

import re

THOUGHT_NAME = (
    r"(?:[\w:.-]{0,24}(?:think|thought|reasoning|scratch_?pad|monologue)[\w:.-]{0,24}|(?:\w{1,20}:)?(?:reason|reflect(?:ion|ing)?"
    r"|analysis|rationale|deliberation|contemplat(?:ion|or)|brainstorm(?:ing)?|introspection|cot))"
)
"""Names of thought tags, in upper or lower case: think, seed:think, thought_process, end_of_thought, ..."""

_CLOSING_WORD = r"(?:(?:end|stop|close)_|[\w:.-]*_(?:end|stop|close)\b)"
_OPENING_NAME = rf"(?!{_CLOSING_WORD}){THOUGHT_NAME}"
_CLOSING_NAME = rf"(?:/[ ]?|(?={_CLOSING_WORD})){THOUGHT_NAME}"

THOUGHT_OPENING = re.compile(
    rf"<[ ]?{_OPENING_NAME}(?:\s[^<>\n]*)?>|\[{_OPENING_NAME}\]|\u25c1{_OPENING_NAME}\u25b7|<[|\uff5c]{_OPENING_NAME}[|\uff5c]>"
    r"|<\|channel\|>(?:analysis|commentary)\b[^<\n]*<\|message\|>|<\|channel>thought\b|<\|inner_prefix\|>|<unused94>(?:thought\b)?",
    re.IGNORECASE,
)
"""Tags that open a thought, with or without attributes, in upper or lower case."""

THOUGHT_CLOSING = re.compile(
    rf"<[ ]?{_CLOSING_NAME}\s*>|\[{_CLOSING_NAME}\]|\u25c1{_CLOSING_NAME}\u25b7|<[|\uff5c]{_CLOSING_NAME}[|\uff5c]>"
    r"|<\|channel\|>final\b[^<\n]*<\|message\|>|<channel\|>|<\|inner_suffix\|>|<unused95>",
    re.IGNORECASE,
)
"""Tags that close a thought."""
