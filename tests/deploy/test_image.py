"""The steps of ``deploy/Dockerfile`` in a copy-on-write root, in place of a container.

The root shows this machine's system without the project, without OCaml and with an empty home; what the steps write goes to a
folder of the test. The base image of the Dockerfile is not used: Debian and Python are those of this machine.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.docker_context import DOCKERFILE, IGNORED, ROOT, context, instructions
from tests.mounts import can_mount

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not can_mount() or shutil.which("apt-get") is None, reason="needs root, mounts and Debian"),
]

HOME = "/home/image"
# Settings of package managers are those of this machine; uv's downloads are reused.
KEPT = ("PIP_", "UV_", "SSL_", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY")
ENTER = """
mount -t overlay overlay -o lowerdir=/,upperdir={disk}/upper,workdir={disk}/work {root}
for folder in proc sys dev; do mount --rbind /$folder {root}/$folder; done
mount -t tmpfs tmpfs {root}/tmp
mkdir -p {root}{project}
mount -t tmpfs tmpfs {root}{project}
"""
WITHOUT_OCAML = """
export DEBIAN_FRONTEND=noninteractive
apt-get purge -y -qq --auto-remove ocaml-nox bubblewrap 2>&1
! command -v ocamlc
rm -rf /var/cache/caravan
"""


class Image:
    """A root folder in which the Dockerfile's instructions run one after another."""

    def __init__(self, disk: Path) -> None:
        self._disk = disk
        self._folder = "/"
        python = Path(sys.base_prefix) / "bin"  # the Python of the base image
        kept = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
        cache = subprocess.run(
            [Path(sys.executable).parent / "uv", "cache", "dir"], capture_output=True, text=True, check=True
        )
        self.variables = {
            **kept,
            "UV_CACHE_DIR": cache.stdout.strip(),
            "HOME": HOME,
            "PATH": f"{python}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        }
        for name in ("upper", "work", "root"):
            (disk / name).mkdir()
        self.path(HOME).mkdir(parents=True)
        self.path(HOME).chmod(0o700)  # as /root is

    def path(self, inside: str) -> Path:
        """Return the path on this machine of a file in the root."""
        return self._disk / "upper" / inside.removeprefix("/")

    def run(self, command: str) -> str:
        """Run a shell command in the root, without the variables of this process; return its output."""
        enter = ENTER.format(disk=self._disk, root=self._disk / "root", project=ROOT)
        inside = f"cd {self._folder} && {command}"
        whole = f'{enter}\nexec chroot {self._disk / "root"} /bin/sh -ec "$1"'
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-ec", whole, "sh", inside],
            env=self.variables,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def take(self, instruction: str, rest: str) -> None:
        """Carry out one instruction."""
        match instruction:
            case "FROM":
                assert rest.startswith("python:3.11")
                assert sys.version_info[:2] == (3, 11)
            case "ARG" | "ENV":
                name, _, value = rest.partition("=")
                self.variables[name] = value.replace("$PATH", self.variables["PATH"])
            case "WORKDIR":
                self._folder = rest
            case "COPY":
                assert rest == ". ."
                for file in context(ROOT, IGNORED):
                    target = self.path(f"{self._folder}/{file}")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / file, target)
            case "RUN":
                self.run(rest)
            case _:
                raise AssertionError(f"{instruction} is not known here")


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Image]:
    yield Image(tmp_path)
    shutil.rmtree(tmp_path / "upper")  # some GB, which pytest would keep


def test_an_image_built_from_scratch_grades_a_completion(image: Image) -> None:
    image.run(WITHOUT_OCAML)
    for instruction, rest in instructions(DOCKERFILE.read_text()):
        image.take(instruction, rest)
    image.variables["PYTHONSAFEPATH"] = "1"
    assert "usage: caravan" in image.run("caravan --help")
    assert image.run("cd / && python -c 'import grader; print(grader.__file__)'") == "/opt/caravan/grader/__init__.py\n"

    row = {
        "id": "double",
        "prompt": "let double (x : int) : int =",
        "tests": "let () = assert (double 2 = 4)",
        "completion": "  x + x\n(* END *)",
    }
    image.path("/completions.jsonl").write_text(json.dumps(row))
    image.run("cd / && caravan grade completions.jsonl --out grades.jsonl --reward binary --workers 1")
    grade = json.loads(image.path("/grades.jsonl").read_text())
    assert (grade["verdict"], grade["reward"]) == ("passed", 1.0)
    assert list(image.path("/var/cache/caravan").iterdir())
    assert not image.path(f"{HOME}/.cache/caravan").exists(), "the grader's programs were built once more"
    assert not image.path(f"{HOME}/.cache/pip").exists()
