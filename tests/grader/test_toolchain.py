from pathlib import Path

import pytest

from cluster.errors import ToolchainError
from grader import toolchain
from grader.toolchain import prepare_toolchain


def test_a_missing_compiler_is_reported_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match="apt-get install ocaml-nox"):
        prepare_toolchain(tmp_path)


def fake_compiler(folder: Path, version: str, library: Path) -> None:
    compiler = folder / "ocamlc"
    compiler.write_text(f'#!/bin/sh\nif [ "$1" = -version ]; then echo {version}; else echo {library}; fi\n')
    compiler.chmod(0o755)


def test_an_unsupported_version_is_refused_with_the_supported_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_compiler(tmp_path, "3.12.1", tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ToolchainError, match=r"3\.12\.1 is not supported.*4\.13"):
        prepare_toolchain(tmp_path)


def test_missing_compiler_libraries_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_compiler(tmp_path, "4.13.1", tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ToolchainError, match="no compiler-libs"):
        prepare_toolchain(tmp_path)


def test_a_failed_build_is_reported(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = open_folder / "ocaml"
    broken.mkdir()
    for source in toolchain.SOURCES.iterdir():
        (broken / source.name).write_text("let x : int = true\n")
    monkeypatch.setattr(toolchain, "SOURCES", broken)
    with pytest.raises(ToolchainError, match="cannot be built"):
        prepare_toolchain(open_folder / "cache")
    assert [path.name for path in (open_folder / "cache").iterdir()] == ["building"]


def test_a_library_that_the_programs_cannot_read_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "compiler-libs").mkdir()
    (tmp_path / "compiler-libs" / "ocamlcommon.cmxa").touch()
    tmp_path.chmod(0o700)
    fake_compiler(tmp_path, "4.13.1", tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("grader.programs.unprivileged_user_id", lambda: 65534)
    with pytest.raises(ToolchainError, match=rf"cannot read the library.*others may not enter {tmp_path}"):
        prepare_toolchain()
