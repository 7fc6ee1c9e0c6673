"""Special tokens and thought tags that a chat format leaves in a completion as characters. Pure and linear.

One pattern finds all of them. A token's name decides its meaning, so that tags of future models work as well: every tag whose
name resembles "think" or "reasoning" is a thought tag, opening or closing, in upper or lower case, and in any bracket style.
"""

import re
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from cluster.thought_tags import ELEMENT_NAME, THOUGHT_NAME


class TokenKind(Enum):
    """Effect of a token on the text around it."""

    OPENS_THOUGHT = "opens_thought"
    CLOSES_THOUGHT = "closes_thought"
    STARTS_ANSWER = "starts_answer"  # the text before it is not part of the answer
    STARTS_TEXT = "starts_text"  # begin of a text: ends the answer if there is one, else it is dropped
    ENDS_TEXT = "ends_text"  # end of a turn, text or file: the text after it is not part of the answer
    ASSISTANT_TURN = "assistant_turn"
    OTHER_TURN = "other_turn"  # of the user, the system, a tool, ...
    IGNORED = "ignored"


class ChatToken(NamedTuple):
    """One token, ``text[start:end]``."""

    kind: TokenKind
    family: str  # a closing thought tag closes only thoughts of its family; empty for other tokens
    start: int
    end: int
    may_be_code: bool = False  # [think] and [THINK] are OCaml lists as well


CHANNEL = "channel"
"""Family of thoughts in a channel such as ``analysis``. They have no closing tag: the channel of the answer ends them."""

