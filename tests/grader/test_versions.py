"""Grades do not depend on the OCaml version: one file per version, and new modules are denied by default."""

import re

import pytest

from cluster.types import FinishReason, Verdict
from grader.grade import Grader
from grader.toolchain import COMPAT, RUNTIME_PARAMETERS, SOURCES

from .problems import TWICE

LISTED = set(re.findall(r'\(\s*"([A-Z]\w*)",', (SOURCES / "policy.ml").read_text()))


def test_every_version_has_its_files_and_every_file_its_version() -> None:
    named = {name for files in COMPAT.values() for name in files.values()}
    existing = {path.name for path in SOURCES.glob("*.ml") if re.match(r"(compat|shared|load)_\d", path.name)}
    assert named == existing
    assert RUNTIME_PARAMETERS.keys() == COMPAT.keys()
    assert {frozenset(files) for files in COMPAT.values()} == {frozenset({"shared", "compat", "load"})}


def test_only_listed_modules_of_the_standard_library_can_be_used(grader: Grader) -> None:
    (library,) = grader.toolchain.front.readable
    modules = sorted(re.sub(r"^stdlib__", "", path.stem) for path in library.glob("stdlib__*.cmi"))
    assert len(modules) > 50
    usable = set[str]()
    for module in modules:
        text = f"module M = {module}\nlet twice x = x + x"
        if grader.grade(TWICE, text, FinishReason.STOP).facts.verdict is not Verdict.DENIED:
            usable.add(module)
    assert usable == LISTED & set(modules)


@pytest.mark.parametrize(
    "text",
    [
        "let twice x = Effect.perform x",
        "module E = Stdlib.Effect\nlet twice x = E.perform x",
        "let twice x = Effect.Deep.match_with (fun x -> x + x) x Fun.id",
        "let twice x = match x + x with y -> y | effect _, _ -> 0",
        "let twice x = try x + x with effect _, k -> 0",
        "let twice x = Domain.join (Domain.spawn (fun () -> x + x))",
        "let key = Domain.DLS.new_key (fun () -> 2)\nlet twice x = Domain.DLS.get key * x",
        "let lock = Mutex.create ()\nlet twice x = Mutex.protect lock (fun () -> x + x)",
        "let waiting = Condition.create ()\nlet twice x = Condition.broadcast waiting; x + x",
        "let free = Semaphore.Binary.make true\nlet twice x = Semaphore.Binary.acquire free; x + x",
        "let twice x = Runtime_events.start (); x + x",
        "let twice x = ignore (Thread.self ()); x + x",
        'let twice x = ignore (Digest.file "/etc/passwd"); x + x',
        'let twice x = ignore (Digest.BLAKE128.file "/etc/passwd"); x + x',
        'module D = Digest.MD5\nlet twice x = ignore (D.file "/etc/passwd"); x + x',
        'let read (module D : Digest.S) = D.file "/etc/passwd"\nlet twice x = ignore (read (module Digest.MD5)); x + x',
        'let twice x = In_channel.with_open_text "/etc/passwd" (fun _ -> x + x)',
        'let twice x = Out_channel.with_open_text "/tmp/x" (fun _ -> x + x)',
        'let twice x = ignore (Sys.is_regular_file "/etc/passwd"); x + x',
        "let twice x = Sys.poll_actions (); x + x",
        'let twice x = ignore (Filename.temp_dir "a" "b"); x + x',
        "let twice x = ignore (Gc.Memprof.start ~sampling_rate:1. Gc.Memprof.null_tracker); x + x",
    ],
)
def test_modules_and_functions_of_later_versions_are_denied(grader: Grader, text: str) -> None:
    facts = grader.grade(TWICE, text, FinishReason.STOP).facts
    # An OCaml version without the name reports it as unknown.
    assert facts.verdict in {Verdict.DENIED, Verdict.TYPE_ERROR, Verdict.SYNTAX_ERROR}
    assert facts.tests_passed == 0


def test_a_keyword_of_a_later_version_is_an_ordinary_name(grader: Grader) -> None:
    text = "let twice effect = effect + effect"
    assert grader.grade(TWICE, text, FinishReason.STOP).facts.verdict is Verdict.PASSED


@pytest.mark.parametrize(
    "deep",
    [
        "1 + dive (n + 1)",
        'String.length (Printf.sprintf "%d%d" (dive (n + 1)) n)',
        "List.length (List.init n (fun _ -> 0) @ [ dive (n + 1) ])",
        "match dive (n + 1) with exception Not_found -> 0 | m -> m + n",
    ],
)
def test_a_stack_overflow_fails_only_its_own_assert_in_every_version(grader: Grader, deep: str) -> None:
    text = f"let rec dive n = {deep}\nlet twice x = if x = 2 then dive 0 else x + x"
    facts = grader.grade(TWICE, text, FinishReason.STOP).facts
    assert (facts.tests_passed, facts.tests_total) == (3, 4)
    assert facts.verdict in {Verdict.RAISED, Verdict.TIMEOUT}
