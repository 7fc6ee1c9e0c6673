"""Which policy versions a pool has to keep: the current one, and those that groups are still sampled under."""

from collections import Counter
from collections.abc import Sequence
from typing import Generic, TypeVar

Handle = TypeVar("Handle")


class LivePolicies(Generic[Handle]):
    """Handles of published policies, each kept for as long as somebody may need it; version 0, the base, has none."""

    def __init__(self) -> None:
        self.current = 0  # what new groups are sampled under
        self._handles: dict[int, Handle] = {}
        self._num_groups: Counter[int] = Counter()

    def acquire(self) -> int:
        """Return the current version and keep it until it is released as often."""
        self._num_groups[self.current] += 1
        return self.current

    def release(self, version: int) -> None:
        """Undo one ``acquire``."""
        self._num_groups[version] -= 1

    def add(self, version: int, handle: Handle) -> frozenset[int]:
        """Keep a version that is about to be published and return all that samplers must be able to sample from.

        The version that it will replace is always among them. What is not among them is forgotten.
        """
        self._handles[version] = handle
        live = frozenset(v for v in self._handles if v in (version, self.current) or self._num_groups[v] > 0)
        self._handles = {v: self._handles[v] for v in sorted(live)}
        return live

    def discard(self, version: int) -> None:
        """Forget a version that could not be published."""
        del self._handles[version]

    def promote(self, version: int) -> None:
        """Sample new groups under a version from now on."""
        self.current = version

    @property
    def newest(self) -> int:
        """The last version that is kept, published or about to be; 0 where there is none."""
        return max(self._handles, default=0)

    def handles(self) -> Sequence[tuple[int, Handle]]:
        """All versions that are kept, oldest first."""
        return tuple(self._handles.items())
