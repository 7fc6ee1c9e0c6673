from pathlib import Path

import pytest

from cluster.types import ToolchainError
from grader import toolchain
from grader.toolchain import prepare_toolchain


def test_it_is_built_once_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare_toolchain(tmp_path)
    assert first.front.path.exists() and first.runner.path.exists()

    def build_again(*_arguments: object) -> None:
        raise AssertionError("built a second time")

    monkeypatch.setattr(toolchain, "_build", build_again)
    assert prepare_toolchain(tmp_path) == first
    # Nothing but the finished build and the lock is there.
    assert len(list(tmp_path.iterdir())) == 2


def test_a_missing_compiler_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match="apt-get install ocaml-nox"):
        prepare_toolchain(tmp_path)


def fake_compiler(folder: Path, version: str, library: Path) -> None:
    compiler = folder / "ocamlc"
    compiler.write_text(f'#!/bin/sh\nif [ "$1" = -version ]; then echo {version}; else echo {library}; fi\n')
    compiler.chmod(0o755)


def test_an_unknown_version_says_which_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_compiler(tmp_path, "3.12.1", tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ToolchainError, match=r"3\.12\.1 is not supported.*4\.13"):
        prepare_toolchain(tmp_path)


def test_missing_compiler_libraries_name_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_compiler(tmp_path, "4.13.1", tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ToolchainError, match="without compiler-libs"):
        prepare_toolchain(tmp_path)


def test_a_build_that_fails_shows_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "ocaml"
    broken.mkdir()
    for source in toolchain.SOURCES.iterdir():
        (broken / source.name).write_text("let x : int = true\n")
    monkeypatch.setattr(toolchain, "SOURCES", broken)
    with pytest.raises(ToolchainError, match="cannot be built"):
        prepare_toolchain(tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["building"]


def test_a_user_without_a_home_directory_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54321)  # in no password file
    with pytest.raises(ToolchainError, match="set HOME or XDG_CACHE_HOME"):
        prepare_toolchain()
