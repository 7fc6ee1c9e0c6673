"""The kernel's sandbox layers without the language filter: a program makes raw system calls (``ocaml/hostile.ml``)."""

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import SandboxError, UngradableError
from cluster.types import FinishReason, Verdict
from grader import process, toolchain
from grader.grade import Grader
from grader.process import Server, probe_sandbox, run_command
from grader.sandbox import Limits, Program, Sandbox
from grader.toolchain import SOURCES, STUBS, prepare_toolchain

from .problems import TWICE
from .test_containment import descendants

SANDBOX = probe_sandbox(require_sandbox=False, runner=prepare_toolchain().runner)
needs_seccomp = pytest.mark.skipif(
    "seccomp" not in (SANDBOX.kernel or ()), reason="the kernel does not support seccomp"
)
needs_landlock = pytest.mark.skipif(
    "landlock" not in (SANDBOX.kernel or ()), reason="the kernel does not support landlock"
)
OWN_SOURCES = Path(__file__).parent / "ocaml"
# Attempts that work without the layers, so that the other tests show that the layers refuse them.
POSSIBLE_WITHOUT_LAYERS = [
    "read_a_file",
    "write_a_file",
    "create_a_file",
    "list_a_folder",
    "make_a_folder",
    "remove_a_file",
    "look_up_a_file",
    "change_the_folder",
    "write_the_library",
    "add_to_the_library",
    "make_a_file_in_memory",
    "ten_thousand_opens",
    "tcp_socket",
    "unix_socket",
    "pair_of_sockets",
    "fork",
    "execute",
    "signal_the_parent",
    "signal_a_thread_of_the_parent",
    "read_the_parents_memory",
    "make_a_pipe",
    "duplicate_a_descriptor",
    "executable_memory",
    "raise_a_limit",
    "make_a_timer",
]


