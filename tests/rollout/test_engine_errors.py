"""Root causes of engine failures, from the logs of the engine's processes."""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from cluster.errors import SamplerError
from cluster.types import Sampling
from rollout.engine import Engine
from rollout.engine_errors import CauseHandler, processes_log_to, root_cause

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

VLLM_ERROR = RuntimeError(
    "Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore_DP0': -9}"
)


def log_errors(file: Path, *errors: Exception) -> None:
    handler = CauseHandler(str(file))
    for error in errors:
        try:
            raise error
        except (ValueError, RuntimeError) as raised:
            record = logging.LogRecord("vllm", logging.ERROR, "", 0, "failed", (), (type(raised), raised, None))
            handler.handle(record)
    handler.handle(logging.LogRecord("vllm", logging.ERROR, "", 0, "no exception", (), None))


def test_the_cause_is_the_logged_exception_of_the_failed_process(tmp_path: Path) -> None:
    log_errors(
        tmp_path / "causes",
        ValueError("head size 16 is not supported\n  at length"),
        RuntimeError("Worker failed, please check the stack trace above for the root cause"),
    )
    assert root_cause(tmp_path / "causes", VLLM_ERROR) == "ValueError: head size 16 is not supported"


def test_a_killed_process_is_reported_with_its_exit_code(tmp_path: Path) -> None:
    text = root_cause(tmp_path / "causes", VLLM_ERROR)
    assert "exit codes: {'EngineCore_DP0': -9}; -9 usually means" in text
    assert text.endswith("ran out of memory)")  # the machine's memory: no advice about the GPU


def test_an_error_of_the_samplers_own_process_is_reported_unchanged(tmp_path: Path) -> None:
    assert (
        root_cause(tmp_path / "causes", ValueError("max_model_len is too large\nmore")) == "max_model_len is too large"
    )


@pytest.mark.parametrize(
    ("cause", "remedy"),
    [
        (
            "Free memory on device cuda:0 (9.1/23.6 GiB) on startup is less than desired GPU memory utilization.",
            "nvidia-smi lists it",
        ),
        ("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`", "take a smaller model"),
        (
            "To serve at least one request with the model's max seq len (1216), (0.3 GiB KV cache is needed, which is",
            "kv_cache_memory_bytes",
        ),
        (
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.6 GiB",
            "max_num_batched_tokens",
        ),
        (
            "Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your Tesla T4 GPU has",
            "8.0 or newer",
        ),
        ("CUDA error: no kernel image is available for execution on the device", "8.0 or newer"),
        ("CUDA error: out of memory", "kv_cache_memory_bytes"),
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", "nvidia-smi -c DEFAULT"),
        ("Failed to infer device type", "nvidia-smi"),
        ("The NVIDIA driver on your system is too old (found version 12040)", "driver 580"),
        ("Command '['/usr/bin/gcc', '/tmp/tmpx/cuda_utils.c', '-O3']' returned non-zero exit status 1.", "python3-dev"),
    ],
)
def test_causes_on_a_gpu_are_reported_with_what_to_do(cause: str, remedy: str, tmp_path: Path) -> None:
    log_errors(
        tmp_path / "causes",
        RuntimeError(cause),
        RuntimeError(
            "WorkerProc initialization failed due to an exception in a background process. See stack trace for root cause."
        ),
    )
    text = root_cause(tmp_path / "causes", VLLM_ERROR)
    assert text.startswith(f"RuntimeError: {cause}; ")
    assert remedy in text
    assert "root cause" not in text
    assert "\n" not in text


@pytest.mark.parametrize("level", ["ERROR", "INFO"])
def test_the_processes_of_an_engine_keep_their_exceptions(level: str, tmp_path: Path) -> None:
    import logging.config

    with processes_log_to(tmp_path / "engine.causes", level):
        logging.config.dictConfig(json.loads(Path(os.environ["VLLM_LOGGING_CONFIG_PATH"]).read_text()))
    assert "VLLM_LOGGING_CONFIG_PATH" not in os.environ
    try:
        raise ValueError("no such weights")
    except ValueError:
        logging.getLogger("vllm.v1.engine").exception("EngineCore failed to start.")
    finally:
        logging.getLogger("vllm").handlers.clear()
    assert root_cause(tmp_path / "engine.causes", VLLM_ERROR) == "ValueError: no such weights"


class DeadEngine:
    """vLLM's engine between its death and the moment at which vLLM notices: requests are never answered."""

    errored = False

    async def generate(self, *_args: object, **_kwargs: object) -> AsyncIterator[object]:
        self.errored = True
        await asyncio.Event().wait()
        yield None


def test_a_request_to_an_engine_that_has_just_died_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollout.engine.DEATH_POLL_SECONDS", 0.01)
    engine = Engine(cast("AsyncLLM", DeadEngine()), 10, tmp_path / "none.causes")
    sampling = Sampling(temperature=1.0, max_completion_tokens=4)
    sample = engine.sample([1], sampling, seed=0, request_id="s0-g0-c0", adapter=None)
    with pytest.raises(SamplerError, match="the engine failed at s0-g0-c0"):
        asyncio.run(asyncio.wait_for(sample, 60))
