"""The sandbox around a completion, as data and as command lines. Pure.

Its layers, from the outside in:

- a session and process group of its own, which the grader kills on close, and the kernel if the grader dies (bubblewrap's
  ``--die-with-parent``; without bubblewrap the programs end when their request pipe closes);
- an unprivileged user if the grader is root, so that the limit on processes applies;
- rlimits: address space, files that cannot grow, few descriptors, few processes, no core dump;
- an empty environment, and the null device as stderr;
- bubblewrap, if it works: no network, own process table, and a read-only file system with only the program, its libraries
  and the files it reads;
- seccomp, landlock and tighter limits around the processes that hold a completion (``grader/ocaml/contain.ml``): even without
  bubblewrap these can only compute and use their open pipes;
- the language filter of ``grader/ocaml/policy.ml``: the only layer that prevents reward hacking.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

NOBODY = 65534
LIMITS_REFUSED = 125  # exit status of the shell that cannot set a server's limits
STACK_KIB = 8192  # the default of Linux: how deep a program may nest must not depend on the machine
KERNEL_LAYERS = ("seccomp", "landlock")
_USER_CAPABILITIES = 1 << 5 | 1 << 6 | 1 << 7  # CAP_KILL, CAP_SETGID, CAP_SETUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Kernel limits of a server; its forks inherit them and cannot raise them."""

    memory_mib: int
    num_files: int = 32
    num_processes: int = 4096  # all processes of the user nobody on this machine; set only if the grader is root
    file_size_kib: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """An executable, and the files it needs."""

    path: Path
    libraries: tuple[Path, ...] = ()  # shared objects, at the paths where the loader looks for them
    readable: tuple[Path, ...] = ()  # files and folders it reads
    companion: Path | None = None  # its only argument
    environment: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """The optional sandbox layers that work on this machine."""

    bubblewrap: Path | None
    why_no_bubblewrap: str = ""
    kernel: tuple[str, ...] | None = None  # those of KERNEL_LAYERS that work; None: not probed

    @property
    def missing(self) -> tuple[str, ...]:
        """Layers that are missing, each with its reason if known."""
        bubblewrap = () if self.bubblewrap else (f"bubblewrap ({self.why_no_bubblewrap})",)
        kernel = KERNEL_LAYERS if self.kernel is None else self.kernel
        refused = (f"{layer} (the kernel refuses it)" for layer in KERNEL_LAYERS if layer not in kernel)
        return (*bubblewrap, *refused)

    @property
    def sandboxed(self) -> bool:
        """True if, besides the language filter, two layers block access to files, network and other processes."""
        return self.bubblewrap is not None and (self.kernel is None or "seccomp" in self.kernel)

    def describe(self) -> str:
        """One line for the log."""
        outside = ["bubblewrap (no network, no files, own process table)"] if self.bubblewrap else []
        user = "an unprivileged user" if unprivileged_user_id() is not None else "the user's own rights"
        active = ", ".join([*outside, *(self.kernel or ()), "rlimits", "process group", user, "language filter"])
        return f"grader sandbox: {active}" + (f"; MISSING: {', '.join(self.missing)}" if self.missing else "")


def unprivileged_user_id() -> int | None:
    """Id of the user that runs the programs: nobody if the grader is root and may change users; None: its own user."""
    return NOBODY if os.geteuid() == 0 and _has_user(NOBODY) and _may_change_users() else None


def _may_change_users() -> bool:
    """Return whether root may become another user and end its processes; containers may remove these rights."""
    status = Path("/proc/self/status")
    found = re.search(r"^CapEff:\s*(\w+)$", status.read_text() if status.exists() else "", re.MULTILINE)
    return found is None or int(found[1], 16) & _USER_CAPABILITIES == _USER_CAPABILITIES


def _has_user(user_id: int) -> bool:
    """Return whether the user exists here: some containers have only root."""
    uid_map = Path("/proc/self/uid_map")
    ranges = [tuple(map(int, line.split())) for line in uid_map.read_text().splitlines()] if uid_map.exists() else []
    return not ranges or any(first <= user_id < first + count for first, _, count in ranges)


def bubblewrap_options(readable: Sequence[Path]) -> list[str]:
    """Options of bubblewrap under which the program sees only these files and folders, read-only."""
    options = ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv", "--chdir", "/"]
    for path in readable:
        options += ["--ro-bind", str(path), str(path)]
    # The root itself is a memory file system of bubblewrap's; it must not be writable either.
    return [*options, "--remount-ro", "/"]


def limit_script(limits: Limits) -> str:
    """Shell commands that set the limits, and end the shell if one cannot be set."""
    settings = {
        "-v": limits.memory_mib * 1024,
        "-c": 0,
        "-f": limits.file_size_kib * 2,
        "-n": limits.num_files,
        "-s": STACK_KIB,
    }
    fixed = " && ".join(f"ulimit {flag} {value}" for flag, value in settings.items())
    if unprivileged_user_id() is None:
        # The limit would also count the user's other processes, which may exceed any sensible limit already.
        return f"{fixed} || exit {LIMITS_REFUSED}"
    # dash spells the limit on processes -p, bash spells it -u.
    processes = f"{{ ulimit -p {limits.num_processes} || ulimit -u {limits.num_processes}; }} 2>/dev/null"
    return f"{fixed} && {processes} || exit {LIMITS_REFUSED}"
