"""Regular expressions for the tags that models put around a thought (``<think>...</think>``). Standard library only."""

import re

_WORD = r"[\w:.\u2581-]"
THOUGHT_NAME = (
    rf"(?:{_WORD}{{0,24}}(?:think|thought|reasoning|scratch_?pad|monologue){_WORD}{{0,24}}|(?:\w{{1,20}}:)?(?:reason"
    r"|(?:self[_-]?)?(?:reflect(?:ion|ing)?|critique)|analysis|rationale|deliberation|contemplat(?:ion|or)|brainstorm(?:ing)?"
    r"|introspection|cot))"
)
"""Names of thought tags, in upper or lower case: think, seed:think, thought_process, end_of_thought, ..."""

ELEMENT_NAME = rf"(?:{THOUGHT_NAME}|plan(?:ning)?|draft|ponder(?:ing)?|musings?)"
"""Names of thought tags in angle brackets; in square brackets the further names would be lists in code."""

_CLOSING_WORD = rf"(?:(?:\w{{1,20}}:)?(?:end|stop|close)(?:[_\u2581-]|of)|{_WORD}*[_\u2581-](?:end|stop|close)\b)"
_OPENING_NAME = rf"(?!{_CLOSING_WORD}){THOUGHT_NAME}"
_CLOSING_NAME = rf"(?:/[ ]?|(?={_CLOSING_WORD})){THOUGHT_NAME}"
_OPENING_ELEMENT = rf"(?!{_CLOSING_WORD}){ELEMENT_NAME}"
_CLOSING_ELEMENT = rf"(?:/[ ]?|(?={_CLOSING_WORD})){ELEMENT_NAME}"

THOUGHT_OPENING = re.compile(
    rf"<[ ]?{_OPENING_ELEMENT}(?:\s[^<>\n]*)?>|\[{_OPENING_NAME}\]|\u25c1{_OPENING_NAME}\u25b7"
    rf"|<[|\uff5c]{_OPENING_NAME}[|\uff5c]>"
    r"|<\|channel\|>(?:analysis|commentary)\b[^<\n]*<\|message\|>|<\|channel>thought\b|<\|inner_prefix\|>|<unused94>(?:thought\b)?"
    r"|<\|im_start\|>think\b|<\|open\|>think<\|sep\|>",
    re.IGNORECASE,
)
"""Tags that open a thought, with or without attributes, in upper or lower case."""

THOUGHT_CLOSING = re.compile(
    rf"<[ ]?{_CLOSING_ELEMENT}\s*>|\[{_CLOSING_NAME}\]|\u25c1{_CLOSING_NAME}\u25b7|<[|\uff5c]{_CLOSING_NAME}[|\uff5c]>"
    r"|<\|channel\|>final\b[^<\n]*<\|message\|>|<channel\|>|<\|inner_suffix\|>|<unused95>"
    r"|<\|im_start\|>answer\b|<\|close\|>think<\|sep\|>",
    re.IGNORECASE,
)
"""Tags that close a thought."""

_MARK_OF_THOUGHT = re.compile(
    rf"<(?:[/|\\\uff5c<\[]|[ ]?{ELEMENT_NAME}|unused9|channel|start_of_turn|tool_)|&lt;|\u25c1"
    rf"|\[/?(?:{THOUGHT_NAME}|INST|\|assistant)|[`~]{{3}}[ \t]*(?:think|thought|reason)"
    r"|analysis|commentary|final|thought process|Thinking\.\.\.",
    re.IGNORECASE,
)


def may_hold_thought(text: str) -> bool:
    """Return False if a completion's text certainly holds no thought and no turn of another role."""
    return _MARK_OF_THOUGHT.search(text) is not None
