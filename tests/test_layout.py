"""The house rules of docs/design.md, read from the imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("rollout", "grader", "learner", "cluster")
DOORS = {"vllm": "rollout", "trl": "learner", "subprocess": "grader"}


def modules() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", ["rollout", "grader", "learner"])
def test_a_role_imports_of_the_project_only_the_vocabulary_and_itself(package: str) -> None:
    crossings = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for name in imports(path)
        if name.split(".")[0] in PACKAGES and not name.startswith((f"{package}.", "cluster.types"))
    ]
    assert not crossings


@pytest.mark.parametrize(("module", "package"), DOORS.items())
def test_a_heavy_dependency_comes_in_by_one_door(module: str, package: str) -> None:
    doors = [
        path.relative_to(ROOT).as_posix() for path in modules() if any(n.split(".")[0] == module for n in imports(path))
    ]
    assert len(doors) == 1, doors
    assert doors[0].startswith(f"{package}/")


def test_the_vocabulary_imports_the_standard_library_alone() -> None:
    import sys

    names = {name.split(".")[0] for name in imports(ROOT / "cluster" / "types.py")}
    assert names <= sys.stdlib_module_names


def test_no_module_is_named_after_nothing() -> None:
    forbidden = {"utils", "helpers", "common", "manager", "misc"}
    assert not [path for path in modules() if path.stem in forbidden]
