"""The OCaml toolchain of this machine, and the grader's two programs, built with it once and kept in a folder.

``front`` is native and linked with the compiler's own libraries; ``runner`` is bytecode with its runtime. The sources are in
``grader/ocaml``, with one ``compat_*.ml`` per compiler version; ``grader/programs.py`` chooses the folder.
"""

import hashlib
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import DeadlineExceeded, ToolchainError
from grader.process import run_command
from grader.programs import candidate_folders, programs_in_first_usable, require_enterable
from grader.sandbox import Program

SOURCES = Path(__file__).parent / "ocaml"
FRONT_MODULES = (
    "wire",
    "contain",
    "every_version",
    "shared",
    "compat",
    "policy",
    "rewrite",
    "scope",
    "hygiene",
    "denied",
    "link",
    "holes",
    "messages",
    "places",
    "suspects",
    "trial",
    "repair",
    "consequences",
    "errors",
    "directives",
    "job",
    "forms",
    "claims",
    "shown",
    "proofs",
    "feasible",
    "functional",
    "inspect",
    "front",
)
RUNNER_MODULES = ("wire", "contain", "load", "request", "report", "runner")
STUBS = ("contain_stubs.c",)  # of both programs
RUNNER_STUBS = (*STUBS, "runner_stubs.c")
# Compiler version -> the module names that depend on it, and their source files for it.
COMPAT = {
    "4.13": {"shared": "shared_4.ml", "compat": "compat_4_13.ml", "load": "load_4.ml"},
    "4.14": {"shared": "shared_4.ml", "compat": "compat_4_14.ml", "load": "load_4.ml"},
    "5.1": {"shared": "shared_5.ml", "compat": "compat_5_1.ml", "load": "load_4.ml"},
    "5.3": {"shared": "shared_5.ml", "compat": "compat_5_3.ml", "load": "load_5.ml"},
}
INSTALL_HINT = "install it with: apt-get install ocaml-nox gcc"
# l: stack of a completion in words, as plain OCaml 4 has it; with OCaml 5's default an overflow takes a second and a gigabyte.
# d: number of domains; by default OCaml 5 reserves address space for the minor heaps of 128, which exceeds the limit. OCaml 5.1
# has no such parameter and gets smaller heaps (s).
RUNTIME_PARAMETERS = {"4.13": "l=1M", "4.14": "l=1M", "5.1": "s=64k,l=1M", "5.3": "d=1,l=1M"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """The grader's two programs, and the OCaml version that built them."""

    version: str
    front: Program
    runner: Program


def prepare_toolchain(cache: Path | None = None) -> Toolchain:
    """Find OCaml and build the programs if they are missing (a second or two).

    Raises ToolchainError if OCaml is missing or of an unsupported version, or if no folder can hold the programs.
    """
    compiler = _find("ocamlc")
    version = _output_of([compiler, "-version"]).strip()
    library = Path(_output_of([compiler, "-where"]).strip())
    renamed = _compat_for(version)
    if not (library / "compiler-libs" / "ocamlcommon.cmxa").exists():
        raise ToolchainError(f"OCaml {version} in {library} has no compiler-libs; {INSTALL_HINT}")
    require_enterable(library, what=f"the library of OCaml {version}")
    folder = programs_in_first_usable(
        [cache] if cache else candidate_folders(),
        f"ocaml-{version}-{_fingerprint(library)}",
        lambda finished: _build(finished, library, renamed),
    )
    front, runner = folder / "front", folder / "runner"
    environment = {"OCAMLRUNPARAM": RUNTIME_PARAMETERS[_major_minor(version)]}
    return Toolchain(
        version=version,
        front=Program(
            path=front,
            libraries=_shared_libraries(front),
            readable=(library,),
            companion=runner,
            environment=environment,
        ),
        runner=Program(path=runner, libraries=_shared_libraries(runner), environment=environment),
    )


def _find(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ToolchainError(f"the OCaml compiler is missing: no {name} on PATH; {INSTALL_HINT}")
    return found


def _output_of(command: list[str]) -> str:
    try:
        done = run_command(command, deadline_seconds=60)
    except (OSError, DeadlineExceeded) as error:
        raise ToolchainError(f"{command[0]} does not run: {error}; {INSTALL_HINT}") from error
    if done.status != 0:
        raise ToolchainError(f"{' '.join(command)} fails: {done.output.strip()[:500]}; {INSTALL_HINT}")
    return done.output


def _compat_for(version: str) -> Mapping[str, str]:
    if _major_minor(version) not in COMPAT:
        known = ", ".join(COMPAT)
        raise ToolchainError(f"OCaml {version} is not supported; the grader supports {known}")
    return COMPAT[_major_minor(version)]


def _major_minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _fingerprint(library: Path) -> str:
    """Digest that names a build: the sources, OCaml's location (the programs contain it) and the kind of machine."""
    digest = hashlib.sha256(f"{library} {platform.machine()}".encode())
    for source in sorted([*SOURCES.glob("*.ml"), *SOURCES.glob("*.c")]):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _build(finished: Path, library: Path, renamed: Mapping[str, str]) -> None:
    """Build both programs into ``finished``; intermediate files go to its parent folder."""
    # OCaml 5 has a separate folder for the unix library.
    unix = ["-I", "+unix"] if (library / "unix").is_dir() else []
    workplace = finished.parent
    front = _copy_sources(workplace, FRONT_MODULES, renamed)
    runner = _copy_sources(workplace, RUNNER_MODULES, renamed)
    for stub in RUNNER_STUBS:
        shutil.copyfile(SOURCES / stub, workplace / stub)
    libraries = ["-I", "+compiler-libs", "ocamlcommon.cmxa", "ocamlbytecomp.cmxa", "unix.cmxa"]
    _compile([_find("ocamlopt"), *unix, *libraries, *front, *STUBS, "-o", str(finished / "front")], workplace)
    linked = ["-custom", "-linkall", "unix.cma", *runner, *RUNNER_STUBS]
    _compile([_find("ocamlc"), *unix, *linked, "-o", str(finished / "runner")], workplace)


def _copy_sources(workplace: Path, modules: Sequence[str], renamed: Mapping[str, str]) -> list[str]:
    """Copy a program's sources, with version-dependent files under their module's name; return the file names."""
    for module in modules:
        shutil.copyfile(SOURCES / renamed.get(module, f"{module}.ml"), workplace / f"{module}.ml")
    return [f"{module}.ml" for module in modules]


def _compile(command: list[str], folder: Path) -> None:
    try:
        # TMPDIR may be full, missing or read-only: the compilers' temporary files go to the build folder as well.
        done = run_command(command, deadline_seconds=300, folder=folder, environment={"TMPDIR": str(folder)})
    except DeadlineExceeded as error:
        raise ToolchainError(f"the grader's OCaml programs cannot be built: {error}") from error
    if done.status != 0:
        raise ToolchainError(
            f"the grader's OCaml programs cannot be built with {command[0]}: {done.output.strip()[:1500]}; "
            "is a C compiler installed? " + INSTALL_HINT
        )


def _shared_libraries(program: Path) -> tuple[Path, ...]:
    """Shared libraries that a program needs, the dynamic loader included."""
    try:
        done = run_command(["ldd", str(program)], deadline_seconds=60)
    except FileNotFoundError:
        return ()
    return tuple(Path(path) for path in re.findall(r"(?:=>\s+)?(/\S+) \(0x", done.output))
