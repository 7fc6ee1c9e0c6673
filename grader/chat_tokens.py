"""What chat formats leave in a completion as characters: tags around thoughts, and special tokens. Pure.

One pattern finds them all; what each of them means is read from its name, so that the tags of models to come are known as
well: whatever is named like a thought is one, in any case, bracket and direction.
"""

import re
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from cluster.thought_tags import THOUGHT_NAME


class Kind(Enum):
    """What a mark does to the text around it."""

    OPENS = "opens"  # a thought begins
    CLOSES = "closes"  # a thought ends
    FINAL = "final"  # the answer begins, whatever came before
    ENDS = "ends"  # the end of a turn, of a text or of a file: what follows is no answer
    SPEAKS = "speaks"  # the turn of the assistant begins
    OTHER = "other"  # the turn of somebody else begins
    NOISE = "noise"  # stands for nothing


class Mark(NamedTuple):
    """One mark, ``text[start:end]``."""

    kind: Kind
    name: str  # of a thought, so that a tag closes its own kind: "think", "reason", ...
    start: int
    end: int
    may_be_code: bool = False  # [think] and [THINK] are lists as well


CHANNEL = "channel"
"""The name of a thought that only a channel for the answer ends."""

# Whatever stands behind the name: a tag whose attributes are odd opens a thought all the same. Possessive, so that it is linear.
_ATTRIBUTES = r"\s(?>=\s?\"[^\"\n]{0,1000}\"|=\s?'[^'\n]{0,1000}'|[^<>\n]){0,1000}+"
_TO_MESSAGE = r"[^<\n]{0,80}(?:<\|constrain\|>[^<\n]{0,40})?<\|message\|>"
_MARK = re.compile(
    rf"""(?P<channel><\|channel\|>[ \t]*(?P<channel_name>\w+){_TO_MESSAGE})
    |(?P<message><\|start\|>[ \t]*assistant[ \t]*<\|message\|>)
    |(?P<tag><(?:[ ]?(?:\\?/)?[ ]?(?P<angle>{THOUGHT_NAME})\s?|/?(?P<wordy>{THOUGHT_NAME}){_ATTRIBUTES})/?>
        |&lt;/?(?P<entity>{THOUGHT_NAME})&gt;
        |\[/?(?P<square>{THOUGHT_NAME})\]
        |\u25c1/?(?P<triangle>{THOUGHT_NAME})\u25b7
        |<[|\uff5c]/?(?P<pipe>{THOUGHT_NAME})[|\uff5c]>)
    |(?P<prefix><\|channel>[ \t]*(?:thought|analysis)\b|<unused94>(?:thought\b)?|<\|inner_prefix\|>)
    |(?P<suffix><channel\|>|<unused95>|<\|inner_suffix\|>)
    |(?P<token><\|(?P<piped>[^\s<>|"'\\]{{1,48}})\|>
        |<\uff5c(?P<wide>[^\s<>\uff5c]{{1,48}})\uff5c>
        |<(?P<plain>/?s|eo[sdp]|[bs]op|bos|pad|unk|mask|\|?endoftext\|?|end_of_text|(?:start|end)_of_turn|end_of_utterance
            |fim_(?:prefix|suffix|middle|pad)|file_sep(?:arator)?|repo_?name|gh_stars|EOT|PRE|SUF|MID|\|turn|turn\||(?:unused|reserved_)\d+
            |commit_(?:before|msg|after)|jupyter_(?:start|text|code|output)|empty_output)>
        |\[(?P<bracket>/?INST|gMASK|\|endofturn\||(?<=\A\[)\|assistant\|)\]
        |<<(?P<system>/?SYS)>>)""",
    re.IGNORECASE | re.VERBOSE,
)
_FIRST = re.compile(
    r"[<\[&\u25c1](?:(?<=<)(?=[A-Za-z/|\\<\uff5c]|[ ]/?[A-Za-z])|(?<=\[)(?=[A-Za-z/|])|(?<=&)(?=lt;)|(?<=\u25c1))"
)
# Named in two ways, so that only these spellings are the tokens: [inst] is a list, <PRE> is HTML in lower case.
_EXACT = frozenset({"INST", "/INST", "gMASK", "EOT", "PRE", "SUF", "MID", "SYS", "/SYS"})
_IN_EXACTLY_ONE_CASE = {name.lower() for name in _EXACT}
_CLOSING_WORDS = frozenset({"end", "stop", "close", "closed", "done", "finish"})
_DIRECTIONS = _CLOSING_WORDS | {"begin", "start", "open", "of", "the"}
_ROLE_FOLLOWS = frozenset(
    {"im_start", "start_header_id", "start_of_turn", "start", "start_of_role", "turn", "role", "role_start"}
)
_ROLE = re.compile(r"[ \t]*([A-Za-z_]{2,20})[^\S\n]*(?=\n|<|\Z)")
_ROLE_SUFFIX = re.compile(r"[ \t]*<\|(?:end_header_id|end_of_role|role_end|im_sep|message|im_middle)\|>")
_SPEAKERS = frozenset({"assistant", "model", "chatbot", "bot", "ai", "gpt", "chatbot_token", "/inst"})
_OTHERS = frozenset(
    {"user", "system", "human", "tool", "developer", "ipython", "observation", "function", "environment",
     "user_token", "system_token", "inst", "sys", "tool_response", "tool_result"}
)  # fmt: skip
_ENDS = frozenset(
    {"im_end", "endoftext", "end_of_text", "eot_id", "eom_id", "eot", "eod", "eos", "eop", "end", "return", "call",
     "end_of_turn", "endofturn", "end_of_turn_token", "eos_token", "end_of_sentence", "end_of_sequence",
     "end_of_utterance", "end_of_document", "end_of_role", "end_of_solution", "end_of_msg", "end_of_message",
     "end_response", "endofprompt", "end_header_id", "im_sep", "s", "/s", "bos", "sop", "bop", "begin_of_text",
     "begin_of_sentence", "startoftext", "start_of_text", "start_of_turn_token", "gmask", "file_sep",
     "file_separator", "repo_name", "reponame", "gh_stars", "filename", "pre", "suf", "mid", "cursor", "fim",
     "turn"}
)  # fmt: skip
_END_PREFIXES = ("fim_", "fim-", "commit_", "jupyter_", "empty_output", "issue_")


