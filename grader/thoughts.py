"""Thoughts of a completion, their positions in its text as sampled, and the number of tokens in them. Pure and linear."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple


class Thought(NamedTuple):
    """Text that precedes the answer or interrupts it: a thought, or another role's turn."""

    start: int  # completion[start:end], tags included
    end: int
    at: int  # position in the answer where it was
    text: str  # without its tags


@dataclass(frozen=True, slots=True)
class EditedText:
    """A text in which parts were replaced, with the positions of the others in the text before."""

    text: str
    before: "EditedText | None" = None
    anchors: Sequence[tuple[int, int]] = ((0, 0),)  # (position here, position before), after each replaced part

    def replaced(self, parts: Iterable[tuple[int, int, str]]) -> "EditedText":
        """Replace ``text[start:end]`` by a string, for each (start, end, string) in ascending order."""
        kept: list[str] = []
        anchors = [(0, 0)]
        position = length = 0
        for start, end, new in parts:
            kept += [self.text[position:start], new]
            length += start - position + len(new)
            anchors.append((length, end))
            position = end
        if not kept:
            return self
        return EditedText("".join([*kept, self.text[position:]]), self, anchors)

    def original(self, position: int) -> int:
        """Return the position in the first text of a position in this one."""
        here, start = self.anchors[bisect_right(self.anchors, position, key=itemgetter(0)) - 1]
        position = start + position - here
        return position if self.before is None else self.before.original(position)


def num_thought_tokens(thoughts: Sequence[Thought], token_ends: Sequence[int]) -> int | None:
    """Count the tokens of a completion that begin inside its thoughts.

    Args:
        thoughts: of the completion, in order.
        token_ends: position in the completion's text where each of its tokens ends, ascending; empty: unknown.

    None: there are thoughts, but the tokens are unknown. Tokens without text count where they stand.
    """
    if not thoughts:
        return 0
    if not token_ends:
        return None
    starts = (0, *token_ends[:-1])
    # A thought that the text ends with includes the tokens without text after it.
    return sum(
        (len(starts) if thought.end >= token_ends[-1] else bisect_left(starts, thought.end))
        - bisect_left(starts, thought.start)
        for thought in thoughts
    )
