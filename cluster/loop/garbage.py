"""Garbage collection during the loop."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def existing_objects_frozen() -> Iterator[None]:
    """Exclude the objects that exist now from garbage collection, until the block ends.

    A run starts with more than a hundred thousand objects, most of them of imported libraries. The loop makes enough new ones to
    start full collections, and each would stop the event loop for about 0.1 s to visit objects that are never garbage.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
