"""Check of a model's configuration with vLLM, before Ray and engines are started.

vLLM runs in a process of its own, because its import takes seconds and memory of the driver, which continues meanwhile. Only the
CPU build of vLLM is used: the GPU build needs a GPU, which the driver's machine may not have.
"""

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cluster.errors import ModelError
from rollout.environment import environment_variables
from rollout.settings import RolloutSettings

MARK = "caravan-preflight:"
"""Prefix of the output line with the answer; vLLM prints other lines."""


class Preflight:
    """A running check."""

    def __init__(self, process: Process | None) -> None:
        self._process = process

    async def passed(self) -> str | None:
        """Wait for the result; raises ModelError with one line for a model that vLLM refuses.

        Returns an explanation if the process itself failed, else None.
        """
        if self._process is None:
            return None
        output, _ = await self._process.communicate()
        lines = output.decode(errors="replace").splitlines()
        answers = [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]
        if not answers:
            return f"its process ended with exit code {self._process.returncode}: {lines[-1] if lines else 'no output'}"
        if refusal := json.loads(answers[-1]):
            raise ModelError(refusal)
        return None


@asynccontextmanager
async def preflight(
    settings: RolloutSettings, *, model: str, lora_rank: int, max_staleness: int
) -> AsyncIterator[Preflight]:
    """Start to check a model with the settings of the samplers; the process ends with the block."""
    if settings.gpus_per_sampler > 0:
        yield Preflight(None)
        return
    asked = json.dumps([settings.model_dump(mode="json"), model, lora_rank, max_staleness])
    package = str(Path(__file__).parent.parent)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "rollout.preflight",
        asked,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))},
    )
    try:
        yield Preflight(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def main(asked: str) -> None:
    """Check a model in this process, and print the reason of its refusal, or null."""
    values, model, lora_rank, max_staleness = json.loads(asked)
    settings = RolloutSettings(**values)
    os.environ.update(environment_variables(settings, model))
    from rollout.engine import inspect_model

    refusal = None
    try:
        inspect_model(settings, model=model, lora_rank=lora_rank, max_staleness=max_staleness)
    except ModelError as error:
        refusal = str(error)
    print(f"\n{MARK}{json.dumps(refusal)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
