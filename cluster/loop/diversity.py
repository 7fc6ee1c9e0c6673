"""Diversity of the programs of a group: exact, and up to renaming of defined names. Pure functions."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from cluster.types import Group, Verdict
from grader.lexical import without_comments

_WORD = r"[a-z_][A-Za-z0-9_']*+"
# Names after a dot (List.map) and labels are kept: one token with what precedes them, so that a name has the same form in all its
# places.
_KEPT = rf"[.~?](?:\s*+[.~?])*+(?:\s*+{_WORD})?+"
_TOKEN = re.compile(rf'"(?:[^"\\]|\\.)*+"|[A-Za-z_][A-Za-z0-9_\']*+|[0-9][0-9A-Za-z_.]*+|{_KEPT}|\S')
_NAME = re.compile(_WORD)
_PART = re.compile(rf"{_WORD}|\S")
# Names with a fixed meaning: keywords, and the values of Stdlib that short programs use.
_FIXED_NAMES = """
and as assert asr begin class constraint do done downto else end exception external false for fun function functor if in
include inherit initializer land lazy let lor lsl lsr lxor match method mod module mutable new nonrec object of open or
private rec sig struct then to true try type val virtual when while with
abs abs_float acos asin at_exit atan atan2 bool_of_string bool_of_string_opt ceil char_of_int classify_float compare cos
cosh decr epsilon_float exit exp failwith float float_of_int float_of_string floor fst ignore in_channel incr infinity
int_of_char int_of_float int_of_string int_of_string_opt invalid_arg log log10 max max_float max_int min min_float min_int
mod_float nan not pred print_char print_endline print_float print_int print_newline print_string raise raise_notrace ref
snd sqrt string_of_bool string_of_float string_of_int succ truncate
array bool bytes char exn format int list option result string unit
"""
_FIXED = frozenset(("_", *_FIXED_NAMES.split()))


class _Forms(dict[str, str]):
    """Token -> its canonical form, in one program."""

    def __init__(self) -> None:
        self._num_names = 0

    def __missing__(self, token: str) -> str:
        if token[0] in ".~?":
            form = " ".join(_PART.findall(token))
        elif token in _FIXED or not _NAME.fullmatch(token):
            form = token
        else:
            form = f"v{self._num_names}"
            self._num_names += 1
        self[token] = form
        return form


def canonical(program: str) -> str:
    """Return the program without comments and layout, with its lower-case names numbered in the order of appearance.

    Programs that differ only in the names of their variables have the same canonical form. Names after a dot (``List.map``) and
    labels are kept.
    """
    return " ".join(map(_Forms().__getitem__, _TOKEN.findall(without_comments(program))))


def diversity(groups: Sequence[Group]) -> dict[str, float]:
    """Return shares, 0 to 1: distinct completions within groups (mean over groups), and the largest sets of equal ones.

    ``top_program_share``: share of completions with the most frequent program (up to renaming) that fails and answers several
    problems. ``top_reward_share``: share of completions with the most frequent reward among those that fail.
    """
    exact: list[float] = []
    renamed: list[float] = []
    problems_of: dict[str, set[str]] = defaultdict(set)  # canonical program that does not pass -> problems
    programs: Counter[str] = Counter()
    rewards: Counter[float] = Counter()
    num_graded = 0
    for group in groups:
        texts = [completion.text.strip() for completion in group.completions]
        canonicals = {text: canonical(text) for text in dict.fromkeys(texts)}
        exact.append(len(canonicals) / len(texts))
        renamed.append(len(set(canonicals.values())) / len(texts))
        for text, grade in zip(texts, group.grades, strict=True):
            if grade is None:
                continue
            num_graded += 1
            if grade.facts.verdict is not Verdict.PASSED:
                programs[canonicals[text]] += 1
                problems_of[canonicals[text]].add(group.problem.id)
                rewards[round(grade.reward, 6)] += 1
    counts = [count for program, count in programs.items() if len(problems_of[program]) > 1]
    return {
        "distinct_share": sum(exact) / len(groups),
        "distinct_share_renamed": sum(renamed) / len(groups),
        "top_program_share": max(counts, default=0) / num_graded,
        "top_reward_share": max(rewards.values(), default=0) / num_graded,
    }
