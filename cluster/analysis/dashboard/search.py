"""Finding completions: by the columns in memory at once, by their texts file by file."""

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.analysis.dashboard.query import NOT_GRADED, Query
from cluster.errors import RunFolderError
from cluster.ledger.columns import MISSING, File, LedgerColumns, Rows, as_numpy
from cluster.ledger.files import read_rollouts

FIRST_SECONDS, MORE_SECONDS = 0.4, 1.0
"""CPU seconds that the first request for a search may look into texts, and each further one, which goes on from there."""

NUM_SEARCHES = 8  # whose finds are kept
NUM_LISTINGS = 6

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The completions that a query asks for, as far as they are known."""

    rows: Rows  # in the order that was asked for
    num_searched: int  # completions whose texts were looked into; all candidates where none had to be
    num_candidates: int  # completions that all but their texts speak for

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to look into."""
        return self.num_searched == self.num_candidates


class Finder:
    """Answers queries, and remembers the answers."""

    def __init__(self) -> None:
        self._searches: OrderedDict[tuple[str, bool], TextSearch] = OrderedDict()
        self._columns = LedgerColumns()  # that the listings are of
        self._listings: OrderedDict[Query, Found] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, columns: LedgerColumns, query: Query) -> Found:
        """All completions that are asked for, whatever the page; a search in texts may take several calls to be complete."""
        key = query.of_page(1)
        with self._lock:
            if columns is not self._columns:
                self._columns = columns
                self._listings.clear()
            if key in self._listings:
                self._listings.move_to_end(key)
                return self._listings[key]
        candidates = np.flatnonzero(matching(columns, query))
        rows, num_searched = candidates, len(candidates)
        if query.code:
            search = self._search(query)
            seconds = MORE_SECONDS if search.has_begun else FIRST_SECONDS
            rows, num_searched = search.among(columns, candidates, seconds)
        found = Found(
            rows=ordered(columns, rows, query.order), num_searched=num_searched, num_candidates=len(candidates)
        )
        if found.is_complete:
            with self._lock:
                if columns is self._columns:
                    self._listings[key] = found
                while len(self._listings) > NUM_LISTINGS:
                    self._listings.popitem(last=False)
        return found

    def _search(self, query: Query) -> "TextSearch":
        key = (query.code, query.matches_case)
        with self._lock:
            search = self._searches.setdefault(key, TextSearch(*key))
            self._searches.move_to_end(key)
            while len(self._searches) > NUM_SEARCHES:
                self._searches.popitem(last=False)
        return search


class TextSearch:
    """Where a text occurs, file by file; what is found in a file is kept, so that further files alone are read later."""

    def __init__(self, needle: str, matches_case: bool) -> None:
        self._needle, self._matches_case = needle, matches_case
        self._found: dict[File, Rows] = {}  # rows within the file
        self._lock = threading.Lock()

    @property
    def has_begun(self) -> bool:
        """Whether any file has been looked into."""
        return bool(self._found)

    def among(self, columns: LedgerColumns, candidates: Rows, seconds: float) -> tuple[Rows, int]:
        """The candidates (ascending) that hold the text, and how many were looked into; newest files first, for so long."""
        bounds = np.searchsorted(candidates, columns.starts)
        wanted = np.flatnonzero(np.diff(bounds))[::-1]  # files
        until = time.thread_time() + seconds
        hits: list[Rows] = []
        num_searched = 0
        with self._lock:
            for number in wanted:
                file = columns.files[number]
                if file not in self._found:
                    if time.thread_time() > until:
                        continue
                    self._found[file] = self._in_file(file)
                hits.append(self._found[file] + columns.starts[number])
                num_searched += int(bounds[number + 1] - bounds[number])
        return np.intersect1d(np.concatenate(hits), candidates) if hits else candidates[:0], num_searched

    def _in_file(self, file: File) -> Rows:
        import pyarrow as pa
        import pyarrow.compute as pc

        try:
            column = read_rollouts(file.path, ("text",)).column("text")
        except RunFolderError:  # it went away, or broke: the watch tells of it
            return np.zeros(0, np.int64)
        matches = pc.match_substring(column, self._needle, ignore_case=not self._matches_case)
        return np.flatnonzero(as_numpy(pa.concat_arrays(matches.cast(pa.int32()).chunks), np.int32, 0))


def matching(columns: LedgerColumns, query: Query, *, any_verdict: bool = False) -> Mask:
    """Which completions a query asks for, ``[N]``, its text and perhaps its verdicts left aside."""
    mask = np.ones(columns.num_rows, dtype=bool)
    if query.problem:
        mask &= _of_words(columns, "problem_id", _problems(columns, query.problem))
    if query.verdicts and not any_verdict:
        wanted = {word: word in query.verdicts for word in columns.words["verdict"]}
        mask &= _of_words(columns, "verdict", wanted, missing=NOT_GRADED in query.verdicts)
    if query.outcomes:
        mask &= _of_words(columns, "fate", {word: word in query.outcomes for word in columns.words["fate"]})
    if query.has_signs:
        mask &= _of_words(columns, "signs", {word: bool(word) for word in columns.words["signs"]})
    rewards, steps = columns.numbers["total_reward"], columns.numbers["step"]
    if query.min_reward is not None:
        mask &= rewards >= np.float32(query.min_reward)
    if query.max_reward is not None:
        mask &= rewards <= np.float32(query.max_reward)
    if query.min_step is not None:
        mask &= steps >= query.min_step
    if query.max_step is not None:
        mask &= steps <= query.max_step
    return mask


def verdict_counts(columns: LedgerColumns, query: Query) -> dict[str, int]:
    """How many completions of each verdict there are, by all that the query asks for but verdict and text."""
    codes = columns.codes["verdict"][matching(columns, query, any_verdict=True)]
    words = columns.words["verdict"]
    counts = np.bincount(codes - MISSING, minlength=len(words) + 1)
    return {NOT_GRADED: int(counts[0]), **{word: int(num) for word, num in zip(words, counts[1:], strict=True)}}


def ordered(columns: LedgerColumns, rows: Rows, order: str) -> Rows:
    """Ascending rows in an order of query.ORDERS; of equal ones the newest first, and at the end what has no such number."""
    numbers = columns.numbers
    newest_first = rows[::-1]
    keys = {
        "newest": -numbers["step"],
        "oldest": numbers["step"],
        "best": -numbers["total_reward"],
        "worst": numbers["total_reward"],
        "advantage": -numbers["advantage"],
        "disadvantage": numbers["advantage"],
    }
    key = keys[order] if order in keys else -(numbers["sampling_seconds"] + np.nan_to_num(numbers["grading_seconds"]))
    base = rows if order == "oldest" else newest_first
    found: Rows = base[np.argsort(key[base], kind="stable")]
    return found


def _problems(columns: LedgerColumns, asked: str) -> Mapping[str, bool]:
    """By id, whether it is the problem asked for; where none has that id, whether it holds what was asked for."""
    words = columns.words["problem_id"]
    if asked in words:
        return {word: word == asked for word in words}
    part = asked.lower()
    return {word: part in word.lower() for word in words}


def _of_words(columns: LedgerColumns, name: str, wanted: Mapping[str, bool], *, missing: bool = False) -> Mask:
    """Which completions have a wanted word in a column; ``missing``: whether those that have none there are wanted."""
    by_code = np.array([*(wanted[word] for word in columns.words[name]), missing], dtype=bool)
    mask: Mask = by_code[columns.codes[name]]  # MISSING is the last one
    return mask
