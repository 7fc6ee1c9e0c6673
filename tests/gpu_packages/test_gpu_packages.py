"""The packages of requirements/gpu.txt without a GPU: they are compatible, import, and configure engines as intended.

The packages are installed in a scratch environment (about 9 GB, removed at the end), or taken from the one that CARAVAN_GPU_ENV
names. Nothing is computed: the driver is a stand-in (tests/gpu_packages).
"""

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest

from tests.gpu_packages.stub_driver import GPUS, compile_driver

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
FREE_GB = 20
INSTALL_SECONDS = 900
FLASH_ATTENTION = {"A100": 2, "4090": 2, "L40S": 2, "H100": 3, "H200": 3, "B200": 4}
VLLM_BATCHED_TOKENS = 2048  # vLLM's default
EXCLUDED = ("flashinfer-python",)


def install(folder: Path) -> None:
    """Install requirements/gpu.txt in a new environment as requirements/setup does; skip the test if that is impossible."""
    free = shutil.disk_usage(folder.parent).free / 1e9
    if free < FREE_GB:
        pytest.skip(
            f"{folder.parent} has {free:.0f} GB free, and {FREE_GB} are needed; CARAVAN_GPU_ENV names an environment"
        )
    index = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True, check=False
    ).stdout.strip()
    environment = os.environ | ({"UV_DEFAULT_INDEX": index} if index else {})
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    uv = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--python", str(folder)]
    try:
        subprocess.run(
            [*uv, "--no-deps", "-r", str(ROOT / "requirements" / "gpu.txt")],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=INSTALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"the package index did not provide the GPU packages in {INSTALL_SECONDS} s")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the GPU packages cannot be installed here: {error.stderr.strip().splitlines()[-1]}")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if path := os.environ.get("CARAVAN_GPU_ENV"):
        yield Path(path)
        return
    folder = tmp_path_factory.mktemp("gpu") / "environment"
    try:
        install(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def packages(environment: Path) -> Path:
    (folder,) = environment.glob("lib/python3.*/site-packages")
    return folder


@pytest.fixture(scope="module")
def descriptions(environment: Path, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The output lines of tests/gpu_packages/describe.py, for a model of the shape of Qwen2.5-Coder-1.5B."""
    import torch
    from safetensors.torch import save_file
    from transformers import Qwen2Config

    model = tmp_path_factory.mktemp("model")
    Qwen2Config(
        vocab_size=151936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        architectures=["Qwen2ForCausalLM"],
        dtype="bfloat16",
    ).save_pretrained(model)
    save_file({"model.norm.weight": torch.zeros(1536)}, model / "model.safetensors")
    driver = tmp_path_factory.mktemp("driver")
    compile_driver(packages, driver)
    done = subprocess.run(
        [str(environment / "bin" / "python"), "-m", "tests.gpu_packages.describe", str(model)],
        cwd=ROOT,
        env=os.environ | {"LD_LIBRARY_PATH": str(driver), "CUDA_VISIBLE_DEVICES": "0,1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("[", "{"))]


def test_the_packages_are_compatible(environment: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    checked = subprocess.run(
        [str(uv), "pip", "check", "--python", str(environment)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    complaints = [line for line in checked.stderr.splitlines() if line.startswith("The package")]
    assert [line for line in complaints if not any(f"`{name}==" in line for name in EXCLUDED)] == []


def test_no_package_overwrites_the_code_of_another(packages: Path) -> None:
    owners: dict[str, set[str]] = defaultdict(set)
    for distribution in distributions(path=[str(packages)]):
        name = distribution.metadata["Name"]
        for row in (distribution.read_text("RECORD") or "").splitlines():
            owners[row.partition(",")[0]].add(name)
    # Both packages of opencensus have the same file for their namespace.
    assert {file: names for file, names in owners.items() if len(names) > 1 and "opencensus" not in names} == {}


def test_every_module_is_imported_with_the_gpu_packages(descriptions: list[Any]) -> None:
    files = [file for package in ("cluster", "grader", "learner", "rollout") for file in (ROOT / package).rglob("*.py")]
    modules = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files}
    assert modules - set(descriptions[0]) <= {"cluster", "grader", "learner", "rollout"}


@pytest.mark.parametrize("gpu", GPUS)
def test_engines_are_configured_for_the_gpu(gpu: str, descriptions: list[Any]) -> None:
    engines = [line for line in descriptions[1:] if line["gpu"] == gpu]
    assert len(engines) == 4  # one and two GPUs, with adapters and with merged weights
    for engine in engines:
        asked = engine["asked"]
        assert engine["uses_v2"] and engine["is_async"], engine
        assert (engine["attention"], engine["flash_version"]) == ("FLASH_ATTN", FLASH_ATTENTION[gpu])
        assert engine["dtype"] == "torch.bfloat16"
        assert engine["logprobs"] == "processed_logprobs"
        assert engine["graphs"] == "FULL_AND_PIECEWISE"
        assert engine["ranks"] == engine["ranks_asked"]
        assert not engine["fuses_allreduce"]  # a kernel of FlashInfer
        assert engine["max_num_batched_tokens"] == (asked["max_num_batched_tokens"] or VLLM_BATCHED_TOKENS)
        for name in ("max_loras", "max_cpu_loras", "max_lora_rank"):
            assert engine[name] == asked[name]
        assert (engine["max_loras"] is None) == (engine["mode"] == "merged")
