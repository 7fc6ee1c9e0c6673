"""Input of `docker build`: the instructions of a Dockerfile, and the files that a .dockerignore does not exclude."""

import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy/Dockerfile"
IGNORED = (ROOT / "deploy/Dockerfile.dockerignore").read_text().split()


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile with their arguments; lines that end in a backslash are joined."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def is_ignored(path: PurePosixPath, patterns: Sequence[str]) -> bool:
    """Return True if a path below the root, or a folder above it, matches; raises ValueError for exceptions (``!``)."""
    for pattern in patterns:
        if pattern.startswith("!"):
            raise ValueError(f"{pattern}: exceptions are not supported")
        for part in (path, *path.parents):
            if pattern.startswith("**/"):
                if fnmatchcase(part.name, pattern.removeprefix("**/")):
                    return True
            elif part.parts and len(part.parts) == pattern.count("/") + 1 and fnmatchcase(str(part), pattern):
                return True
    return False


def context(root: Path, patterns: Sequence[str]) -> Iterator[PurePosixPath]:
    """Yield the files below the root that no pattern excludes, relative to the root."""
    for folder, names, files in os.walk(root):
        here = PurePosixPath(Path(folder).relative_to(root))
        names[:] = [name for name in names if not is_ignored(here / name, patterns)]
        yield from (here / name for name in files if not is_ignored(here / name, patterns))