@pytest.fixture(scope="module")
def hostile() -> Iterator[Path]:
    """The hostile program, in a folder that the unprivileged user can enter."""
    with tempfile.TemporaryDirectory(prefix="caravan-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for source in [*OWN_SOURCES.iterdir(), SOURCES / "contain.ml", *(SOURCES / stub for stub in STUBS)]:
            shutil.copyfile(source, folder / source.name)
        library = Path(run_command(["ocamlc", "-where"], deadline_seconds=60).output.strip())
        unix = ["-I", "+unix"] if (library / "unix").is_dir() else []
        files = ["unix.cma", "contain.ml", *STUBS, "hostile.ml", "hostile_stubs.c"]
        built = run_command(["ocamlc", *unix, "-custom", *files, "-o", "hostile"], deadline_seconds=300, folder=folder)
        assert built.status == 0, built.output
        yield folder / "hostile"


def outcomes(hostile: Path, layers: str, *attempts: str) -> dict[str, str]:
    """Return the outcome of each attempt, on a new file that every user may change."""
    with tempfile.TemporaryDirectory(prefix="caravan-test-") as name:
        folder = Path(name)
        (folder / "library").mkdir()
        for path in (folder / "file", folder / "library" / "unit.cmi"):
            path.touch()
            path.chmod(0o666)
        for path in (folder, folder / "library"):
            path.chmod(0o777)
        done = run_command(
            [str(hostile), layers, str(folder / "file"), *attempts], deadline_seconds=120, as_nobody=True
        )
        assert done.status == 0, done.output
        if layers != "none":
            assert {path.name for path in folder.rglob("*")} == {"file", "library", "unit.cmi"}
    return dict(re.findall(r"^(\w+): (.*)$", done.output, re.MULTILINE))


def test_the_listed_attempts_work_without_layers(hostile: Path) -> None:
    for attempt in POSSIBLE_WITHOUT_LAYERS:
        assert outcomes(hostile, "none", attempt) == {attempt: "worked"}


@needs_seccomp
def test_code_in_place_of_a_completion_cannot_reach_anything(hostile: Path) -> None:
    found = outcomes(hostile, "completion")
    assert len(found) > 80
    assert {
        attempt: outcome for attempt, outcome in found.items() if not outcome.startswith(("refused", "killed"))
    } == {}


@needs_seccomp
@needs_landlock
def test_the_compiler_may_read_its_library_and_nothing_else(hostile: Path) -> None:
    found = outcomes(hostile, "compiler", *(outcomes(hostile, "completion").keys() - {"outlive_the_timers"}))
    assert {attempt for attempt, outcome in found.items() if outcome == "worked"} == {
        "read_the_library",
        "list_the_library",
    }


@needs_seccomp
def test_a_program_that_removes_its_timers_ends_at_the_limit_on_cpu_seconds(hostile: Path) -> None:
    assert outcomes(hostile, "completion", "outlive_the_timers") == {"outlive_the_timers": "killed -7"}


@needs_landlock
def test_a_layer_that_the_kernel_refuses_later_ends_the_fork_before_the_completion_runs(hostile: Path) -> None:
    assert outcomes(hostile, "refused", "make_a_pipe") == {"make_a_pipe": "left 113"}


HONEST = {
    "a random seed": "let twice x = Random.self_init (); ignore (Random.int 9); x + x",
    "clocks": "let twice x = if Sys.time () < 0. then 0 else x + x",
    "output": 'let twice x = Printf.printf "%d\\n%!" x; prerr_endline "twice"; print_string (String.make 100000 \'x\'); x + x',
    "input": "let twice x = try int_of_string (read_line ()) with End_of_file | Sys_error _ -> x + x",
    "the heap": "let twice x = Gc.compact (); let a = Array.make 500_000 x in a.(0) + a.(499_999)",
    "an exhausted stack": "let rec f n = 1 + f n\nlet twice x = try f x with Stack_overflow -> x + x",
    "exhausted memory": "let hold = ref []\nlet twice x = (try while true do hold := Bytes.create 9999999 :: !hold done with "
    "Out_of_memory -> hold := []); x + x",
    "ten gigabytes": "let twice x = try Array.length (Array.make 1_300_000_000 0) with Out_of_memory -> x + x",
    "a randomized hash table": "let t = Hashtbl.create ~random:true 3\nlet twice x = Hashtbl.replace t x x; x + Hashtbl.find t x",
    "big arrays": "let a = Bigarray.(Array1.create int c_layout 100000)\nlet twice x = a.{9} <- x; a.{9} + x",
}


@pytest.mark.parametrize("text", HONEST.values(), ids=HONEST.keys())
def test_the_layers_do_not_affect_an_honest_program(grader: Grader, text: str) -> None:
    facts = grader.grade(TWICE, text, FinishReason.STOP).facts
    assert facts.verdict is Verdict.PASSED, facts.diagnostics


BOMBS = {
    "a loop": "let rec twice x = twice x",
    "a flood of output": "let twice x = while true do print_string (String.make 9999 'x') done; x + x",
    "memory": "let hold = ref []\nlet twice x = while true do hold := Bytes.create 9999999 :: !hold done; x + x",
    "deep recursion": "let rec f n = 1 + f n\nlet twice x = f x",
    "the collector": "let twice x = while true do Gc.compact () done; x + x",
    "a loop in the runtime": "let rec l = 1 :: l and m = 1 :: 1 :: m\nlet twice x = compare l m + x + x",
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS.keys())
def test_a_program_that_exhausts_a_resource_affects_no_other(grader: Grader, text: str) -> None:
    bomb = grader.grade(TWICE, text, FinishReason.STOP).facts
    assert bomb.verdict in (Verdict.TIMEOUT, Verdict.RAISED)
    assert bomb.seconds["run"] < 20
    assert grader.grade(TWICE, "let twice x = x + x", FinishReason.STOP).facts.verdict is Verdict.PASSED


def test_one_line_lists_active_and_missing_layers() -> None:
    every = Sandbox(bubblewrap=Path("/bin/bwrap"), kernel=("seccomp", "landlock")).describe()
    assert "bubblewrap" in every and "seccomp, landlock" in every and "MISSING" not in every
    few = Sandbox(bubblewrap=None, why_no_bubblewrap="bwrap is not installed", kernel=("seccomp",)).describe()
    active, missing = few.split("; MISSING: ")
    assert "seccomp" in active and "bubblewrap" not in active
    assert "bubblewrap (bwrap is not installed)" in missing and "landlock" in missing
    assert "\n" not in few


@pytest.mark.parametrize(
    ("sandbox", "named"),
    [
        (
            Sandbox(bubblewrap=None, why_no_bubblewrap="bwrap is not installed", kernel=("seccomp", "landlock")),
            "bubblewrap",
        ),
        (Sandbox(bubblewrap=Path("/bin/bwrap"), kernel=("landlock",)), "seccomp"),
    ],
)
def test_a_required_sandbox_needs_bubblewrap_and_seccomp(
    sandbox: Sandbox, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not sandbox.sandboxed
    monkeypatch.setattr(process, "_probe_bubblewrap", lambda: sandbox)
    monkeypatch.setattr(process, "_kernel_layers", lambda _runner, _sandbox: sandbox.kernel)
    runner = Program(path=Path("/bin/true"))
    with pytest.raises(SandboxError, match=rf"(?s)are missing: {named}.*Install bubblewrap.*--require-sandbox"):
        probe_sandbox(require_sandbox=True, runner=runner)
    assert probe_sandbox(require_sandbox=False, runner=runner) == sandbox


def test_landlock_alone_may_be_missing_from_a_required_sandbox() -> None:
    assert Sandbox(bubblewrap=Path("/bin/bwrap"), kernel=("seccomp",)).sandboxed


def test_limits_that_cannot_be_set_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "limit_script", lambda _limits: "exit 125")
    with pytest.raises(UngradableError, match=r"ulimit -Ha"):
        Server(prepare_toolchain().runner, Limits(memory_mib=512), Sandbox(bubblewrap=None))


@pytest.mark.parametrize("bare", [False, True], ids=["sandbox", "bare"])
def test_the_servers_end_when_python_is_killed(bare: bool) -> None:
    before = descendants()
    script = (
        "import sys\nfrom cluster.types import FinishReason\nfrom grader import process\nfrom grader.grade import Grader\n"
        "from grader.sandbox import Sandbox\nfrom tests.grader.conftest import QUICK\nfrom tests.grader.problems import TWICE\n"
        f"if {bare}: process._probe_bubblewrap = lambda: Sandbox(bubblewrap=None)\n"
        "with Grader(QUICK) as grader:\n"
        "    grader.grade(TWICE, 'let twice x = x + x', FinishReason.STOP)\n"
        "    print('ready', flush=True)\n    sys.stdin.read()\n"
    )
    root = Path(toolchain.__file__).parents[1]
    python = subprocess.Popen(
        [sys.executable, "-c", script], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert python.stdout is not None and python.stdin is not None
    assert python.stdout.readline() == "ready\n"
    servers = descendants() - before - {python.pid}
    assert len(servers) >= 2
    python.kill()
    python.wait()
    python.stdin.close()
    python.stdout.close()
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in servers):
            break
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in servers)
