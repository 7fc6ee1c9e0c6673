"""Root causes of engine failures: the exceptions that the engine's processes log, in a file that the sampler reads.

vLLM's own error is only "See root cause above": the cause is in the log of another process.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rollout.model import one_line

DERIVED = ("root cause", "EngineDeadError")  # texts of errors that follow from another process's failure

NO_ROOM = (
    "lower rollout.kv_cache_memory_bytes, gpu_memory_utilization, max_concurrent_requests or max_num_batched_tokens, or take a "
    "smaller model"
)
REMEDIES = {
    "Free memory on device": "another process holds memory of this GPU: end it (nvidia-smi lists it), or lower "
    "rollout.gpu_memory_utilization",
    "memory for the cache blocks": "raise rollout.gpu_memory_utilization (on the CPU: rollout.kv_cache_gib), or take a smaller "
    "model",
    "KV cache is needed": "raise rollout.gpu_memory_utilization or kv_cache_memory_bytes (on the CPU: rollout.kv_cache_gib), or "
    "lower rollout.max_prompt_tokens or max_completion_tokens",
    "CUDA out of memory": NO_ROOM,
    "CUDA error: out of memory": NO_ROOM,
    "busy or unavailable": "the GPU takes only one process: allow several (nvidia-smi -c DEFAULT), or give each part its own GPU",
    "compute capability": "take a GPU of compute capability 8.0 or newer (A100, RTX 30 and later)",
    "no kernel image is available": "the installed packages have no code for this GPU: take one of compute capability 8.0 or "
    "newer (A100, RTX 30 and later)",
    "Failed to infer device type": "the sampler sees no GPU: check nvidia-smi on its machine",
    "No CUDA GPUs are available": "the sampler sees no GPU: check nvidia-smi on its machine",
    "driver on your system is too old": "install NVIDIA driver 580 or newer, which the CUDA 13 packages need",
    "driver version is insufficient": "install NVIDIA driver 580 or newer, which the CUDA 13 packages need",
    "gcc": "Triton compiles with gcc and the headers of Python: install gcc and python3-dev",
}
"""Part of a cause -> what to do; the texts are those of vLLM 0.32, torch 2.13, CUDA and Triton."""


class CauseHandler(logging.Handler):
    """Appends each exception that a process logs to a file."""

    def __init__(self, file: str) -> None:
        super().__init__(logging.ERROR)
        self._file = Path(file)

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line for a record with an exception; several processes may append at the same time."""
        if record.exc_info and record.exc_info[1]:
            cause = f"{type(record.exc_info[1]).__name__}: {one_line(record.exc_info[1])}"
            with self._file.open("a", encoding="utf-8") as file:
                file.write(cause + "\n")


VARIABLE = "VLLM_LOGGING_CONFIG_PATH"


@contextmanager
def processes_log_to(file: Path, level: str) -> Iterator[None]:
    """Let the processes that vLLM starts in the block also append their exceptions to a file.

    The environment variable is reset afterwards: a later import of vLLM would not find the configuration file.
    """
    path = file.with_suffix(".json")
    path.write_text(json.dumps(logging_configuration(file, level)), encoding="utf-8")
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(path)
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        if before is not None:
            os.environ[VARIABLE] = before


def logging_configuration(file: Path, level: str) -> dict[str, Any]:
    """Return a configuration of Python's logging: vLLM's own output, and exceptions to ``file``."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {
                "class": "vllm.logging_utils.NewLineFormatter",
                "format": "(%(processName)s pid=%(process)d) %(levelname)s %(asctime)s [%(filename)s:%(lineno)d] %(message)s",
                "datefmt": "%m-%d %H:%M:%S",
            }
        },
        "handlers": {
            "stream": {
                "class": "logging.StreamHandler",
                "formatter": "line",
                "level": level,
                "stream": "ext://sys.stdout",
            },
            "causes": {"class": "rollout.engine_errors.CauseHandler", "file": str(file)},
        },
        "loggers": {"vllm": {"handlers": ["stream", "causes"], "level": level, "propagate": False}},
    }


def root_cause(file: Path, error: BaseException) -> str:
    """Return the cause of an engine's failure, and what to do about it, in one line.

    The cause is the newest exception of the engine's processes, else the text of ``error``.
    """
    cause = _cause(file, error)
    return "; ".join([cause, *(remedy for part, remedy in REMEDIES.items() if part in cause)][:2])


def _cause(file: Path, error: BaseException) -> str:
    try:
        causes = [line for line in file.read_text(encoding="utf-8").splitlines() if line]
    except OSError:
        causes = []
    original = [cause for cause in causes if not any(word in cause for word in DERIVED)]
    if original:
        return original[-1]
    text = one_line(error)
    if "root cause" not in text:
        return text
    # The process was killed: "... Failed core proc(s): {'EngineCore_DP0': -9}".
    codes = text.partition("proc(s): ")[2] or "unknown"
    return (
        f"its process ended without an error (exit codes: {codes}; -9 usually means that the machine ran out of memory)"
    )
