"""Tags with which models mark a thought in their text, as regular expressions. Standard library only."""

import re

THOUGHT_NAME = (
    r"(?:[\w:.-]{0,24}(?:think|thought|reasoning|scratch_?pad|monologue)[\w:.-]{0,24}|(?:\w{1,20}:)?(?:reason|reflect(?:ion|ing)?"
    r"|analysis|rationale|deliberation|contemplat(?:ion|or)|brainstorm(?:ing)?|introspection|cot))"
)
"""Names of thought tags, in any case: think, seed:think, thought_process, end_of_thought, ..."""

_ENDS = r"(?:(?:end|stop|close)_|[\w:.-]*_(?:end|stop|close)\b)"
_OPENS = rf"(?!{_ENDS}){THOUGHT_NAME}"
_CLOSES = rf"(?:/[ ]?|(?={_ENDS})){THOUGHT_NAME}"

THOUGHT_OPENING = re.compile(
    rf"<[ ]?{_OPENS}(?:\s[^<>\n]*)?>|\[{_OPENS}\]|\u25c1{_OPENS}\u25b7|<[|\uff5c]{_OPENS}[|\uff5c]>"
    r"|<\|channel\|>(?:analysis|commentary)\b[^<\n]*<\|message\|>|<\|channel>thought\b|<\|inner_prefix\|>|<unused94>(?:thought\b)?",
    re.IGNORECASE,
)
"""Tags that open a thought, with attributes and in any case."""

THOUGHT_CLOSING = re.compile(
    rf"<[ ]?{_CLOSES}\s*>|\[{_CLOSES}\]|\u25c1{_CLOSES}\u25b7|<[|\uff5c]{_CLOSES}[|\uff5c]>"
    r"|<\|channel\|>final\b[^<\n]*<\|message\|>|<channel\|>|<\|inner_suffix\|>|<unused95>",
    re.IGNORECASE,
)
"""Tags that close a thought."""
