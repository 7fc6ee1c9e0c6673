"""Mounts as containers have them, in a mount namespace of a command's own."""

import subprocess
from collections.abc import Sequence
from functools import cache

DOCKERS_SHARED_MEMORY = "mount -t tmpfs -o nosuid,nodev,noexec,size=64m shm /dev/shm"
_UNSHARE = ("unshare", "--mount", "--propagation", "private", "/bin/sh", "-ec")


@cache
def can_mount() -> bool:
    """Whether this process may: root may, but for containers without CAP_SYS_ADMIN."""
    try:
        return subprocess.run(behind("mount -t tmpfs none /mnt", ["true"]), capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def behind(mounts: str, command: Sequence[str]) -> list[str]:
    """The command line that mounts what these lines of shell say, and becomes the command."""
    return [*_UNSHARE, f'{mounts}\nexec "$@"', "sh", *command]
