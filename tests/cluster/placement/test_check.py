"""The checks of a node, each with a typed double of the node's facts."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.config.model_path import tiny_model_path
from cluster.placement.check import node_facts
from cluster.placement.check.checks import Check, Level, needs_of, node_checks, worst
from cluster.placement.check.node_facts import NodeFacts, compiler_error, inspect_node, installed_versions
from cluster.placement.check.table import print_checks
from cluster.placement.gpu_facts import GpuFacts, MachineGpus
from cluster.placement.plan.machines import Machine, parse_machines
from grader.sandbox import Sandbox

ROOT = Path(__file__).parents[3]
GIB = 1024**3
VERSIONS = {"Python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0", "vllm": "0.32.0"}
H100 = GpuFacts(name="NVIDIA H100", total_bytes=79 * GIB, driver="580.65.06", compute_capability=(9, 0))
T4 = replace(H100, name="Tesla T4", total_bytes=15 * GIB, compute_capability=(7, 5))
FULL = Sandbox(bubblewrap=Path("/usr/bin/bwrap"), kernel=("seccomp", "landlock"))
GOOD = NodeFacts(
    host="n",
    gpus=MachineGpus(gpus=(H100,)),
    compiler_error=None,
    shared_memory_bytes=16 * GIB,
    temporary=(Path("/tmp"), 100 * GIB),
    hub_cache=(Path("/cache"), 100 * GIB),
    downloads_model=False,
    versions=VERSIONS,
    has_cuda_build=True,
    ocaml="4.13.1",
    can_grade=True,
    sandbox=FULL,
    sandbox_error=None,
    model_error=None,
)
GPU_NODE, CPU_NODE, HEAD = parse_machines(["cpus=16,gpus=1,gpu=H100", "cpus=64", "cpus=0"])


def placed(*settings: str) -> Config:
    return load_config(ROOT / "configs/demo.yaml", ["gpus_per_sampler=0.5", "learner.gpus=0.5", *settings])


ON_GPUS, ON_CPUS = placed(), placed("gpus_per_sampler=0", "learner.gpus=0")


def checks_of(facts: NodeFacts, config: Config = ON_GPUS, machine: Machine = GPU_NODE) -> list[Check]:
    return node_checks(config, machine, facts, versions=VERSIONS, download_gib=14.0)


def only_failed(checks: list[Check]) -> Check:
    (check,) = [check for check in checks if check.level is not Level.OK]
    assert check.advice and "\n" not in check.advice
    return check


def test_a_node_that_has_everything_is_ok() -> None:
    checks = checks_of(GOOD)
    assert worst(checks) is Level.OK
    names = {
        "packages",
        "driver",
        "GPU",
        "compiler",
        "versions",
        "model",
        "/dev/shm",
        "disk: temporary",
        "OCaml",
        "sandbox",
    }
    assert {check.name for check in checks} == names
    assert "1 x NVIDIA H100, 79 GiB, capability 9.0" in [check.found for check in checks]


@pytest.mark.parametrize(
    ("facts", "name", "level", "words"),
    [
        (replace(GOOD, has_cuda_build=False), "packages", Level.FAIL, "CARAVAN_DEVICE=gpu requirements/setup"),
        (
            replace(GOOD, gpus=MachineGpus(gpus=(replace(H100, driver="570.133.20"),))),
            "driver",
            Level.FAIL,
            "too old for CUDA 13",
        ),
        (replace(GOOD, gpus=MachineGpus(error="Driver Not Loaded")), "driver", Level.FAIL, "Driver Not Loaded"),
        (replace(GOOD, gpus=MachineGpus(gpus=(T4, T4))), "GPU", Level.FAIL, "bfloat16"),
        (replace(GOOD, gpus=MachineGpus(gpus=(H100, T4))), "GPU", Level.WARN, "CUDA_VISIBLE_DEVICES"),
        (replace(GOOD, compiler_error="no Python.h"), "compiler", Level.FAIL, "python3.11-dev"),
        (replace(GOOD, versions=VERSIONS | {"torch": "2.12.0"}), "versions", Level.FAIL, "requirements/setup"),
        (replace(GOOD, model_error="no such folder"), "model", Level.FAIL, "no such folder"),
        (replace(GOOD, shared_memory_bytes=64 * 1024**2), "/dev/shm", Level.WARN, "--shm-size=16g"),
        (replace(GOOD, temporary=(Path("/tmp"), GIB)), "disk: temporary", Level.WARN, "TMPDIR"),
        (replace(GOOD, downloads_model=True, hub_cache=(Path("/c"), 16 * GIB)), "disk: models", Level.WARN, "HF_HOME"),
        (replace(GOOD, downloads_model=True, hub_cache=(Path("/c"), 9 * GIB)), "disk: models", Level.FAIL, "HF_HOME"),
        (replace(GOOD, can_grade=False, ocaml="no ocamlc on PATH"), "OCaml", Level.FAIL, "no ocamlc on PATH; or start"),
        (replace(GOOD, sandbox=None, sandbox_error="no process starts"), "sandbox", Level.FAIL, "no process starts"),
        (
            replace(GOOD, sandbox=Sandbox(bubblewrap=None, why_no_bubblewrap="none")),
            "sandbox",
            Level.WARN,
            "bubblewrap",
        ),
    ],
)
def test_each_failed_check_of_a_node_names_a_fix(facts: NodeFacts, name: str, level: Level, words: str) -> None:
    check = only_failed(checks_of(facts))
    assert (check.name, check.level, check.place) == (name, level, f"{GPU_NODE.name} (n)")
    assert words in check.advice


def test_a_required_sandbox_that_is_missing_fails() -> None:
    config = placed("grader.require_sandbox=true")
    without = replace(GOOD, sandbox=Sandbox(bubblewrap=None, why_no_bubblewrap="none"))
    assert only_failed(checks_of(without, config)).level is Level.FAIL


def test_a_node_needs_only_the_requirements_of_the_parts_that_fit_there() -> None:
    bare = replace(
        GOOD,
        gpus=MachineGpus(error="no driver"),
        compiler_error="no compiler",
        shared_memory_bytes=0,
        versions={},
        has_cuda_build=False,
        model_error="no folder",
    )
    assert checks_of(bare, machine=HEAD) == []
    # Only graders fit on a node without a GPU.
    assert worst(checks_of(bare, machine=CPU_NODE)) is Level.OK
    assert {check.name for check in checks_of(bare, ON_CPUS) if check.level is not Level.OK} == {"versions", "model"}


def test_several_processes_of_a_part_need_shared_memory_without_a_gpu() -> None:
    assert not needs_of(ON_CPUS, CPU_NODE).shares_memory
    ranks = placed("gpus_per_sampler=0", "learner.gpus=0", "num_ranks=2")
    small = replace(GOOD, shared_memory_bytes=64 * 1024**2)
    assert only_failed(checks_of(small, ranks, CPU_NODE)).name == "/dev/shm"


def test_nodes_with_the_same_result_share_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    bad = Check(place="a", name="driver", found="570", wanted="580", level=Level.FAIL, advice="update it [now]")
    print_checks([replace(bad, place=place) for place in "abcd"], "Checks")
    print_checks([bad, replace(bad, place="b"), replace(bad, place="c", found="550")], "Checks")
    printed = capsys.readouterr().out
    assert "FAIL: 4 nodes: driver: update it [now]" in printed
    assert "FAIL: a, b: driver: update it [now]" in printed
    assert "FAIL: c: driver" in printed


def test_the_facts_of_this_machine_are_read(tmp_path: Path) -> None:
    facts = inspect_node(placed())
    assert (facts.can_grade, facts.model_error, facts.versions["ray"]) == (True, None, installed_versions()[0]["ray"])
    assert facts.temporary[1] > 0
    assert "+" not in facts.versions["torch"]
    missing = inspect_node(placed(f"model.path={tmp_path / 'missing'}"))
    assert missing.model_error and "there is no such folder" in missing.model_error


def test_a_model_without_weights_or_with_a_short_context_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny_model_path() / "config.json").read_text())
    error = inspect_node(placed(f"model.path={tmp_path}")).model_error
    assert error and "the folder holds no weights" in error
    error = inspect_node(placed("max_completion_tokens=1000000")).model_error
    assert error and "lower one of them" in error


def test_a_node_without_ocaml_and_compiler_names_the_packages_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    facts = inspect_node(placed())
    assert not facts.can_grade
    assert "apt-get install ocaml" in facts.ocaml
    assert facts.compiler_error in ("there is no C compiler (gcc, clang or $CC)", compiler_error())


def test_the_compiler_is_checked_by_compiling(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    include = tmp_path / "include"
    monkeypatch.setattr(
        node_facts, "sysconfig", SimpleNamespace(get_default_scheme=lambda: "venv", get_path=lambda *_: str(include))
    )
    assert compiler_error() == f"{include}/Python.h is missing"
    include.mkdir()
    (include / "Python.h").write_text("int answer;\n")
    monkeypatch.setenv("CC", "gcc")
    assert compiler_error() is None
    (include / "Python.h").write_text("#error no libc here\n")
    assert "no libc here" in (compiler_error() or "")
    monkeypatch.setenv("CC", str(tmp_path / "missing"))
    assert "does not run" in (compiler_error() or "")