def marks(text: str, special_tokens: Sequence[str] = ()) -> list[Mark]:
    """The marks of a text, in order.

    Args:
        text: a completion.
        special_tokens: the tokenizer's own; those that no rule knows end the text.
    """
    found: list[Mark] = []
    past = 0
    first, own = _patterns(special_tokens)
    for place in first.finditer(text):
        start = place.start()
        if start < past:
            continue
        hit = _MARK.match(text, start)
        mark = _mark(text, hit) if hit else None
        if mark is None and own is not None:
            hit = own.match(text, start)
            mark = Mark(Kind.ENDS, "", *hit.span()) if hit else None
        if mark is not None:
            found.append(mark)
            past = mark.end
    return found


@lru_cache(maxsize=8)
def _patterns(special_tokens: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str] | None]:
    """What a mark begins with, cheap to search for; and the tokens that no rule knows."""
    own = [token for token in special_tokens if token.strip() and not _MARK.fullmatch(token)]
    if not own:
        return _FIRST, None
    literal = "|".join(re.escape(token) for token in sorted(own, key=len, reverse=True))
    return re.compile(rf"{_FIRST.pattern}|(?={literal})"), re.compile(literal)


def _mark(text: str, hit: re.Match[str]) -> Mark | None:
    groups = hit.groupdict()
    start, end = hit.span()
    if groups["channel"]:
        is_final = groups["channel_name"].lower() == "final"
        return Mark(Kind.FINAL if is_final else Kind.OPENS, CHANNEL, start, end)
    if groups["message"]:
        return Mark(Kind.FINAL, "", start, end)
    if groups["prefix"] or groups["suffix"]:
        return Mark(Kind.OPENS if groups["prefix"] else Kind.CLOSES, "think", start, end)
    if groups["tag"]:
        return _thought_tag(hit)
    return _token(text, hit)


def _thought_tag(hit: re.Match[str]) -> Mark | None:
    bracket = next(bracket for bracket in ("angle", "wordy", "entity", "square", "triangle", "pipe") if hit[bracket])
    name, written = hit[bracket].lower(), hit.group()
    words = [word for word in re.split(r"[\W_]+", name) if word]
    if written.rstrip("> ").endswith("/"):  # <think/>: an empty thought
        return Mark(Kind.NOISE, "", *hit.span())
    closes = "/" in written[: hit.start(bracket) - hit.start()] or not _CLOSING_WORDS.isdisjoint(words)
    kind = Kind.CLOSES if closes else Kind.OPENS
    return Mark(kind, family(name), *hit.span(), may_be_code=kind is Kind.OPENS and bool(hit["square"]))


def family(name: str) -> str:
    """What tags have in common that open and close the same thought: ``seed:think``, ``thinking`` and ``end_of_thought``."""
    if "think" in name or "thought" in name:
        return "think"
    if "reason" in name:
        return "reason"
    if "reflect" in name:
        return "reflect"
    return "_".join(word for word in re.split(r"[\W_]+", name) if word and word not in _DIRECTIONS)


def _token(text: str, hit: re.Match[str]) -> Mark | None:
    written = next(name for name in hit.group("piped", "wide", "plain", "bracket", "system") if name)
    if written.lower() in _IN_EXACTLY_ONE_CASE and written not in _EXACT and not (hit["piped"] or hit["wide"]):
        return None
    name = written.lower().replace("\u2581", "_").strip("|")
    start, end = hit.span()
    if name in _SPEAKERS or name in _OTHERS:
        return Mark(Kind.SPEAKS if name in _SPEAKERS else Kind.OTHER, "", start, end)
    if name in _ROLE_FOLLOWS:
        role = _ROLE.match(text, end)
        if role is None:
            return Mark(Kind.ENDS, "", start, end)
        end = role.end()
        suffix = _ROLE_SUFFIX.match(text, end)
        end = suffix.end() if suffix else end
        return Mark(Kind.SPEAKS if role.group(1).lower() in _SPEAKERS else Kind.OTHER, "", start, end)
    if name in _ENDS or name.startswith(_END_PREFIXES):
        return Mark(Kind.ENDS, "", start, end)
    return Mark(Kind.NOISE, "", start, end)
