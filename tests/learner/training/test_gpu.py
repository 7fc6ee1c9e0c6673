"""The reason why a GPU cannot be used, with a double of torch.cuda."""

from dataclasses import dataclass

import pytest
import torch

from cluster.errors import ModelError
from learner.settings import LearnerSettings
from learner.training.gpu import unusable_gpu
from learner.training.model import TorchCuda, choose_device

ON_A_GPU = LearnerSettings(gpus=0.5)
# Messages of torch 2.13 (c10/cuda and torch/csrc/cuda).
TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 12080). Please update your GPU driver by downloading and "
    "installing a new version from the URL: http://www.nvidia.com/Download/index.aspx"
)
NO_DRIVER = (
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver from "
    "http://www.nvidia.com/Download/index.aspx"
)


@dataclass
class FakeCuda:
    version: str | None = "13.0"
    error: str | None = None
    gpu_capability: tuple[int, int] = (9, 0)

    def init(self) -> None:
        if self.error:
            raise RuntimeError(self.error)

    def name(self) -> str:
        return "Tesla T4"

    def capability(self) -> tuple[int, int]:
        return self.gpu_capability


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (12, 0)])
def test_a_gpu_from_capability_8_0_on_computes_in_bfloat16(capability: tuple[int, int]) -> None:
    device = choose_device(ON_A_GPU, FakeCuda(gpu_capability=capability))
    assert (device.use_cpu, device.dtype) == (False, torch.bfloat16)


@pytest.mark.parametrize(
    ("cuda", "words"),
    [
        (FakeCuda(version=None), ["is a CPU build", "CARAVAN_DEVICE=gpu requirements/setup"]),
        (FakeCuda(error=TOO_OLD), ["the NVIDIA driver is too old: it runs CUDA 12.8", "CUDA 13.0", "580 or newer"]),
        (FakeCuda(error=NO_DRIVER), ["torch finds no usable GPU here: Found no NVIDIA driver"]),
        (FakeCuda(error="No CUDA GPUs are available"), ["No CUDA GPUs are available"]),
        (FakeCuda(gpu_capability=(7, 5)), ["the Tesla T4 has compute capability 7.5", "8.0 or higher"]),
    ],
)
def test_a_reserved_gpu_that_cannot_be_used_is_refused_with_its_cause(cuda: FakeCuda, words: list[str]) -> None:
    with pytest.raises(ModelError) as refused:
        choose_device(ON_A_GPU, cuda)
    message = str(refused.value)
    assert all(word in message for word in ["learner.gpus=0.5", *words, "learner.gpus=0 to train on the CPU"]), message
    assert "\n" not in message


def test_a_learner_on_the_cpu_does_not_query_a_gpu() -> None:
    assert choose_device(LearnerSettings(gpus=0), FakeCuda(error=NO_DRIVER)).use_cpu


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_installed_torch_gives_a_reason_on_a_machine_without_a_gpu() -> None:
    assert unusable_gpu(TorchCuda())
