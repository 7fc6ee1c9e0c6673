"""The walls around a completion, as data and as the command lines that put them up. Pure.

From the outside in:

- its own session and process group, killed on close whatever happened, and by the kernel when the grader dies
  (bubblewrap's ``--die-with-parent``; without bubblewrap the programs end when their request pipe closes);
- an unprivileged user where we are root, so that the limit on processes means something;
- rlimits: address space, no file may grow, few descriptors, few processes, no core;
- an empty environment, a throw-away directory that is gone once the program runs, the null device as stderr;
- bubblewrap, where it works: no network, own process table, a read-only file system that holds the program, the
  libraries it is linked with and what it must read, and nothing else;
- inside of all that, the language filter of ``grader/ocaml/policy.ml``: the one wall that stops reward hacking.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

NOBODY = 65534


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the kernel allows a server and its forks; inherited, never raised."""

    memory_mib: int
    num_files: int = 32
    num_processes: int = 4096  # of nobody, over all graders of this machine; where we are not root it is not set
    file_size_kib: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """An executable, and what it has to see of the file system."""

    path: Path
    libraries: tuple[Path, ...] = ()  # shared objects, at the places where the loader looks for them
    readable: tuple[Path, ...] = ()  # files and folders it reads
    companion: Path | None = None  # another file that it is given, as its only argument
    environment: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Walls:
    """Which walls stand on this machine."""

    bubblewrap: Path | None

    def describe(self) -> str:
        """One line for the log."""
        inside = "bubblewrap (no network, no files, own process table)" if self.bubblewrap else "NO bubblewrap"
        return f"grader walls: language filter, rlimits, process group, unprivileged user, {inside}"


def unprivileged_user_id() -> int | None:
    """The user to become: nobody where we are root, else nobody else than ourselves."""
    return NOBODY if os.geteuid() == 0 else None


def bubblewrap_options(readable: Sequence[Path]) -> list[str]:
    """What bubblewrap is told: nothing of this machine but these files and folders, read-only."""
    options = ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv", "--chdir", "/"]
    for path in readable:
        options += ["--ro-bind", str(path), str(path)]
    # The root itself is memory that bubblewrap made; nothing may be written there either.
    return [*options, "--remount-ro", "/"]


def limit_script(limits: Limits) -> str:
    """Shell commands that set the limits, or end the shell where one cannot be set."""
    settings = {
        "-v": limits.memory_mib * 1024,
        "-c": 0,
        "-f": limits.file_size_kib * 2,
        "-n": limits.num_files,
    }
    fixed = " && ".join(f"ulimit {flag} {value}" for flag, value in settings.items())
    if unprivileged_user_id() is None:
        # Our own user's processes count as well, and may be more than any sensible limit already.
        return f"{fixed} || exit 125"
    # dash spells the limit on processes -p, bash spells it -u.
    processes = f"{{ ulimit -p {limits.num_processes} || ulimit -u {limits.num_processes}; }} 2>/dev/null"
    return f"{fixed} && {processes} || exit 125"
