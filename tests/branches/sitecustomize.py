"""The code paths that CUDA takes, on the CPU: patches of vLLM and TRL for a test run with ``--model-runner``.

Python imports a module of this name when it starts, so every engine and actor of the tests is patched before it imports vLLM.
Triton's kernels run in its interpreter. On the CPU vLLM and TRL would choose torch instead:

- vLLM considers the installed Triton unusable, and Model Runner V2 needs Triton;
- vLLM's CPU platform turns asynchronous scheduling off, whatever was configured;
- TRL computes its fused head with torch.
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

RUNNER_VARIABLE = "CARAVAN_TEST_MODEL_RUNNER"
RUNNERS = ("v2", "v2-async")

Patch = Callable[[Any], None]


def add_triton_backend(backends: Any) -> None:
    """Register a CPU backend, as the CPU build of Triton does, for vLLM to find Triton usable."""
    backends.backends["cpu"] = SimpleNamespace(compiler=None, driver=SimpleNamespace(is_active=lambda: False))


def keep_async_scheduling(platform: Any) -> None:
    """Keep the scheduling that vLLM chose before the CPU platform changes it, as on CUDA."""
    check_and_update = platform.CpuPlatform.check_and_update_config.__func__

    def check_and_keep(cls: Any, config: Any) -> None:
        is_async = config.scheduler_config.async_scheduling
        check_and_update(cls, config)
        config.scheduler_config.async_scheduling = is_async

    platform.CpuPlatform.check_and_update_config = classmethod(check_and_keep)


def name_model_runner(worker: Any) -> None:
    """Add a method to the engine's worker that returns the module of its model runner."""
    worker.CPUWorker.model_runner_module = lambda self: type(self.model_runner).__module__


def use_triton_head(kernel: Any) -> None:
    """Choose the Triton branch of TRL's fused head on every device."""
    kernel._use_triton = lambda device: True


PATCHES: Mapping[str, Patch] = {
    "triton.backends": add_triton_backend,
    "vllm.v1.worker.cpu_worker": name_model_runner,
    "trl.kernels.chunked_logprob": use_triton_head,
}


class PatchedLoader(Loader):
    """Loads a module and then patches it."""

    def __init__(self, loader: Loader, patch: Patch) -> None:
        self._loader = loader
        self._patch = patch

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module as its own loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code, then the patch."""
        self._loader.exec_module(module)
        self._patch(module)


class PatchFinder(MetaPathFinder):
    """Finds the modules that have a patch."""

    def __init__(self, patches: Mapping[str, Patch]) -> None:
        self._patches = dict(patches)

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec of a module with its patch; None leaves the module to the other finders."""
        patch = self._patches.pop(name, None)
        if patch is None:
            return None
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = PatchedLoader(spec.loader, patch)
        return spec


def install(runner: str) -> None:
    """Patch the modules of this process that CUDA's code paths need, once each is imported."""
    is_async = {"vllm.platforms.cpu": keep_async_scheduling} if runner == "v2-async" else {}
    sys.meta_path.insert(0, PatchFinder({**PATCHES, **is_async}))


if RUNNER_VARIABLE in os.environ:
    install(os.environ[RUNNER_VARIABLE])
