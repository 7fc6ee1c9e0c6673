"""How far a run has come, in a form that resuming can read back."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cluster.types import Outcome

_STORED = {"outcomes": "fates"}
"""Field -> name in ``progress/step-N.json``, where they differ."""

_FIELD = {stored: name for name, stored in _STORED.items()}


@dataclass(slots=True)
class Progress:
    """Steps done and stream positions started; the position of a group is what problem it asks and how it is seeded.

    A position ends once: its group is trained, filtered or failed. One that was given up as stale is started again, and so is,
    by whoever resumes from a checkpoint, one that had not ended when that was written: no problem is skipped.
    """

    step: int = 0  # optimizer steps done, which is also the policy version
    saved_step: int = 0  # the newest step with a checkpoint
    next_position: int = 0  # of the problem stream
    num_trained: int = 0  # groups
    num_dropped: int = 0  # groups, stale ones not counted: they come again
    started: list[int] = field(default_factory=list)  # positions under way, oldest first
    again: list[int] = field(default_factory=list)  # positions to start before any other
    num_stale: dict[int, int] = field(default_factory=dict)  # by position, how often it was given up as stale
    num_asked: int = 0  # completions
    outcomes: dict[str, int] = field(
        default_factory=dict
    )  # completions by outcome; with those under way they are num_asked

    def start_next(self, group_size: int) -> int:
        """The position of the next group to sample, which has that many completions."""
        if self.again:
            position = self.again.pop(0)
        else:
            position = self.next_position
            self.next_position += 1
        self.started.append(position)
        self.num_asked += group_size
        return position

    def attempt_of(self, position: int) -> int:
        """How many groups were asked for at a position that is under way, this one included."""
        return self.num_stale.get(position, 0) + 1

    def step_done(self, positions: Sequence[int]) -> None:
        """A step trained the groups at these positions."""
        for position in positions:
            self._ended(position)
        self.num_trained += len(positions)
        self.step += 1

    def dropped(self, position: int) -> None:
        """The group at this position was filtered or failed."""
        self._ended(position)
        self.num_dropped += 1

    def stale(self, position: int) -> None:
        """The group at this position was given up because it would have been too old; it comes again."""
        self.started.remove(position)
        self.again.append(position)
        self.num_stale[position] = self.num_stale.get(position, 0) + 1

    def count(self, outcome: Outcome, num_completions: int) -> None:
        """So many completions ended."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + num_completions

    @property
    def num_under_way(self) -> int:
        """Completions that were asked for and have not ended."""
        return self.num_asked - sum(self.outcomes.values())

    def epoch(self, problems_per_epoch: int) -> float:
        """Passes over the training problems so far."""
        return (self.num_trained + self.num_dropped) / problems_per_epoch

    def problems_per_epoch(self, epoch: float) -> int:
        """How many training problems there are, where this progress is that many epochs: the other way round."""
        return round((self.num_trained + self.num_dropped) / epoch)

    def to_json(self) -> str:
        """The state that goes beside a checkpoint of this step."""
        state = asdict(self)
        return json.dumps({_STORED.get(name, name): value for name, value in state.items()})

    @classmethod
    def from_json(cls, text: str) -> "Progress":
        """Go on from a state: what was under way is started again, oldest first."""
        state: dict[str, Any] = json.loads(text)
        progress = cls(**{_FIELD.get(name, name): value for name, value in state.items()})
        progress.num_stale = {int(position): number for position, number in progress.num_stale.items()}
        progress.saved_step = progress.step
        progress.again = progress.started + progress.again
        progress.started = []
        progress.num_asked -= progress.num_under_way
        return progress

    def _ended(self, position: int) -> None:
        self.started.remove(position)
        self.num_stale.pop(position, None)
