"""The operating system's sandbox layers, with programs that the language filter would refuse."""

import multiprocessing
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from cluster.errors import DeadlineExceeded, SandboxError, UngradableError
from cluster.types import FinishReason, Verdict
from grader.grade import Grader
from grader.process import Server, probe_sandbox, run_command
from grader.sandbox import Limits, Program, Sandbox, unprivileged_user_id

from .conftest import QUICK
from .problems import TWICE

SANDBOX = probe_sandbox(require_sandbox=False)
needs_bubblewrap = pytest.mark.skipif(SANDBOX.bubblewrap is None, reason="bubblewrap does not work here")
SHELL_FOLDERS = tuple(path for path in map(Path, ("/usr", "/bin", "/lib", "/lib64")) if path.exists())
# One frame with one field: a greeting, so that the server counts as started. An answer has the same form.
FRAME = r"""frame() { n=${#1}; printf '\000\000\000'; printf "\\$(printf %o $((n+4)))"; printf '\000\000\000';
printf "\\$(printf %o $n)"; printf '%s' "$1"; }; frame ready; """


def serve(open_folder: Path, script: str, sandbox: Sandbox = SANDBOX) -> Server:
    """A server that greets and then runs a shell script."""
    program = open_folder / "hostile"
    # The loop keeps the program alive after the script; it ignores the request.
    program.write_text(f"#!/bin/sh\n{FRAME}\n{script}\nwhile read -r line; do :; done\n")
    program.chmod(0o755)
    return Server(Program(path=program, readable=SHELL_FOLDERS), Limits(memory_mib=256), sandbox)


def verdict_of(open_folder: Path, attempt: str) -> str:
    """Return "done" if a shell command works in the sandbox, else "refused"."""
    with serve(open_folder, f"if ( {attempt} ) >&2; then frame done; else frame refused; fi") as server:
        answer = server.ask([], deadline_seconds=20)
    return answer[0].decode()


