"""A report that a joined Ray cluster has ended. Ray then ends this process at once, so a child process reports it.

    python -m cluster.placement.sentinel MESSAGE HOST:PORT ...

The child reads its input to the end. It prints the message if the input does not end with DONE and one of the addresses no
longer answers.
"""

import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

DONE = b"done"
SETTLE_SECONDS = 10.0
"""Time for the cluster to end: the parent may end before it."""


@contextmanager
def announced(message: str, addresses: Sequence[str]) -> Iterator[None]:
    """Start a child process, for the block, that prints the message if this process ends together with one of the addresses."""
    reads, writes = os.pipe()
    child = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "cluster.placement.sentinel", message, *addresses],
        {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        file_actions=[(os.POSIX_SPAWN_DUP2, reads, 0), (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
        setsid=True,  # Ctrl-C goes only to the parent
    )
    os.close(reads)
    try:
        yield
    finally:
        os.write(writes, DONE)
        os.close(writes)
        os.waitpid(child, 0)


def main(arguments: Sequence[str], seconds: float = SETTLE_SECONDS) -> None:
    """Wait for the parent to end, and print the message if its cluster has ended too."""
    message, *addresses = arguments
    if sys.stdin.buffer.read().endswith(DONE):
        return
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not all(_answers(address) for address in addresses):
            print(f"caravan: {message}", file=sys.stderr)
            return
        time.sleep(0.5)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
