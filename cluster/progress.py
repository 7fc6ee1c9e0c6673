"""How far a run has come, in a form that resuming can read back."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class Progress:
    """Steps done and stream positions started; the position of a group is what problem it asks and how it is seeded.

    A position that was started but neither trained nor dropped when a checkpoint was written is started again by whoever
    resumes from it, so that no problem is skipped.
    """

    step: int = 0  # optimizer steps done, which is also the policy version
    saved_step: int = 0  # the newest step with a checkpoint
    next_position: int = 0  # of the problem stream
    num_trained: int = 0  # groups
    num_dropped: int = 0  # groups
    started: list[int] = field(default_factory=list)  # positions under way, oldest first
    again: list[int] = field(default_factory=list)  # positions that were under way when the run was interrupted

    def start_next(self) -> int:
        """The position of the next group to sample."""
        if self.again:
            position = self.again.pop(0)
        else:
            position = self.next_position
            self.next_position += 1
        self.started.append(position)
        return position

    def step_done(self, positions: list[int]) -> None:
        """A step trained the groups at these positions."""
        for position in positions:
            self.started.remove(position)
        self.num_trained += len(positions)
        self.step += 1

    def dropped(self, position: int) -> None:
        """The group at this position ended without being trained."""
        self.started.remove(position)
        self.num_dropped += 1

    def epoch(self, problems_per_epoch: int) -> float:
        """Passes over the training problems so far."""
        return (self.num_trained + self.num_dropped) / problems_per_epoch

    def to_json(self) -> str:
        """The state that goes beside a checkpoint of this step."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Progress":
        """Go on from a state: what was under way is started again, oldest first."""
        state: dict[str, Any] = json.loads(text)
        progress = cls(**state)
        progress.saved_step = progress.step
        progress.again = progress.started + progress.again
        progress.started = []
        return progress
