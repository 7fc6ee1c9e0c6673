"""``deploy/Dockerfile`` and its .dockerignore, read as Docker does, compared with the rest of the project.

tests/deploy/test_image.py runs its steps.
"""

import ast
import os
import re
import subprocess
from fnmatch import fnmatch
from pathlib import PurePosixPath

import pytest
import yaml

from tests.deploy.docker_context import DOCKERFILE, IGNORED, ROOT, context, instructions, is_ignored

STEPS = instructions(DOCKERFILE.read_text())
PACKAGES = ("cluster", "grader", "learner", "rollout")


def argument(instruction: str) -> str:
    (found,) = [rest for word, rest in STEPS if word == instruction]
    return found


@pytest.fixture(scope="module")
def copied() -> set[str]:
    return {str(path) for path in context(ROOT, IGNORED)}


def test_instructions_are_read_without_comments_and_over_several_lines() -> None:
    text = "# a comment\nFROM a:1\n\nrun one \\\n    two\n  # another\nENV A=b\n"
    assert instructions(text) == [("FROM", "a:1"), ("RUN", "one two"), ("ENV", "A=b")]


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("runs", True),
        ("runs/demo/config.yaml", True),
        ("cluster/runs", False),
        ("runs2", False),
        ("__pycache__/a.pyc", True),
        ("a/b/__pycache__/a.pyc", True),
        ("a.egg-info/x", True),
        (".ruff_cache", True),
    ],
)
def test_patterns_match_as_docker_matches_them(path: str, ignored: bool) -> None:
    patterns = ["runs", "**/__pycache__", "**/*.egg-info", "**/.*_cache"]
    assert is_ignored(PurePosixPath(path), patterns) is ignored


def test_the_image_has_a_python_that_the_set_up_accepts() -> None:
    version = re.fullmatch(r"python:3\.(\d+)-bookworm", argument("FROM"))
    assert version
    bounds = re.search(r"\(3, (\d+)\) <= sys\.version_info < \(3, (\d+)\)", (ROOT / "requirements/setup").read_text())
    assert bounds
    assert int(bounds[1]) <= int(version[1]) < int(bounds[2])


def test_the_steps_name_files_and_folders_that_exist(copied: set[str]) -> None:
    assert [word for word, _ in STEPS] == ["FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENV"]
    assert argument("COPY") == ". ."
    folder = argument("WORKDIR")
    assert folder.startswith("/")
    variable, device = argument("ARG").split("=")
    assert f"requirements/{device}.txt" in copied
    program, value = argument("RUN").split()
    assert value == f"${variable}"
    assert program in copied
    assert os.access(ROOT / program, os.X_OK)
    assert argument("ENV") == f"PATH={folder}/.venv/bin:$PATH"


def test_the_build_runs_requirements_setup(copied: set[str]) -> None:
    script = (ROOT / argument("RUN").split()[0]).read_text()
    assert "CARAVAN_DEVICE=$1 requirements/setup" in script
    assert "requirements/setup" in copied
    subprocess.run(["bash", "-n", str(ROOT / "deploy/build_image")], check=True)


def test_every_file_of_the_project_except_its_tests_is_in_the_image(copied: set[str]) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    tracked = {name for name in listed if name and (ROOT / name).exists()}
    assert {name.partition("/")[0] for name in tracked - copied} == {"tests"}


def test_no_generated_file_is_in_the_image(copied: set[str]) -> None:
    generated = ("*.pyc", ".git/*", ".venv*/*", "runs/*", "*_cache/*", "*.egg-info/*")
    assert not [name for name in copied if any(fnmatch(name, pattern) for pattern in generated)]


def test_the_packages_do_not_import_excluded_files() -> None:
    imported: set[str] = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    imported.add((node.module or "").partition(".")[0])
    assert "cluster" in imported
    assert not imported & set(IGNORED)


def test_kubernetes_runs_these_images_from_their_folder() -> None:
    tags = set(re.findall(r"-t (caravan:\w+)", DOCKERFILE.read_text()))
    job = yaml.safe_load((ROOT / "deploy/rayjob.yaml").read_text())["spec"]
    cluster = job["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert {group["template"]["spec"]["containers"][0]["image"] for group in groups} == tags
    assert f"-c {argument('WORKDIR')}/configs/" in job["entrypoint"]
