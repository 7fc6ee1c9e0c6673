"""Detection of near-duplicate problems: most of their asserts, or their statements, are equal except for names. Pure."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.types import Problem
from grader.signature import defined_name

MIN_JACCARD = 0.8  # shared asserts / all asserts of two problems
_MAX_PROBLEMS_PER_ASSERT = 50  # later problems with the same assert are not indexed under it
_MIN_STATEMENT_WORDS = 6


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Digests by which two problems are compared."""

    id: str
    asserts: frozenset[bytes]  # digest of each condition, without the function's name
    statement: bytes  # digest of the words, without the function's name; empty for a short statement


def fingerprint(problem: Problem, asserts: Sequence[str]) -> Fingerprint:
    """Compute a problem's fingerprint; ``asserts`` are the conditions as ``Inspection`` normalizes them."""
    name = defined_name(problem.signature)
    words = re.findall(r"[^\W_]+", _anonymous(problem.statement, name).lower())
    return Fingerprint(
        id=problem.id,
        asserts=frozenset(_digest(_anonymous(text, name)) for text in asserts),
        statement=_digest(" ".join(words)) if len(words) >= _MIN_STATEMENT_WORDS else b"",
    )


class DuplicateIndex:
    """The fingerprints of all problems so far."""

    def __init__(self) -> None:
        self._fingerprints: list[Fingerprint] = []
        self._by_assert: dict[bytes, list[int]] = defaultdict(list)
        self._by_statement: dict[bytes, int] = {}

    def add(self, new: Fingerprint) -> str:
        """Add a problem; return a warning that names an earlier near-duplicate, or an empty text."""
        warning = self._warn_of_equal_asserts(new) or self._warn_of_equal_statement(new)
        index = len(self._fingerprints)
        self._fingerprints.append(new)
        for digest in new.asserts:
            if len(self._by_assert[digest]) < _MAX_PROBLEMS_PER_ASSERT:
                self._by_assert[digest].append(index)
        if new.statement:
            self._by_statement.setdefault(new.statement, index)
        return warning

    def _warn_of_equal_asserts(self, new: Fingerprint) -> str:
        shared = Counter(other for digest in new.asserts for other in self._by_assert.get(digest, ()))
        if not shared or len(new.asserts) < 2:
            return ""
        other, count = min(shared.items(), key=lambda item: (-item[1], item[0]))
        union = len(new.asserts | self._fingerprints[other].asserts)
        if count < MIN_JACCARD * union:
            return ""
        return f"near_duplicate: shares {count} of {union} asserts with {self._fingerprints[other].id}"

    def _warn_of_equal_statement(self, new: Fingerprint) -> str:
        other = self._by_statement.get(new.statement)
        return "" if other is None else f"near_duplicate: has the same statement as {self._fingerprints[other].id}"


def _anonymous(text: str, name: str) -> str:
    return re.sub(rf"(?<![\w']){re.escape(name)}(?![\w'])", "solution", text) if name else text


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest()
