"""The walls around a completion, as data and as the command lines that put them up. Pure.

From the outside in:

- its own session and process group, killed on close whatever happened, and by the kernel when the grader dies
  (bubblewrap's ``--die-with-parent``; without bubblewrap the programs end when their request pipe closes);
- an unprivileged user where we are root, so that the limit on processes means something;
- rlimits: address space, no file may grow, few descriptors, few processes, no core;
- an empty environment, the null device as stderr;
- bubblewrap, where it works: no network, own process table, a read-only file system that holds the program, the
  libraries it is linked with and what it must read, and nothing else;
- seccomp, landlock and tighter limits around the processes that hold a completion (``grader/ocaml/contain.ml``): they
  compute and talk over the pipes they have, with bubblewrap or without;
- inside of all that, the language filter of ``grader/ocaml/policy.ml``: the one wall that stops reward hacking.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

NOBODY = 65534
LIMITS_REFUSED = 125  # exit status of the shell that sets a server's limits, where it cannot
STACK_KIB = 8192  # what Linux gives by default: the depth of a program that compiles must not depend on the machine
KERNEL_LAYERS = ("seccomp", "landlock")
_USER_CAPABILITIES = 1 << 5 | 1 << 6 | 1 << 7  # CAP_KILL, CAP_SETGID, CAP_SETUID


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
class Sandbox:
    """Which walls stand on this machine."""

    bubblewrap: Path | None
    why_no_bubblewrap: str = ""
    kernel: tuple[str, ...] | None = None  # those of KERNEL_LAYERS that stand; None: not asked

    @property
    def missing(self) -> tuple[str, ...]:
        """The walls that do not stand, each with its reason where that is known."""
        bubblewrap = () if self.bubblewrap else (f"bubblewrap ({self.why_no_bubblewrap})",)
        kernel = KERNEL_LAYERS if self.kernel is None else self.kernel
        return (*bubblewrap, *(f"{wall} (the kernel does not give it)" for wall in KERNEL_LAYERS if wall not in kernel))

    @property
    def sandboxed(self) -> bool:
        """Whether files, network and other processes are out of reach twice, whatever the language filter lets through."""
        return self.bubblewrap is not None and (self.kernel is None or "seccomp" in self.kernel)

    def describe(self) -> str:
        """One line for the log."""
        outside = ["bubblewrap (no network, no files, own process table)"] if self.bubblewrap else []
        user = "an unprivileged user" if unprivileged_user_id() is not None else "the user's own rights"
        standing = ", ".join([*outside, *(self.kernel or ()), "rlimits", "process group", user, "language filter"])
        return f"grader walls: {standing}" + (f"; MISSING: {', '.join(self.missing)}" if self.missing else "")


def unprivileged_user_id() -> int | None:
    """The user to become: nobody where we are root and may, else nobody else than ourselves."""
    return NOBODY if os.geteuid() == 0 and _has_user(NOBODY) and _may_change_users() else None


def _may_change_users() -> bool:
    """Whether root has the rights to become another user and to end its processes: containers may take them away."""
    status = Path("/proc/self/status")
    found = re.search(r"^CapEff:\s*(\w+)$", status.read_text() if status.exists() else "", re.MULTILINE)
    return found is None or int(found[1], 16) & _USER_CAPABILITIES == _USER_CAPABILITIES


def _has_user(user_id: int) -> bool:
    """Whether there is such a user here: some containers have a root and nobody else."""
    uid_map = Path("/proc/self/uid_map")
    ranges = [tuple(map(int, line.split())) for line in uid_map.read_text().splitlines()] if uid_map.exists() else []
    return not ranges or any(first <= user_id < first + count for first, _, count in ranges)


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
        "-s": STACK_KIB,
    }
    fixed = " && ".join(f"ulimit {flag} {value}" for flag, value in settings.items())
    if unprivileged_user_id() is None:
        # Our own user's processes count as well, and may be more than any sensible limit already.
        return f"{fixed} || exit {LIMITS_REFUSED}"
    # dash spells the limit on processes -p, bash spells it -u.
    processes = f"{{ ulimit -p {limits.num_processes} || ulimit -u {limits.num_processes}; }} 2>/dev/null"
    return f"{fixed} && {processes} || exit {LIMITS_REFUSED}"
