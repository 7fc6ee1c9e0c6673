"""The checks of ``requirements/setup`` before it installs, in a copy of its files with a fake nvidia-smi, Python and df."""

import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from learner.training.gpu import MIN_CAPABILITY, MIN_DRIVER

ROOT = Path(__file__).parent.parent
TOOLS = ("bash", "env", "dirname", "cat", "sha256sum", "grep", "tail", "du", "id", "rm", "mkdir", "chmod")
OCAML = ("ocamlc", "ocamlopt", "bwrap")
MODERN = "580.65.06, 9.0"
CHECKS_PASSED = (
    "could not install from the package index"  # the first step after the checks; the fake Python fails at it
)


@dataclass
class Bare:
    """A copy of the set-up's files, and a PATH with only what the set-up uses."""

    folder: Path

    def tool(self, name: str, script: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def nvidia_smi(self, *rows: str) -> None:
        """Install a fake nvidia-smi. A row is a driver and a capability; a driver alone makes compute_cap an unknown field."""
        drivers = "\n".join(row.partition(",")[0] for row in rows)
        unknown = 'echo "Field \\"compute_cap\\" is not a valid field to query."; exit 2'
        both = "echo '{}'".format("\n".join(rows)) if all("," in row for row in rows) else unknown
        cases = [
            '-L) echo "GPU 0: Made-up (UUID: GPU-1)";;',
            f"*compute_cap*) {both};;",
            f"*driver_version*) echo '{drivers}';;",
        ]
        self.tool("nvidia-smi", f'case "$*" in {" ".join(cases)} esac')

    def free(self, gigabytes: int) -> None:
        rows = ["Filesystem 1024-blocks Used Available Capacity Mounted on", f"/dev/sda 1 1 {gigabytes * 976563} 1% /"]
        self.tool("df", "\n".join(f"echo '{row}'" for row in rows))

    def set_up(self, **environment: str) -> str:
        """Run the set-up, which never gets beyond its checks, and return what it prints."""
        done = subprocess.run(
            ["bash", "requirements/setup"],
            cwd=self.folder,
            env={"PATH": str(self.folder / "bin"), "PYTHON": "fake-python", **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1, done.stdout + done.stderr
        (last,) = done.stderr.splitlines()
        return f"{done.stdout}{last}"


@pytest.fixture
def bare(tmp_path: Path) -> Bare:
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "bin").mkdir()
    for name in (*TOOLS, *OCAML):
        if found := shutil.which(name):
            (tmp_path / "bin" / name).symlink_to(found)
    created = Bare(tmp_path)
    created.tool("gcc", "exit 0")
    include = tmp_path / "include"
    include.mkdir()
    (include / "Python.h").touch()
    venv = "mkdir -p .venv/bin; echo 'exit 1' >.venv/bin/python; chmod +x .venv/bin/python"
    created.tool(
        "fake-python",
        f'case "$*" in "-m venv"*) {venv}; exit 0;; *sysconfig*) echo {include}; exit 0;; esac\nexec {sys.executable} "$@"',
    )
    created.free(500)
    created.nvidia_smi(MODERN)
    return created


def test_the_gpu_packages_are_installed_if_all_checks_pass(bare: Bare) -> None:
    output = bare.set_up()
    assert "for gpu (10 GB on disk" in output
    assert output.endswith(f"{CHECKS_PASSED}: is there a network?")


def test_without_a_gpu_the_smaller_set_is_installed(bare: Bare) -> None:
    (bare.folder / "bin/nvidia-smi").unlink()
    assert "for cpu (4 GB on disk" in bare.set_up()


def test_an_nvidia_smi_without_a_gpu_is_reported(bare: Bare) -> None:
    bare.tool("nvidia-smi", "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    output = bare.set_up()
    assert "lists no GPU (Failed to initialize NVML: Driver/library version mismatch)" in output
    assert "for cpu (4 GB on disk" in output
    # An image for GPUs is built on a machine without one.
    assert "are not checked" in bare.set_up(CARAVAN_DEVICE="gpu")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["570.133.20, 9.0"], "driver 570.133.20 is too old for CUDA 13, which needs 580 or newer"),
        (["450.80.02"], "driver 450.80.02 is too old"),  # its nvidia-smi does not know compute_cap
        (["580.65.06, 7.5"], "compute capability 7.5, and bfloat16 needs 8.0"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_refused_before_a_download(bare: Bare, rows: list[str], words: str) -> None:
    bare.nvidia_smi(*rows)
    output = bare.set_up()
    assert words in output
    assert output.endswith("or install for the CPU: CARAVAN_DEVICE=cpu requirements/setup")
    assert not (bare.folder / ".venv").exists()
    assert CHECKS_PASSED in bare.set_up(CARAVAN_DEVICE="cpu")


def test_an_old_gpu_next_to_a_usable_gpu_is_accepted(bare: Bare) -> None:
    bare.nvidia_smi("580.65.06, 7.5", "580.65.06, 8.9")
    output = bare.set_up()
    assert "compute capability 7.5" in output and "CUDA_VISIBLE_DEVICES" in output
    assert CHECKS_PASSED in output


def test_missing_headers_are_named_with_their_package(bare: Bare) -> None:
    (bare.folder / "include/Python.h").unlink()
    output = bare.set_up()
    release = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    assert "Python.h is missing" in output
    assert f"{release}-dev" in output
    assert CHECKS_PASSED in bare.set_up(CARAVAN_DEVICE="cpu")


def test_a_missing_c_compiler_is_named(bare: Bare) -> None:
    (bare.folder / "bin/gcc").unlink()
    output = bare.set_up()
    assert "there is no C compiler (gcc, clang or $CC)" in output
    assert CHECKS_PASSED in bare.set_up(CC="/usr/local/bin/own-cc")


@pytest.mark.parametrize(("device", "needed"), [("gpu", 10), ("cpu", 4)])
def test_a_full_disk_is_refused_with_the_size_of_the_device(bare: Bare, device: str, needed: int) -> None:
    bare.free(needed - 1)
    output = bare.set_up(CARAVAN_DEVICE=device)
    assert f"the packages for {device} take {needed} GB" in output
    assert f"has {needed - 1} GB left" in output
    bare.free(needed)
    assert CHECKS_PASSED in bare.set_up(CARAVAN_DEVICE=device)


def test_set_up_and_learner_have_the_same_requirements() -> None:
    script = (ROOT / "requirements/setup").read_text(encoding="utf-8")
    assert f"min_driver={MIN_DRIVER} min_capability={'.'.join(map(str, MIN_CAPABILITY))}\n" in script


@pytest.mark.parametrize(
    ("has_gpu", "has_cuda_build", "venv"), [(0, 0, ".venv"), (1, 0, ".venv-cpu"), (0, 1, ".venv-cpu")]
)
def test_the_tests_run_with_the_cpu_packages(has_gpu: int, has_cuda_build: int, venv: str, bare: Bare) -> None:
    if not has_gpu:
        (bare.folder / "bin/nvidia-smi").unlink()
    if has_cuda_build:
        (bare.folder / ".venv/lib/python3.11/site-packages/vllm-0.32.0.dist-info").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", bare.folder)
    for name in ("make", "ls", "sh"):
        bare.tool(name, f'exec {shutil.which(name)} "$@"')
    done = subprocess.run(
        ["make", "-n", "test"],
        cwd=bare.folder,
        env={"PATH": str(bare.folder / "bin")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert f"CARAVAN_DEVICE=cpu CARAVAN_VENV={venv} requirements/setup" in done.stdout
    assert f"CUDA_VISIBLE_DEVICES= {venv}/bin/pytest" in done.stdout


def test_only_the_folders_of_environments_are_replaced(bare: Bare) -> None:
    assert "CARAVAN_VENV=/home: allowed are .venv and .venv-cpu" in bare.set_up(CARAVAN_VENV="/home")
