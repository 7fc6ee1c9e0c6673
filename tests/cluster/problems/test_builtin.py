"""Tests of the built-in problems. The real compiler checks every solution against the expected values."""

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from cluster.problems.builtin import HANDWRITTEN, TEMPLATE_FAMILIES, builtin_problems
from cluster.problems.dataset import load_problems, split
from cluster.types import Problem

PROBLEMS = builtin_problems()
BATCH = 350  # problems in one program: few compiler runs, and none of them huge


def cases(problem: Problem) -> list[tuple[str, str]]:
    """Return call and expected value of each assert."""
    asserts = re.split(r"\n  (?=assert )", problem.tests.removeprefix("let () =").removesuffix(";\n;;"))
    inner = [
        text.strip().removesuffix(";").removeprefix("assert (").removesuffix(")") for text in asserts if text.strip()
    ]
    # The expected value follows the only " = " outside of records, lists and strings: no call contains a comparison.
    return [split_at_equals(text) for text in inner]


def split_at_equals(text: str) -> tuple[str, str]:
    depth, quoted = 0, False
    for i, char in enumerate(text):
        if char == '"' and text[i - 1] != "\\" and text[i - 1 : i + 2] != "'\"'":
            quoted = not quoted
        elif not quoted:
            depth += (char in "([{") - (char in ")]}")
            if depth == 0 and text[i : i + 3] == " = ":
                return text[:i], text[i + 3 :]
    raise AssertionError(f"no comparison in {text!r}")


def program(problems: list[Problem]) -> str:
    """Return a program with a module per problem, doc comment included, that prints the ids of failed problems."""
    return "".join(
        f"module P{index} = struct\n{problem.statement}\n{problem.solution}\n"
        f"let () = try (let module Tests = struct {problem.tests.removesuffix(';;')} end in ()) with error ->\n"
        f'  print_endline ("{problem.id}: " ^ Printexc.to_string error)\nend\n'
        for index, problem in enumerate(problems)
    )


@pytest.mark.parametrize("start", range(0, len(PROBLEMS), BATCH))
def test_every_reference_solution_compiles_and_passes_its_tests(start: int, tmp_path: Path) -> None:
    (tmp_path / "batch.ml").write_text(program(PROBLEMS[start : start + BATCH]))
    compiled = subprocess.run(
        ["ocamlc", "-w", "-a", "-o", "batch", "batch.ml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert compiled.returncode == 0, compiled.stderr
    ran = subprocess.run(["./batch"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def test_no_field_of_any_problem_has_changed() -> None:
    assert digest([asdict(problem) for problem in PROBLEMS]) == (
        "31089755f49dfc01a673c9952f2b547592b91a33a28e8a359e2e95a6f67e62e9"
    )


def test_the_split_of_the_demo_has_not_changed() -> None:
    assert digest([[problem.id for problem in part] for part in split(PROBLEMS, 200, 0)]) == (
        "b88474fcacdb56a0961237ce5f50fa88227dfb2fc1263478fd9f352bb40b5113"
    )


def test_the_data_file_is_a_data_set_of_the_documented_form() -> None:
    loaded = load_problems(str(HANDWRITTEN))
    assert not loaded.bad_rows
    assert loaded.problems == tuple(PROBLEMS[-len(loaded.problems) :])


def test_each_handwritten_problem_names_its_family() -> None:
    rows = [json.loads(line) for line in HANDWRITTEN.read_text(encoding="utf-8").splitlines()]
    assert all(row["family"] == row["id"].split("-")[0] for row in rows)
    assert not {row["family"] for row in rows} & set(TEMPLATE_FAMILIES)


def test_the_set_is_large_and_varied() -> None:
    difficulties = Counter(problem.difficulty for problem in PROBLEMS)
    families = {problem.id.split("-")[0] for problem in PROBLEMS}
    assert len(PROBLEMS) >= 2000
    assert len(families) >= 30
    assert set(TEMPLATE_FAMILIES) < families
    assert set(difficulties) == {"easy", "medium", "hard"}
    assert difficulties["medium"] >= 150
    assert difficulties["hard"] >= 70


def test_ids_are_unique() -> None:
    assert len({problem.id for problem in PROBLEMS}) == len(PROBLEMS)


def test_no_two_problems_share_statement_or_solution() -> None:
    assert len({problem.statement for problem in PROBLEMS}) == len(PROBLEMS)
    assert len({problem.solution for problem in PROBLEMS}) == len(PROBLEMS)


def test_every_problem_shows_two_examples_and_has_further_tests() -> None:
    for problem in PROBLEMS:
        calls = [call for call, _ in cases(problem)]
        shown = re.findall(r"^ \* >>> (.*)$", problem.statement, re.MULTILINE)
        assert len(shown) == 2, problem.id
        assert len(set(calls)) == len(calls) >= 5, problem.id
        assert len(set(calls) & set(shown)) <= 2, problem.id
        assert len(set(calls) - set(shown)) >= 3, problem.id


def test_no_constant_earns_more_than_sixty_percent_of_the_asserts() -> None:
    for problem in PROBLEMS:
        expected = Counter(value for _, value in cases(problem))
        assert len(expected) >= 2, problem.id
        assert max(expected.values()) <= 0.6 * expected.total(), (problem.id, expected)


def test_returning_an_argument_solves_no_problem() -> None:
    for problem in PROBLEMS:
        pairs = cases(problem)
        for position in range(problem.signature.count(" : ")):
            assert not all(arguments(call)[position : position + 1] == [value] for call, value in pairs), problem.id


def arguments(call: str) -> list[str]:
    """Return the arguments of a call, without the parentheses of negative numbers."""
    found, depth, quoted, current = [], 0, False, ""
    for i, char in enumerate(call + " "):
        quoted ^= char == '"' and call[i - 1] != "\\"
        depth += 0 if quoted else (char in "([{") - (char in ")]}")
        if char == " " and depth == 0 and not quoted:
            found.append(current.removeprefix("(").removesuffix(")") if current.startswith("(-") else current)
            current = ""
        else:
            current += char
    return found[1:]


def test_a_statement_is_one_comment_followed_only_by_type_definitions() -> None:
    for problem in PROBLEMS:
        comment, rest = problem.statement.split("*)", 1)
        assert comment.startswith("(** "), problem.id
        assert all(line.startswith("type ") for line in rest.strip().splitlines()), problem.id
        assert "(*" not in comment.removeprefix("(*"), problem.id


def test_the_solution_begins_with_the_signature() -> None:
    for problem in PROBLEMS:
        assert problem.solution is not None and problem.solution.startswith(problem.signature + "\n"), problem.id


def test_the_set_is_the_same_in_every_process() -> None:
    script = (
        "import hashlib; from cluster.problems.builtin import builtin_problems;"
        "print(hashlib.sha256(repr(builtin_problems()).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
