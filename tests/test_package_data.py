"""The data files that a wheel contains."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("rollout", "grader", "learner", "cluster")


def test_every_data_file_of_the_packages_matches_a_pattern() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["*"]
    files = [
        path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*"))
        if path.is_file() and path.suffix not in (".py", ".pyc")
    ]
    assert ROOT / "cluster/analysis/templates/report.html" in files
    assert not [path for path in files if not any(fnmatch(path.name, pattern) for pattern in patterns)]