# Anything after the name: a tag with malformed attributes opens a thought as well. Possessive, so that it is linear.
_ATTRIBUTES = r"\s(?>=\s?\"[^\"\n]{0,1000}\"|=\s?'[^'\n]{0,1000}'|[^<>\n]){0,1000}+"
_TO_MESSAGE = r"[^<\n]{0,80}(?:<\|constrain\|>[^<\n]{0,40})?<\|message\|>"
# [EOS] is a list in OCaml: a token only at the start of the text, or right behind code or on a line of its own, before the end.
_LIST_NAMES = (
    "/?(?:PAD|BOS|EOS|UNK|SEP|CLS|MASK|SUFFIX|PREFIX|MIDDLE|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS"
    r"|unused\d+)"
)
_LIST_NAME = rf"(?P<list_name>(?<=\A\[){_LIST_NAMES}|(?<=[\w)\]>`*;\"'}}\n]\[){_LIST_NAMES}(?=\]\s*+(?:\Z|```|[<\[])))"
_TOKEN = re.compile(
    rf"""(?P<channel><\|channel\|>[ \t]*(?P<channel_name>\w+){_TO_MESSAGE})
    |(?P<message><\|start\|>[ \t]*assistant[ \t]*<\|message\|>)
    |(?P<section><\|(?P<section_edge>open|close)\|>[ \t]*(?P<section_name>\w+)[^<\n]{{0,80}}<\|sep\|>)
    |(?P<tag><(?:[ ]?(?:\\?/)?[ ]?(?P<angle>{ELEMENT_NAME})\s?|/?(?P<with_attributes>{ELEMENT_NAME}){_ATTRIBUTES})/?>
        |&lt;/?(?P<entity>{ELEMENT_NAME})&gt;
        |\[/?(?P<square>{THOUGHT_NAME})\]
        |\u25c1/?(?P<triangle>{THOUGHT_NAME})\u25b7
        |<[|\uff5c]/?(?P<pipe>{THOUGHT_NAME})[|\uff5c]>)
    |(?P<prefix><\|channel>[ \t]*(?:thought|analysis)\b|<unused94>(?:thought\b)?|<\|inner_prefix\|>)
    |(?P<suffix><channel\|>|<unused95>|<\|inner_suffix\|>)
    |(?P<token><\|(?P<piped>[^\s<>|"'\\]{{1,48}})\|>
        |<\uff5c(?P<wide>[^\s<>\uff5c]{{1,48}})\uff5c>
        |<\[(?P<boxed>[^\s<>\[\]"';]{{1,48}})\]>
        |\u2581?<(?P<plain>/?s|eo[sdpah]|[bs]op|bos|pad|unk|mask|sep|cls|\|?endoftext\|?|(?:begin(?:ning)?|start|end)_of_\w{{1,24}}
            |fim[_-](?:prefix|suffix|middle|pad)|file_sep(?:arator)?|filename(?=>[\w/-][\w/.-]{{0,200}}\.\w)|repo_?name|gh_stars
            |EOT|PRE|SUF|MID|\|turn|turn\||(?:unused|reserved_|extra_id_|TOKENS_UNUSED_)\d+|0x[0-9A-F]{{2}}|[a-z]{{2,16}}:(?:[be]os|pad)
            |commit_(?:before|msg|after)|issue_(?:start|comment|closed)|jupyter_(?:start|text|code|output)|empty_output
            |/?tool_(?:calls?|responses?|results?))>
        |\[(?P<bracket>/?INST|gMASK|\|endofturn\||(?<=\A\[)\|assistant\||{_LIST_NAME})\]
        |<<(?P<system>/?SYS)>>
        |(?P<minimax>\[e~\[|\]~!?b[\[\]]))""",
    re.IGNORECASE | re.VERBOSE,
)
# The first character of a token, followed by one that can continue it: a cheap search for positions to try _TOKEN at.
_FIRST = re.compile(
    r"[<\[\]&\u25c1\u2581](?:(?<=<)(?=[A-Za-z/|\\<\[0\uff5c]|[ ]/?[A-Za-z])|(?<=\[)(?=[A-Za-z/|])|(?<=\])(?=~)|(?<=&)(?=lt;)"
    r"|(?<=\u2581)(?=<)|(?<=\u25c1))"
)
# Names that are tokens only if spelled exactly like this: [inst] is a list, <pre> is HTML.
_EXACT = frozenset({"INST", "/INST", "gMASK", "EOT", "PRE", "SUF", "MID", "SYS", "/SYS"})
_EXACT_IN_LOWER_CASE = {name.lower() for name in _EXACT}
_CLOSING_WORDS = frozenset({"end", "stop", "close", "closed", "done", "finish"})
_DIRECTIONS = _CLOSING_WORDS | {"begin", "start", "open", "of", "the"}
_ROLE_FOLLOWS = frozenset(
    {
        "im_start",
        "start_header_id",
        "header_start",
        "start_of_turn",
        "start",
        "start_of_role",
        "turn",
        "role",
        "role_start",
    }
)
_ROLE = re.compile(r"[ \t]*([A-Za-z_]{2,20})[^\S\n]*(?=\n|<|\Z)")
_ROLE_SUFFIX = re.compile(
    r"[ \t]*<\|(?:end_header_id|header_end|end_of_role|role_end|im_sep|role_sep|message|im_middle)\|>"
)
_ASSISTANT = frozenset({"assistant", "model", "chatbot", "bot", "ai", "gpt", "chatbot_token", "/inst"})
_OTHER_ROLES = frozenset(
    {"user", "system", "human", "tool", "developer", "ipython", "observation", "function", "environment",
     "user_token", "system_token", "inst", "sys", "tool_response", "tool_result"}
)  # fmt: skip
_ROLE_AFFIX = re.compile(
    r"^(?:im|message|begin_of|start_of)_|_(?:start|begin)$"
)  # im_user, message_model, assistant_start
_THOUGHT_ROLES = frozenset({"think", "thinking", "thought", "reasoning", "analysis"})
_ANSWER_ROLES = frozenset({"answer", "final", "response"})
_STARTS_TEXT = frozenset(
    {"s", "bos", "sop", "bop", "begin_of_text", "begin_of_sentence", "beginning_of_sentence", "startoftext", "start_of_text",
     "start_of_turn_token", "gmask"}
)  # fmt: skip
_ENDS_TEXT = frozenset(
    {"im_end", "endoftext", "eop", "eoa", "eoh", "return", "call", "im_sep", "message_sep", "/s", "file_sep", "file_separator",
     "repo_name", "reponame", "gh_stars", "filename", "pre", "suf", "mid", "cursor", "fim", "turn",
     "im_middle", "[e~[", "]~b]", "]~!b["}
)  # fmt: skip
_END_PREFIXES = ("fim_", "commit_", "jupyter_", "empty_output", "issue_", "endof", "tool", "/tool")
_END_WORDS = frozenset({"end", "eos", "eot", "eom", "eod", "eop"})


