"""Facts about GPUs from a double of NVML, and the machines of a plan with these facts."""

# ruff: noqa: N802 - names of the library

from dataclasses import dataclass, field

import pytest
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.placement.gpu_facts import MachineGpus, gpus_of_nodes, gpus_of_this_machine, read_gpus
from cluster.placement.plan.machines import GPUS, machines_of
from cluster.placement.plan.model_shape import GIB

MIB = 1024**2

# Product name, total MiB, MiB reserved by the driver, compute capability: as nvidia-smi shows them.
A100_40 = ("NVIDIA A100-SXM4-40GB", 40960, 625, (8, 0))
A100_80 = ("NVIDIA A100-SXM4-80GB", 81920, 870, (8, 0))
RTX_4090 = ("NVIDIA GeForce RTX 4090", 24564, 347, (8, 9))
H100_NVL = ("NVIDIA H100 NVL", 95830, 550, (9, 0))
H20 = ("NVIDIA H20", 97871, 600, (9, 0))
A40 = ("NVIDIA A40", 46068, 600, (8, 6))
B200 = ("NVIDIA B200", 183359, 800, (10, 0))
GH200 = ("NVIDIA GH200 480GB", 97871, 600, (9, 0))
T1000 = ("NVIDIA T1000", 4096, 100, (7, 5))
Row = tuple[str, int, int, tuple[int, int]]


class NvmlError(Exception):
    pass


@dataclass
class Memory:
    total: int
    reserved: int


@dataclass
class FakeNvml:
    """A driver with these GPUs."""

    rows: list[Row]
    fails_at: str = ""
    NVMLError: type[Exception] = NvmlError
    is_open: bool = False
    calls: list[str] = field(default_factory=list)

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails_at:
            raise NvmlError("Driver/library version mismatch")

    def nvmlInit(self) -> None:
        self._call("init")
        self.is_open = True

    def nvmlShutdown(self) -> None:
        self.is_open = False

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.65.06"

    def nvmlDeviceGetCount(self) -> int:
        self._call("count")
        return len(self.rows)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:
        return index

    def _row(self, handle: object) -> Row:
        assert isinstance(handle, int) and self.is_open
        return self.rows[handle]

    def nvmlDeviceGetName(self, handle: object) -> str:
        return self._row(handle)[0]

    def nvmlDeviceGetMemoryInfo(self, handle: object, version: int) -> Memory:
        assert version == 0x02000028
        _, total, reserved, _ = self._row(handle)
        return Memory(total * MIB, reserved * MIB)

    def nvmlDeviceGetCudaComputeCapability(self, handle: object) -> tuple[int, int]:
        return self._row(handle)[3]


def node(num_gpus: int) -> dict[str, object]:
    resources = {"CPU": 8.0, "GPU": float(num_gpus)}
    return {"Alive": True, "NodeManagerAddress": "n", "NodeID": "id", "Resources": resources}


@pytest.mark.parametrize(
    ("row", "sheet"),
    [
        (A100_40, "A100"),
        (A100_80, "A100-80G"),
        (RTX_4090, "RTX4090"),
        (H100_NVL, "H100-NVL"),
        (H20, "H20"),
        (A40, "A40"),
        (B200, "B200"),
        (GH200, "GH200"),
        (("NVIDIA H100 80GB HBM3", 81559, 500, (9, 0)), "H100"),
        (("NVIDIA L40", 46068, 600, (8, 9)), None),
        (("NVIDIA RTX PRO 6000 Blackwell", 97887, 600, (12, 0)), None),
    ],
)
def test_a_gpu_has_its_own_memory_and_the_speed_of_its_model(row: Row, sheet: str | None) -> None:
    nvml = FakeNvml([row, row])
    found = read_gpus(nvml)
    assert not nvml.is_open and found.error is None
    name, total, reserved, capability = row
    assert [(gpu.name, gpu.total_bytes, gpu.driver, gpu.compute_capability) for gpu in found.gpus] == [
        (name, (total - reserved) * MIB, "580.65.06", capability)
    ] * 2
    (machine,) = machines_of([node(2)], {"id": found})
    assert machine.num_gpus == 2 and machine.gpu is not None and machine.gpu.gib is not None
    assert machine.gpu.gib == pytest.approx((total - reserved) * MIB / GIB)
    data_sheet = GPUS[sheet] if sheet else None
    assert (machine.gpu.tflops, machine.gpu.tb_per_second) == (
        (data_sheet.tflops, data_sheet.tb_per_second) if data_sheet else (None, None)
    )
    # The data sheets of --machine agree with the drivers.
    if data_sheet is not None and data_sheet.gib is not None:
        assert machine.gpu.gib == pytest.approx(data_sheet.gib, rel=0.01)


def test_the_smallest_gpu_that_ray_uses_counts_if_gpus_differ() -> None:
    found = read_gpus(FakeNvml([T1000, RTX_4090, A100_80]))
    for num_gpus, name in ((1, "A100-SXM4-80GB"), (2, "GeForce RTX 4090"), (3, "T1000")):
        (machine,) = machines_of([node(num_gpus)], {"id": found})
        assert machine.gpu is not None and machine.gpu.name == name


@pytest.mark.parametrize(("call", "words"), [("init", "does not answer"), ("count", "does not describe")])
def test_a_driver_that_fails_gives_the_reason_and_no_memory(call: str, words: str) -> None:
    nvml = FakeNvml([A40], fails_at=call)
    found = read_gpus(nvml)
    assert found.gpus == () and found.error is not None
    assert words in found.error and "version mismatch" in found.error
    assert not nvml.is_open
    (machine,) = machines_of([node(1)], {"id": found})
    assert machine.gpu is not None and machine.gpu.gib is None


def test_the_installed_library_has_the_functions_that_are_called() -> None:
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is part of the packages for a GPU")
    functions = [name for name in dir(FakeNvml) if name.startswith("nvml")]
    assert not [name for name in functions if not hasattr(pynvml, name)]
    assert pynvml.nvmlMemory_v2 == 0x02000028


def test_a_missing_library_is_reported_with_the_command_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    assert "requirements/setup" in (gpus_of_this_machine().error or "")


def test_gpus_are_read_on_every_live_node_with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    node_ids: list[str] = []

    class Remote:
        def options(self, *, scheduling_strategy: NodeAffinitySchedulingStrategy) -> "Remote":
            node_ids.append(scheduling_strategy.node_id)
            return self

        def remote(self) -> MachineGpus:
            return MachineGpus(error=node_ids[-1])

    monkeypatch.setattr(ray, "remote", lambda **_: lambda _function: Remote())
    monkeypatch.setattr(ray, "get", lambda calls, timeout: calls)
    ids = [56 * letter for letter in "abcd"]
    nodes = [
        node(2) | {"NodeID": ids[0]},
        node(0) | {"NodeID": ids[1]},
        node(1) | {"NodeID": ids[2], "Alive": False},
        node(1) | {"NodeID": ids[3]},
    ]
    found = gpus_of_nodes(nodes)
    assert node_ids == [ids[0], ids[3]]
    assert {name: gpus.error for name, gpus in found.items()} == {ids[0]: ids[0], ids[3]: ids[3]}
