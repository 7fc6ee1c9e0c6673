"""Rules of docs/design.md about imports, names, and the length of files and functions."""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("rollout", "grader", "learner", "cluster")
ONLY_IMPORTED_BY = {
    "vllm": {"rollout/engine.py", "rollout/patches.py", "rollout/weight_transfer.py"},
    "trl": {"learner/training/trainer.py"},
    "subprocess": {"grader/process.py"},
}
SHARED = (
    "cluster.types",
    "cluster.protocols",
    "cluster.errors",
    "cluster.thought_tags",
    "cluster.cores",
    "cluster.setting_traits",
    "cluster.weight_sums",
)  # standard library only
DATA = ROOT / "cluster" / "problems" / "builtin"  # problems as code: long functions and files are data there
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 70


def modules() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def folder_of(path: Path) -> str:
    """The unit of the rule against import cycles: a folder, or a file directly in a package."""
    inside = path.relative_to(ROOT)
    return ".".join(inside.parts[:2]).removesuffix(".py") if len(inside.parts) > 1 else str(inside)


def folder_imports() -> Mapping[str, Set[str]]:
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in modules()}
    graph: dict[str, set[str]] = defaultdict(set)
    for path in modules():
        for name in imports(path):
            target = files.get(name) or files.get(name.rpartition(".")[0])
            if target and folder_of(target) != folder_of(path):
                graph[folder_of(path)].add(folder_of(target))
    return graph


@pytest.mark.parametrize("package", ["rollout", "grader", "learner"])
def test_a_role_imports_only_itself_the_shared_types_and_the_ray_machinery(package: str) -> None:
    crossings = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for name in imports(path)
        if name.split(".")[0] in PACKAGES and not name.startswith((f"{package}.", *SHARED, "cluster.actors."))
    ]
    assert not crossings


def test_folders_import_one_another_without_a_cycle() -> None:
    try:
        TopologicalSorter(folder_imports()).prepare()
    except CycleError as error:
        pytest.fail(f"folders that import one another: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize(("module", "files"), ONLY_IMPORTED_BY.items())
def test_a_heavy_dependency_is_imported_only_by_its_files(module: str, files: set[str]) -> None:
    importers = {
        path.relative_to(ROOT).as_posix() for path in modules() if any(n.split(".")[0] == module for n in imports(path))
    }
    assert importers == files


def test_the_shared_types_import_only_the_standard_library() -> None:
    paths = [ROOT / f"{name.replace('.', '/')}.py" for name in SHARED]
    names = {name for path in paths for name in imports(path) if not name.startswith(SHARED)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


def test_the_ray_machinery_imports_only_the_shared_types_and_ray() -> None:
    names = {name for path in (ROOT / "cluster" / "actors").rglob("*.py") for name in imports(path)}
    foreign = {name for name in names if not name.startswith((*SHARED, "cluster.actors."))}
    assert {name.split(".")[0] for name in foreign} <= {*sys.stdlib_module_names, "ray"}


def test_no_module_has_a_meaningless_name() -> None:
    forbidden = {"utils", "helpers", "common", "manager", "misc"}
    assert not [path for path in modules() if path.stem in forbidden]


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules()}
    assert not {str(p.relative_to(ROOT)): n for p, n in lengths.items() if n > MAX_FILE_LINES and DATA not in p.parents}


def test_functions_are_short() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in modules()
        if DATA not in path.parents
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert not long
