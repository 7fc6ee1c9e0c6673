"""Search for completions: filters use the columns in memory, a text search reads the ledger's files one by one."""

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

FIRST_CPU_SECONDS, NEXT_CPU_SECONDS = 0.4, 1.0
"""CPU budget of a text search: in its first request, and in each later request, which continues the search."""

MAX_TEXT_SEARCHES = 8  # text searches whose matches are cached
MAX_RESULTS = 6  # complete results that are cached

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The result of a query so far."""

    rows: Rows  # in the order of the query
    num_searched: int  # candidates whose texts were searched; all of them without a text search
    num_candidates: int  # completions that match all filters except the text

    @property
    def is_complete(self) -> bool:
        """True when every candidate was searched."""
        return self.num_searched == self.num_candidates


class Finder:
    """Answers queries and caches the results."""

    def __init__(self) -> None:
        self._searches: OrderedDict[tuple[str, bool], TextSearch] = OrderedDict()
        self._columns = LedgerColumns()  # the cached results are for these columns
        self._results: OrderedDict[Query, SearchResult] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, columns: LedgerColumns, query: Query) -> SearchResult:
        """Find the completions of all pages of a query; a text search may take several calls to complete."""
        key = query.with_page(1)
        with self._lock:
            if columns is not self._columns:
                self._columns = columns
                self._results.clear()
            if key in self._results:
                self._results.move_to_end(key)
                return self._results[key]
        candidates = np.flatnonzero(matching(columns, query))
        rows, num_searched = candidates, len(candidates)
        if query.code:
            search = self._text_search(query)
            seconds = NEXT_CPU_SECONDS if search.has_started else FIRST_CPU_SECONDS
            rows, num_searched = search.search(columns, candidates, seconds)
        result = SearchResult(
            rows=ordered(columns, rows, query.order), num_searched=num_searched, num_candidates=len(candidates)
        )
        if result.is_complete:
            with self._lock:
                if columns is self._columns:
                    self._results[key] = result
                while len(self._results) > MAX_RESULTS:
                    self._results.popitem(last=False)
        return result

    def _text_search(self, query: Query) -> "TextSearch":
        key = (query.code, query.matches_case)
        with self._lock:
            search = self._searches.setdefault(key, TextSearch(*key))
            self._searches.move_to_end(key)
            while len(self._searches) > MAX_TEXT_SEARCHES:
                self._searches.popitem(last=False)
        return search


class TextSearch:
    """Search for one text, file by file. The matches of each file are cached, so that each file is read once."""

    def __init__(self, needle: str, matches_case: bool) -> None:
        self._needle, self._matches_case = needle, matches_case
        self._matches: dict[File, Rows] = {}  # rows within the file
        self._lock = threading.Lock()

    @property
    def has_started(self) -> bool:
        """True once a file was searched."""
        return bool(self._matches)

    def search(self, columns: LedgerColumns, candidates: Rows, cpu_seconds: float) -> tuple[Rows, int]:
        """Search the newest files first, for ``cpu_seconds`` at most.

        Returns the candidates (ascending) that contain the text, and the number of candidates searched so far.
        """
        bounds = np.searchsorted(candidates, columns.starts)
        file_numbers = np.flatnonzero(np.diff(bounds))[::-1]  # of the files that have candidates
        deadline = time.thread_time() + cpu_seconds
        matches: list[Rows] = []
        num_searched = 0
        with self._lock:
            for number in file_numbers:
                file = columns.files[number]
                if file not in self._matches:
                    if time.thread_time() > deadline:
                        continue
                    self._matches[file] = self._search_file(file)
                matches.append(self._matches[file] + columns.starts[number])
                num_searched += int(bounds[number + 1] - bounds[number])
        return np.intersect1d(np.concatenate(matches), candidates) if matches else candidates[:0], num_searched

    def _search_file(self, file: File) -> Rows:
        import pyarrow as pa
        import pyarrow.compute as pc

        try:
            column = read_rollouts(file.path, ("text",)).column("text")
        except RunFolderError:  # removed or damaged since it was listed: the ledger watch reports it
            return np.zeros(0, np.int64)
        is_match = pc.match_substring(column, self._needle, ignore_case=not self._matches_case)
        return np.flatnonzero(as_numpy(pa.concat_arrays(is_match.cast(pa.int32()).chunks), np.int32, 0))


def matching(columns: LedgerColumns, query: Query, *, any_verdict: bool = False) -> Mask:
    """Mask ``[N]`` of the completions that match all filters except the text; ``any_verdict`` ignores the verdict too."""
    mask = np.ones(columns.num_rows, dtype=bool)
    if query.problem:
        mask &= _has_word(columns, "problem_id", _matching_problems(columns, query.problem))
    if query.verdicts and not any_verdict:
        wanted = {word: word in query.verdicts for word in columns.words["verdict"]}
        mask &= _has_word(columns, "verdict", wanted, missing=NOT_GRADED in query.verdicts)
    if query.outcomes:
        mask &= _has_word(columns, "fate", {word: word in query.outcomes for word in columns.words["fate"]})
    if query.is_low_quality:
        mask &= _has_word(columns, "signs", {word: bool(word) for word in columns.words["signs"]})
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
    """Number of completions of each verdict that match all filters except verdict and text."""
    codes = columns.codes["verdict"][matching(columns, query, any_verdict=True)]
    words = columns.words["verdict"]
    counts = np.bincount(codes - MISSING, minlength=len(words) + 1)
    return {NOT_GRADED: int(counts[0]), **{word: int(num) for word, num in zip(words, counts[1:], strict=True)}}


def ordered(columns: LedgerColumns, rows: Rows, order: str) -> Rows:
    """Sort ascending rows by an order of query.ORDERS. Ties: newest first; rows without a value come last."""
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
    sorted_rows: Rows = base[np.argsort(key[base], kind="stable")]
    return sorted_rows


def _matching_problems(columns: LedgerColumns, text: str) -> Mapping[str, bool]:
    """Match problem ids: the id that equals ``text``, or, if there is none, every id that contains it."""
    problem_ids = columns.words["problem_id"]
    if text in problem_ids:
        return {problem_id: problem_id == text for problem_id in problem_ids}
    part = text.lower()
    return {problem_id: part in problem_id.lower() for problem_id in problem_ids}


def _has_word(columns: LedgerColumns, name: str, wanted: Mapping[str, bool], *, missing: bool = False) -> Mask:
    """Mask ``[N]`` of the completions whose text in a column is wanted; ``missing`` is the result for those without a text."""
    by_code = np.array([*(wanted[word] for word in columns.words[name]), missing], dtype=bool)
    mask: Mask = by_code[columns.codes[name]]  # MISSING is -1, the last element
    return mask