class TokenPatterns(NamedTuple):
    """Patterns that find the tokens of one tokenizer."""

    first: re.Pattern[str]  # beginning of a token: cheap to search for
    extra: re.Pattern[str] | None  # the tokenizer's special tokens that ``_TOKEN`` does not match


KNOWN_TOKENS = TokenPatterns(_FIRST, None)
"""The tokens of all known chat formats, without a tokenizer's own."""


def token_patterns(special_tokens: Sequence[str]) -> TokenPatterns:
    """Compile the patterns for a tokenizer: the known tokens, and its own special tokens, which end the text."""
    extra = [token for token in special_tokens if token.strip() and not _is_known(token)]
    if not extra:
        return KNOWN_TOKENS
    literal = "|".join(re.escape(token) for token in sorted(extra, key=len, reverse=True))
    return TokenPatterns(re.compile(rf"{_FIRST.pattern}|(?={literal})"), re.compile(literal))


def _is_known(token: str) -> bool:
    """Return whether the token is recognized anywhere in a text, without its tokenizer."""
    hit = _TOKEN.match(f"x {token} y", 2)
    return hit is not None and hit.end() == 2 + len(token)


def find_tokens(text: str, patterns: TokenPatterns = KNOWN_TOKENS) -> list[ChatToken]:
    """Find the special tokens and thought tags of a text, in order."""
    found: list[ChatToken] = []
    end = 0
    for place in patterns.first.finditer(text):
        start = place.start()
        if start < end:
            continue
        hit = _TOKEN.match(text, start)
        token = _chat_token(text, hit) if hit else None
        if token is None and patterns.extra is not None:
            hit = patterns.extra.match(text, start)
            token = ChatToken(TokenKind.ENDS_TEXT, "", *hit.span()) if hit else None
        if token is not None:
            found.append(token)
            end = token.end
    return found


def _chat_token(text: str, hit: re.Match[str]) -> ChatToken | None:
    groups = hit.groupdict()
    start, end = hit.span()
    if groups["channel"]:
        is_final = groups["channel_name"].lower() == "final"
        return ChatToken(TokenKind.STARTS_ANSWER if is_final else TokenKind.OPENS_THOUGHT, CHANNEL, start, end)
    if groups["message"]:
        return ChatToken(TokenKind.STARTS_ANSWER, "", start, end)
    if groups["section"]:
        return ChatToken(
            _section_kind(groups["section_name"].lower(), groups["section_edge"].lower()), "think", start, end
        )
    if groups["prefix"] or groups["suffix"]:
        kind = TokenKind.OPENS_THOUGHT if groups["prefix"] else TokenKind.CLOSES_THOUGHT
        return ChatToken(kind, "think", start, end)
    if groups["tag"]:
        return _thought_tag(hit)
    return _special_token(text, hit)


def _thought_tag(hit: re.Match[str]) -> ChatToken | None:
    bracket = next(
        bracket for bracket in ("angle", "with_attributes", "entity", "square", "triangle", "pipe") if hit[bracket]
    )
    name, written = hit[bracket].lower(), hit.group()
    words = [word for word in re.split(r"[\W_]+", name) if word]
    if written.rstrip("> ").endswith("/"):  # <think/>: an empty thought
        return ChatToken(TokenKind.IGNORED, "", *hit.span())
    closes = "/" in written[: hit.start(bracket) - hit.start()] or not _CLOSING_WORDS.isdisjoint(words)
    closes = closes or any(word.startswith("endof") for word in words)
    kind = TokenKind.CLOSES_THOUGHT if closes else TokenKind.OPENS_THOUGHT
    return ChatToken(kind, tag_family(name), *hit.span(), may_be_code=not closes and bool(hit["square"]))


