"""The folder of the grader's programs: found by trying, shared by all graders, protected from other users."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.errors import ToolchainError
from cluster.types import FinishReason, Verdict
from grader import programs, toolchain
from grader.grade import Grader
from grader.process import StartFailed
from grader.programs import DIGESTS, PROGRAMS, candidate_folders, programs_in_first_usable
from grader.sandbox import unprivileged_user_id
from grader.toolchain import prepare_toolchain
from tests.mounts import DOCKERS_SHARED_MEMORY, can_mount, with_mounts

from .conftest import QUICK
from .problems import TWICE

ROOT = Path(toolchain.__file__).parents[1]
RIGHT = "let twice x = x + x"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
OTHER = 4321  # id of some other user


def scripts(finished: Path) -> None:
    """Write scripts in place of built programs, because these tests check only the folders."""
    for name in PROGRAMS:
        (finished / name).write_text("#!/bin/sh\n")


def install_in(*folders: Path) -> Path:
    return programs_in_first_usable(folders, "build", scripts)


def reason_for(folder: Path) -> str:
    with pytest.raises(ToolchainError) as caught:
        install_in(folder)
    return str(caught.value)


def test_the_programs_are_built_once_and_reused(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = open_folder / "cache"
    first = prepare_toolchain(cache)
    assert first.front.path.exists() and first.runner.path.exists()

    def build_again(*_arguments: object) -> None:
        raise AssertionError("built a second time")

    monkeypatch.setattr(toolchain, "_build", build_again)
    assert prepare_toolchain(cache) == first
    # Only the finished build and the lock are there.
    assert len(list(cache.iterdir())) == 2


def test_only_one_of_several_processes_builds(open_folder: Path) -> None:
    def build(finished: Path) -> None:
        (open_folder / "count").open("a").write("x")
        scripts(finished)

    with ThreadPoolExecutor(8) as pool:
        work = [pool.submit(programs_in_first_usable, [open_folder / "c"], "build", build) for _ in range(8)]
    assert {one.result() for one in work} == {open_folder / "c" / "build"}
    assert (open_folder / "count").read_text() == "x"


@pytest.mark.parametrize("name", [*PROGRAMS, DIGESTS])
def test_a_damaged_copy_is_built_again(open_folder: Path, name: str) -> None:
    damaged = install_in(open_folder / "cache") / name
    os.truncate(damaged, 3)
    (open_folder / "cache" / "build-of-a-killed-process").mkdir()
    assert install_in(open_folder / "cache") == damaged.parent
    assert damaged.stat().st_size > 3
    damaged.unlink()
    assert (install_in(open_folder / "cache") / name).exists()
    assert sorted(path.name for path in (open_folder / "cache").iterdir()) == ["build", "building"]


def test_programs_that_are_deleted_while_graders_work_are_built_again(open_folder: Path) -> None:
    with Grader(QUICK, cache=open_folder / "cache") as grader:
        assert grader.grade(TWICE, RIGHT, FinishReason.STOP).facts.verdict is Verdict.PASSED
        shutil.rmtree(open_folder / "cache")
        assert grader.grade(TWICE, RIGHT, FinishReason.STOP).facts.verdict is Verdict.PASSED
        grader.close()
        assert grader.grade(TWICE, RIGHT, FinishReason.STOP).facts.verdict is Verdict.PASSED
        assert (open_folder / "cache").exists()


def test_programs_that_cannot_be_built_again_are_a_failed_start(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Grader(QUICK, cache=open_folder / "cache") as grader:
        shutil.rmtree(open_folder / "cache")
        monkeypatch.setenv("PATH", str(open_folder))
        with pytest.raises(StartFailed, match=r"were deleted.*the OCaml compiler is missing"):
            grader.grade(TWICE, RIGHT, FinishReason.STOP)


def test_an_unusable_folder_is_skipped(open_folder: Path) -> None:
    (open_folder / "file").touch()
    assert install_in(open_folder / "file", open_folder / "good") == open_folder / "good" / "build"


def test_every_refused_folder_is_reported_with_its_reason_and_the_setting(open_folder: Path) -> None:
    (open_folder / "file").touch()
    reason = reason_for(open_folder / "file" / "below")
    assert f"{open_folder / 'file' / 'below'}: Not a directory" in reason
    assert "XDG_CACHE_HOME" in reason and "\n" not in reason


@as_root
def test_a_folder_that_another_user_could_change_is_not_used(open_folder: Path) -> None:
    foreign, world_writable, of_a_group = (
        open_folder / "foreign",
        open_folder / "world_writable",
        open_folder / "of_a_group",
    )
    for folder in (foreign, world_writable, of_a_group):
        folder.mkdir()
    os.chown(foreign, OTHER, OTHER)
    world_writable.chmod(0o777)
    os.chown(of_a_group, 0, OTHER)
    of_a_group.chmod(0o775)
    link = open_folder / "link"
    link.symlink_to("/var/cache/caravan")
    os.lchown(link, OTHER, OTHER)
    for folder in (foreign, foreign / "below", link):
        assert f"user {OTHER}" in reason_for(folder)
    for folder in (world_writable, world_writable / "below"):
        assert f"every user may write to {world_writable}" in reason_for(folder)
    assert f"group {OTHER} may write to" in reason_for(of_a_group)
    assert not any(list(folder.iterdir()) for folder in (foreign, world_writable, of_a_group))


@as_root
@pytest.mark.parametrize("name", ["", *PROGRAMS])
def test_programs_of_another_user_are_not_run(open_folder: Path, name: str) -> None:
    open_folder.chmod(0o1777)  # as /tmp is
    planted = install_in(open_folder / "cache") / name
    os.chown(planted, OTHER, OTHER)
    assert f"{planted} belongs to user {OTHER}" in reason_for(open_folder / "cache")


@as_root
def test_a_folder_that_the_unprivileged_user_cannot_enter_is_not_used(open_folder: Path) -> None:
    if unprivileged_user_id() is None:
        pytest.skip("root is the only user here")
    (open_folder / "private").mkdir(mode=0o700)
    assert f"others may not enter {open_folder / 'private'}" in reason_for(open_folder / "private" / "cache")


def test_candidates_are_the_users_cache_the_machines_and_temporary_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/chosen")
    monkeypatch.setenv("TMPDIR", "/scratch")
    own = f"caravan-{os.geteuid()}"
    named = [
        "/chosen/caravan",
        "/var/cache/caravan",
        *(f"{parent}/{own}" for parent in ("/scratch", "/tmp", "/var/tmp")),
    ]
    assert [str(folder) for folder in candidate_folders()] == [*named, f"/dev/shm/{own}"]


def test_a_user_without_a_home_directory_has_other_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54321)  # in no password file
    assert candidate_folders()[0] == programs.MACHINE_CACHE


# --- Mounts as in containers, in the mount namespace of a separate process -------------------------------------------

needs_mounts = pytest.mark.skipif(not can_mount(), reason="no mount namespace can be made here (CAP_SYS_ADMIN)")


def within_mounts(mounts: str, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``caravan`` with mounts that no other process sees."""
    caravan = [sys.executable, "-m", "cluster.cli.main", *command]
    return subprocess.run(
        with_mounts(mounts, caravan),
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "1000", **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def completions(folder: Path, number: int) -> Path:
    row = {"id": "twice", "prompt": TWICE.prompt, "tests": TWICE.tests, "completion": RIGHT}
    file = folder / "completions.jsonl"
    file.write_text(f"{json.dumps(row)}\n" * number)
    return file


@needs_mounts
@pytest.mark.parametrize(
    "mounts", [DOCKERS_SHARED_MEMORY, "mount -t tmpfs -o size=64m shm /dev/shm"], ids=["noexec", "small"]
)
def test_graders_start_with_dockers_shared_memory(open_folder: Path, mounts: str) -> None:
    file, out = completions(open_folder, 40), open_folder / "out.jsonl"
    done = within_mounts(mounts, "grade", str(file), "--out", str(out), "--workers", "8", "--min-lines", "1")
    assert done.returncode == 0, done.stderr
    assert out.read_text().count('"verdict": "passed"') == 40
    done = within_mounts(mounts, "audit", str(file), "--workers", "2")
    assert done.returncode == 0, done.stderr


@needs_mounts
def test_if_every_mount_is_noexec_one_line_names_them_and_the_setting(open_folder: Path) -> None:
    chosen = open_folder / "chosen"
    chosen.mkdir()
    mounts = f"{DOCKERS_SHARED_MEMORY}\nmount -t tmpfs -o noexec tmp /var/tmp\n"
    mounts += "mount -t tmpfs -o ro cache /var/cache\n"
    # /tmp comes last, since a mount over it may hide the folder of this test.
    mounts += f"mount --bind {open_folder} /mnt; mount -t tmpfs -o noexec tmp /tmp; mkdir -p {open_folder}\n"
    mounts += f"mount --bind /mnt {open_folder}\n"
    grade = ("grade", str(completions(open_folder, 2)), "--out", str(open_folder / "out.jsonl"))
    done = within_mounts(mounts, *grade, XDG_CACHE_HOME="/dev/shm", TMPDIR="")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(
        "caravan: the grader's OCaml programs can run from none"
    )
    for named in ("/tmp is mounted noexec", "/dev/shm is mounted noexec", "/var/cache is mounted ro", "XDG_CACHE_HOME"):
        assert named in done.stderr
    done = within_mounts(mounts, *grade, XDG_CACHE_HOME=str(chosen), TMPDIR="")
    assert done.returncode == 0, done.stderr
