"""Check of a model's configuration with vLLM, before Ray and engines are started.

vLLM is imported in a separate process, because the import takes memory, and seconds in which the driver continues. There is no
check for samplers on GPUs: vLLM's GPU build needs a GPU, and the driver's machine may have none.
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
"""Prefix of the output line with the result; vLLM prints other lines."""


class Preflight:
    """A running check."""

    def __init__(self, process: Process | None) -> None:
        self._process = process

    async def wait(self) -> str | None:
        """Wait for the check to end. Raises ModelError, with a text of one line, if vLLM refuses the model.

        Returns the reason if there is no result because the process failed, else None.
        """
        if self._process is None:
            return None
        output, _ = await self._process.communicate()
        lines = output.decode(errors="replace").splitlines()
        results = [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]
        if not results:
            return f"its process ended with exit code {self._process.returncode}: {lines[-1] if lines else 'no output'}"
        if refusal := json.loads(results[-1]):
            raise ModelError(refusal)
        return None


@asynccontextmanager
async def preflight(
    settings: RolloutSettings, *, model: str, lora_rank: int, max_staleness: int
) -> AsyncIterator[Preflight]:
    """Start the check of a model with the samplers' settings; the end of the block kills a check that still runs."""
    if settings.gpus_per_sampler > 0:
        yield Preflight(None)
        return
    request = json.dumps([settings.model_dump(mode="json"), model, lora_rank, max_staleness])
    source_folder = str(Path(__file__).parent.parent)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "rollout.preflight",
        request,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (source_folder, os.environ.get("PYTHONPATH"))))},
    )
    try:
        yield Preflight(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def main(request: str) -> None:
    """Check a model in this process; print, as JSON, vLLM's reason to refuse it, or null."""
    values, model, lora_rank, max_staleness = json.loads(request)
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