def descendants() -> set[int]:
    """Return the descendants of this process."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(entry.parent.name)] = int(fields[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def test_verdict_of_distinguishes_success_from_refusal(open_folder: Path) -> None:
    assert verdict_of(open_folder, "true") == "done"
    assert verdict_of(open_folder, "false") == "refused"


@needs_bubblewrap
@pytest.mark.parametrize(
    "attempt",
    [
        "cat /etc/passwd",
        "ls /home",
        "ls /root",
        "ls /work",
        "ls /proc/1",
        "cat /dev/null",
        "touch /pwned",
        "touch /tmp/pwned",
        "mkdir /pwned",
        "echo x > /hostile",
        "mount -t tmpfs none /usr",
        "exec 3<>/dev/tcp/127.0.0.1/22",
        "getent hosts localhost && python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 22), 1)'",
    ],
)
def test_the_sandbox_has_no_file_network_or_process(open_folder: Path, attempt: str) -> None:
    assert verdict_of(open_folder, attempt) == "refused"


@needs_bubblewrap
def test_files_next_to_the_program_are_hidden(open_folder: Path) -> None:
    (open_folder / "secret").touch()
    assert verdict_of(open_folder, f"test -e {open_folder / 'secret'}") == "refused"


@needs_bubblewrap
def test_other_processes_cannot_be_seen_or_killed(open_folder: Path) -> None:
    assert verdict_of(open_folder, f"kill -0 {os.getpid()}") == "refused"
    # Process 1 in the sandbox is bubblewrap; there is no other process to signal.
    assert verdict_of(open_folder, "kill -0 2 && kill -0 3 && kill -0 4 && kill -0 5") == "refused"


@needs_bubblewrap
def test_the_environment_is_empty(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    assert verdict_of(open_folder, 'test -n "$SECRET_TOKEN"') == "refused"


def test_the_environment_is_empty_without_bubblewrap(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    bare = Sandbox(bubblewrap=None)
    with serve(open_folder, 'if test -n "$SECRET_TOKEN"; then frame done; else frame refused; fi', bare) as server:
        assert server.ask([], deadline_seconds=20) == [b"refused"]


@pytest.mark.parametrize("sandbox", [SANDBOX, Sandbox(bubblewrap=None)], ids=["sandbox", "bare"])
def test_no_file_can_grow_and_the_user_is_not_root(open_folder: Path, sandbox: Sandbox) -> None:
    if os.geteuid() == 0 and unprivileged_user_id() is None:
        pytest.skip("root is the only user here")
    script = 'if test "$(id -u)" = 0; then frame root; elif head -c 9999 /dev/zero > grown; then frame grown; '
    with serve(open_folder, script + "else frame refused; fi", sandbox) as server:
        assert server.ask([], deadline_seconds=20) == [b"refused"]


def test_a_fork_bomb_dies_with_its_server(open_folder: Path) -> None:
    before = descendants()
    with serve(open_folder, "i=0; while [ $i -lt 200 ]; do sleep 600 & i=$((i+1)); done; sleep 600") as server:
        with pytest.raises(DeadlineExceeded):
            server.ask([], deadline_seconds=1.0)
        assert descendants() - before
    for _ in range(50):
        if not descendants() - before:
            break
        time.sleep(0.1)
    assert not descendants() - before


def test_memory_is_bounded(open_folder: Path) -> None:
    script = "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done"
    with serve(open_folder, script) as server, pytest.raises(UngradableError, match="died"):
        server.ask([], deadline_seconds=30)


def test_a_flood_of_output_is_bounded(open_folder: Path) -> None:
    script = "while :; do printf '\\377\\377\\377\\377%0100000d' 1; done"
    with serve(open_folder, script) as server, pytest.raises(UngradableError, match="announces"):
        server.ask([], deadline_seconds=20)


def test_a_server_that_does_not_answer_exceeds_the_deadline(open_folder: Path) -> None:
    with serve(open_folder, "while :; do :; done") as server, pytest.raises(DeadlineExceeded):
        server.ask([], deadline_seconds=0.3)


def test_a_required_sandbox_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert probe_sandbox(require_sandbox=False).bubblewrap is None
    assert "MISSING: bubblewrap (bwrap is not installed)" in probe_sandbox(require_sandbox=False).describe()
    with pytest.raises(SandboxError, match="Install bubblewrap"):
        probe_sandbox(require_sandbox=True)


def test_grades_are_the_same_without_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "bwrap" else real(name))
    with Grader(QUICK) as grader:
        assert grader.sandbox.bubblewrap is None
        assert grader.grade(TWICE, "let twice x = x + x", FinishReason.STOP).facts.verdict is Verdict.PASSED
        assert grader.grade(TWICE, "let rec twice x = twice x", FinishReason.STOP).facts.verdict is Verdict.TIMEOUT


def processes_and_files_that_remain() -> tuple[set[int], int]:
    """Return the processes and the number of open files that this process has kept from three graders."""
    with Grader(QUICK) as grader:  # opens what stays open for good
        grader.grade(TWICE, "let twice x = x + x", FinishReason.STOP)
    processes = descendants()
    num_files = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with Grader(QUICK) as grader:
            for text in ("let twice x = x + x", "let rec twice x = twice x", "let twice x = exit 0", "(("):
                grader.grade(TWICE, text, FinishReason.STOP)
            grader.close()
            grader.close()
    return descendants() - processes, len(list(Path("/proc/self/fd").iterdir())) - num_files


def test_no_process_or_file_remains() -> None:
    # A process of its own: in that of the tests, connections of earlier tests open and close files.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        assert fresh.submit(processes_and_files_that_remain).result() == (set(), 0)


def test_a_killed_worker_is_an_error_of_the_machine_and_the_next_call_works() -> None:
    with Grader(QUICK) as grader:
        grader.grade(TWICE, "let twice x = x + x", FinishReason.STOP)
        runner = grader.worker.pids[-1]
        os.kill(runner, 9)
        with pytest.raises(UngradableError, match="twice"):
            grader.grade(TWICE, "let twice x = x + x", FinishReason.STOP)
        assert grader.grade(TWICE, "let twice x = x + x", FinishReason.STOP).facts.verdict is Verdict.PASSED


def test_worker_processes_restart_after_jobs_per_worker_jobs() -> None:
    with Grader(QUICK.model_copy(update={"jobs_per_worker": 2})) as grader:
        for _ in range(5):
            assert grader.grade(TWICE, "let twice x = x + x", FinishReason.STOP).facts.verdict is Verdict.PASSED


def test_a_command_that_takes_too_long_exceeds_the_deadline() -> None:
    with pytest.raises(DeadlineExceeded, match="took more than"):
        run_command(["sleep", "5"], deadline_seconds=0.1)
