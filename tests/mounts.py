"""Mounts like those of containers, in a separate mount namespace for one command."""

import subprocess
from collections.abc import Sequence
from functools import cache

DOCKERS_SHARED_MEMORY = "mount -t tmpfs -o nosuid,nodev,noexec,size=64m shm /dev/shm"
_UNSHARE = ("unshare", "--mount", "--propagation", "private", "/bin/sh", "-ec")


@cache
def can_mount() -> bool:
    """Return True if this process may mount: as root, except in containers without CAP_SYS_ADMIN."""
    try:
        return subprocess.run(with_mounts("mount -t tmpfs none /mnt", ["true"]), capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def with_mounts(mounts: str, command: Sequence[str]) -> list[str]:
    """Return a command line that runs the shell lines ``mounts`` and then the command."""
    return [*_UNSHARE, f'{mounts}\nexec "$@"', "sh", *command]