def tag_family(name: str) -> str:
    """Name shared by tags that open and close the same thought: ``seed:think``, ``thinking`` and ``end_of_thought``."""
    if "think" in name or "thought" in name:
        return "think"
    if "reason" in name:
        return "reason"
    if "reflect" in name:
        return "reflect"
    return "_".join(word for word in re.split(r"[\W_]+", name) if word and word not in _DIRECTIONS)


def _section_kind(name: str, edge: str) -> TokenKind:
    """Kind of ``<|open|>think<|sep|>`` or ``<|close|>think<|sep|>``."""
    if name in _THOUGHT_ROLES:
        return TokenKind.OPENS_THOUGHT if edge == "open" else TokenKind.CLOSES_THOUGHT
    starts_answer = edge == "open" and name in (*_ANSWER_ROLES, "message")
    return TokenKind.STARTS_ANSWER if starts_answer else TokenKind.ENDS_TEXT


def _special_token(text: str, hit: re.Match[str]) -> ChatToken | None:
    written = next(
        name for name in hit.group("piped", "wide", "boxed", "plain", "bracket", "system", "minimax") if name
    )
    if not (hit["piped"] or hit["wide"]):
        if written.lower() in _EXACT_IN_LOWER_CASE and written not in _EXACT:
            return None
        if hit["list_name"] and not (written.isupper() or written.startswith("unused")):
            return None
    name = written.lower().replace("\u2581", "_").replace("-", "_").strip("|")
    start, end = hit.span()
    role = name if name in _ASSISTANT else _ROLE_AFFIX.sub("", name)
    if role in _ASSISTANT or role in _OTHER_ROLES:
        follows = _ROLE.match(text, end) if role != name else None
        suffix = _ROLE_SUFFIX.match(text, follows.end()) if follows else None  # <|im_assistant|>assistant<|im_middle|>
        return ChatToken(_turn_of(role), "", start, suffix.end() if suffix else end)
    if name in _ROLE_FOLLOWS:
        written_role = _ROLE.match(text, end)
        if written_role is None:
            return ChatToken(TokenKind.ENDS_TEXT, "", start, end)
        end = written_role.end()
        suffix = _ROLE_SUFFIX.match(text, end)
        end = suffix.end() if suffix else end
        kind = _turn_of(written_role.group(1).lower())
        return ChatToken(kind, CHANNEL if kind is TokenKind.OPENS_THOUGHT else "", start, end)
    if hit["list_name"]:
        return ChatToken(TokenKind.STARTS_TEXT if name == "bos" else TokenKind.ENDS_TEXT, "", start, end)
    return ChatToken(_plain_kind(name), "", start, end)


def _plain_kind(name: str) -> TokenKind:
    """Kind of a special token that names no role, such as ``end_of_sentence`` and ``seed:eos``."""
    if name == "content_text":
        return TokenKind.STARTS_ANSWER
    if name in _STARTS_TEXT or name.endswith(":bos"):
        return TokenKind.STARTS_TEXT
    ends = name in _ENDS_TEXT or name.startswith(_END_PREFIXES) or not _END_WORDS.isdisjoint(re.split(r"[_:.]", name))
    return TokenKind.ENDS_TEXT if ends else TokenKind.IGNORED


def _turn_of(role: str) -> TokenKind:
    if role in _THOUGHT_ROLES:
        return TokenKind.OPENS_THOUGHT
    if role in _ANSWER_ROLES:
        return TokenKind.STARTS_ANSWER
    return TokenKind.ASSISTANT_TURN if role in _ASSISTANT else TokenKind.OTHER_TURN
