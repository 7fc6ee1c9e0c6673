"""Tokenization of prompts: with the begin-of-text token, without an end-of-text token, and checked by decoding."""

import html
import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from cluster.thought_tags import THOUGHT_CLOSING, THOUGHT_OPENING

_WORD = "let"
_SPACES_AT_PUNCTUATION = re.compile(r"\s*([^\w\s]|_)\s*")


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that prompts need."""

    chat_template: str | dict[str, str] | None
    bos_token: str | None
    eos_token: str | None
    sep_token: str | None
    added_tokens_decoder: Mapping[int, Any]  # objects with `content` and `special`

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the token ids of a text."""
        ...

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        """Return the text of token ids."""
        ...

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every token."""
        ...

    def convert_tokens_to_ids(self, tokens: str) -> int | None:
        """Return the id of one token."""
        ...

    def apply_chat_template(
        self,
        conversation: list[dict[str, Any]],
        *,
        chat_template: str,
        tokenize: bool,
        add_generation_prompt: bool,
        **variables: Any,
    ) -> str:
        """Render a conversation in the model's format."""
        ...


class PromptEncoder:
    """Encodes texts that a model continues: with the tokenizer's begin-of-text token, and without its end-of-text token."""

    def __init__(self, tokenizer: Tokenizer, *, is_chat: bool) -> None:
        """``is_chat``: a chat template rendered the texts, and may have written special tokens already."""
        self._tokenizer = tokenizer
        self._is_chat = is_chat
        self.max_chars_per_token = max(map(len, tokenizer.get_vocab()), default=1)
        """Longest token: a longer text than this for each token need not be encoded to be too long."""
        plain = tokenizer.encode(_WORD, add_special_tokens=False)
        whole = tokenizer.encode(_WORD, add_special_tokens=True)
        starts = (start for start in range(len(whole)) if whole[start : start + len(plain)] == plain)
        start = next(starts, 0) if plain else 0
        self._prefix = whole[:start]
        named = (tokenizer.eos_token, tokenizer.sep_token)
        self._ends = {tokenizer.convert_tokens_to_ids(token) for token in named if token} - {None}
        self._adds_end = bool(whole) and whole[-1] in self._ends
        beginning = tokenizer.convert_tokens_to_ids(tokenizer.bos_token) if tokenizer.bos_token else None
        self._beginning = self._prefix or ([] if beginning is None else [beginning])

    @property
    def prefix(self) -> tuple[int, ...]:
        """Tokens that the tokenizer's post-processor puts before every text."""
        return tuple(self._prefix)

    def encode(self, text: str) -> list[int]:
        """Encode a rendered prompt."""
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        while ids and ids[-1] in self._ends:
            ids = ids[:-1]
        if self._lacks_beginning(ids):
            ids = [*self._prefix, *ids]
        length = len(self._beginning)
        while length and ids[: 2 * length] == 2 * self._beginning:
            ids = ids[length:]
        return ids

    def notes(self, text: str) -> list[str]:
        """Return log lines about the adjustments of a typical prompt."""
        ids, notes = self._tokenizer.encode(text, add_special_tokens=False), []
        if self._is_chat and self._lacks_beginning(ids):
            notes.append(
                f"the chat template does not write {self._shown(self._prefix)}, which the tokenizer adds to texts: it is added"
            )
        if self._beginning and ids[: 2 * len(self._beginning)] == 2 * self._beginning:
            notes.append(f"the chat template writes {self._shown(self._beginning)} twice: one is removed")
        if not self._is_chat and self._adds_end:
            notes.append(
                "the tokenizer ends every text with an end-of-text token: it is removed, because prompts are continued"
            )
        return notes

    def decode(self, ids: list[int]) -> str:
        """Return the text of a prompt, special tokens included."""
        return self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _lacks_beginning(self, ids: list[int]) -> bool:
        # A template may write spaces before it.
        return bool(self._prefix) and self._prefix[0] not in ids[: len(self._prefix) + 2]

    def _shown(self, ids: list[int]) -> str:
        return self.decode(ids).strip()


def marks_thoughts_by_special_tokens(tokenizer: Tokenizer) -> bool:
    """Return True if completions must be decoded with special tokens, because some of these open or close thoughts."""
    special = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return any(
        token.startswith("<|channel") or THOUGHT_OPENING.fullmatch(token) or THOUGHT_CLOSING.fullmatch(token)
        for token in special
    )


def special_tokens(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Return the tokens that are not text. An engine leaves those that are not flagged as special in completions."""
    added = {token.content.strip() for token in tokenizer.added_tokens_decoder.values()}
    # Added tokens can also be spaces, words and operators, which programs contain.
    return tuple(sorted(token for token in added if _TAG.fullmatch(token)))


_TAG = re.compile(r"[<\[|\u25c1\u2581]\S*\w\S*[>\]|\u25b7]")


def contains(text: str, part: str) -> bool:
    """Return True if a text contains another, up to spaces and HTML or JSON escapes."""
    return _contains_normalized(text, part, _spaced)


def keeps(text: str, part: str) -> bool:
    """Return True if a decoded text contains another; some tokenizers lose or add spaces next to punctuation."""
    return _contains_normalized(text, part, _squeezed)


def _contains_normalized(text: str, part: str, normal: Callable[[str], str]) -> bool:
    if part in text:
        return True
    whole = normal(text)
    if normal(part) in whole:
        return True
    if "&" in text and normal(part) in normal(html.unescape(text)):
        return True
    return "\\" in text and any(normal(json.dumps(part, ensure_ascii=only)[1:-1]) in whole for only in (False, True))


def _spaced(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _squeezed(text: str) -> str:
    return _SPACES_AT_PUNCTUATION.sub(r"\1", _spaced(text))
