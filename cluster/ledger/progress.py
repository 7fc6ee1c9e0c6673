"""State of the loop: steps done and groups in flight, saved with each checkpoint."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cluster.types import Outcome

_STORED = {"outcomes": "fates"}
"""Field -> name in ``progress/step-N.json``, for those that differ."""

_FIELD = {stored: name for name, stored in _STORED.items()}


@dataclass(slots=True)
class Progress:
    """Steps done and stream positions started. The position of a group determines its problem and its seed.

    Each position ends once: its group is trained, filtered or failed. So that no problem is skipped, stale groups are started
    again, and a resumed run starts the positions again that were in flight at its checkpoint.
    """

    step: int = 0  # optimizer steps done, which is also the policy version
    saved_step: int = 0  # the newest step with a checkpoint
    next_position: int = 0  # next position of the problem stream
    num_trained: int = 0  # groups
    num_dropped: int = 0  # groups, without stale ones, which are sampled again
    started: list[int] = field(default_factory=list)  # positions in flight, oldest first
    again: list[int] = field(default_factory=list)  # positions to start before any other
    num_stale: dict[int, int] = field(default_factory=dict)  # position -> number of times that its group was stale
    num_asked: int = 0  # completions
    outcomes: dict[str, int] = field(
        default_factory=dict
    )  # completions by outcome; with those in flight they sum to num_asked

    def start_next(self, group_size: int) -> int:
        """Start the next group, of ``group_size`` completions, and return its position."""
        if self.again:
            position = self.again.pop(0)
        else:
            position = self.next_position
            self.next_position += 1
        self.started.append(position)
        self.num_asked += group_size
        return position

    def attempt_of(self, position: int) -> int:
        """Return the number of the attempt at a position in flight, from 1."""
        return self.num_stale.get(position, 0) + 1

    def step_done(self, positions: Sequence[int]) -> None:
        """Count a step that trained the groups at these positions."""
        for position in positions:
            self._ended(position)
        self.num_trained += len(positions)
        self.step += 1

    def group_dropped(self, position: int) -> None:
        """Count a filtered or failed group."""
        self._ended(position)
        self.num_dropped += 1

    def group_stale(self, position: int) -> None:
        """Count a stale group; its position is started again."""
        self.started.remove(position)
        self.again.append(position)
        self.num_stale[position] = self.num_stale.get(position, 0) + 1

    def count_completions(self, outcome: Outcome, num_completions: int) -> None:
        """Count completions that ended."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + num_completions

    @property
    def num_under_way(self) -> int:
        """Completions requested that have not ended."""
        return self.num_asked - sum(self.outcomes.values())

    def epoch(self, problems_per_epoch: int) -> float:
        """Return the number of passes over the training problems so far."""
        return (self.num_trained + self.num_dropped) / problems_per_epoch

    def problems_per_epoch(self, epoch: float) -> int:
        """Return the number of training problems, given that this progress is ``epoch`` epochs."""
        return round((self.num_trained + self.num_dropped) / epoch)

    def to_json(self) -> str:
        """Return the state to save with a checkpoint of this step."""
        state = asdict(self)
        return json.dumps({_STORED.get(name, name): value for name, value in state.items()})

    @classmethod
    def from_json(cls, text: str) -> "Progress":
        """Restore a state; positions that were in flight are started again, oldest first."""
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
