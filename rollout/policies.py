"""Policy versions that a pool keeps: the current one, and those under which groups are still sampled."""

from collections import Counter
from collections.abc import Sequence
from typing import Generic, TypeVar

Handle = TypeVar("Handle")


class LivePolicies(Generic[Handle]):
    """Handles of published policies, each kept while a sampler may need it; version 0 has one only if it is an
    adapter, and none if it is the base model.
    """

    def __init__(self) -> None:
        self.current = 0  # the version of new groups
        self._handles: dict[int, Handle] = {}
        self._num_groups: Counter[int] = Counter()

    def acquire(self) -> int:
        """Return the current version. It stays live until ``release`` was called as often as ``acquire``."""
        self._num_groups[self.current] += 1
        return self.current

    def release(self, version: int) -> None:
        """Undo one ``acquire``."""
        self._num_groups[version] -= 1

    def add(self, version: int, handle: Handle) -> frozenset[int]:
        """Add a version that is about to be published, and return all live versions, which samplers must keep.

        The current version is among them: the new one replaces it only in ``promote``. The handles of versions that are no
        longer live are dropped.
        """
        self._handles[version] = handle
        live = frozenset(v for v in self._handles if v in (version, self.current) or self._num_groups[v] > 0)
        self._handles = {v: self._handles[v] for v in sorted(live)}
        return live

    def discard(self, version: int) -> None:
        """Remove a version that could not be published."""
        del self._handles[version]

    def promote(self, version: int) -> None:
        """Make a version the current one."""
        self.current = version

    def is_new(self, version: int) -> bool:
        """Return True if a version may be published: it is newer than the current one, or the initial adapter."""
        return version > self.current or (version == 0 and not self._handles)

    @property
    def newest(self) -> int:
        """The newest version, published or about to be; 0 if there is none."""
        return max(self._handles, default=0)

    def handles(self) -> Sequence[tuple[int, Handle]]:
        """Return all live versions with their handles, oldest first."""
        return tuple(self._handles.items())
