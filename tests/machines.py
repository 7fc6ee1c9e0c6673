"""Simulated machines on this machine: Linux namespaces, which need root.

Each has its own processes, network, /tmp and home: no machine sees the files of another.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

SUBNET = "10.77.0"
ATTEMPTS = 3
RAY = str(Path(sys.executable).parent / "ray")
# Visible on every machine: the project, its environment, and the Python installation of that environment.
INSTALLED = tuple(Path(path).resolve() for path in (Path(__file__).parent.parent, sys.prefix, sys.base_prefix))


def missing_requirement() -> str | None:
    """Return the reason why machines cannot be simulated here; None if they can."""
    if os.geteuid() != 0:
        return "simulated machines need Linux namespaces, and those need root"
    missing = [name for name in ("ip", "unshare", "nsenter", "mount") if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)} (Debian: iproute2, util-linux, mount)" if missing else None


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


@dataclass
class Machine:
    """A simulated machine, which runs until ``turn_off``."""

    address: str
    folder: Path  # its /tmp, as a path of the real machine
    power: subprocess.Popen[bytes]
    init: int  # process id of its first process, on the real machine

    def command(self, *words: str, **environment: str) -> list[str]:
        """Return a command line that runs a command on the machine, without the RAY_ variables of this process."""
        own = {"HOME": "/tmp/home", "TMPDIR": "/tmp", **environment}
        without = ["XDG_CACHE_HOME", *(name for name in os.environ if name.startswith("RAY_"))]
        enter = ["nsenter", f"--target={self.init}", "--mount", "--pid", "--net"]
        unset = [f"--unset={name}" for name in without]
        return [*enter, "env", *unset, *(f"{key}={value}" for key, value in own.items()), *words]

    def start_ray(self, *options: str) -> None:
        """Start Ray on the machine, as a head or as a node that joins a cluster."""
        words = [
            RAY,
            "start",
            f"--node-ip-address={self.address}",
            "--disable-usage-stats",
            "--object-store-memory=200000000",
        ]
        subprocess.run(
            self.command(*words, *options, RAY_worker_niceness="0"),
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def processes(self) -> list[psutil.Process]:
        """Return all processes of the machine."""
        children: list[psutil.Process] = psutil.Process(self.init).children(recursive=True)
        return children

    def turn_off(self) -> None:
        """Kill all processes of the machine at once, without notice, as in a power failure."""
        self.power.kill()
        self.power.wait()


class Network:
    """Network of simulated machines."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = f"caravan-{os.getpid()}"
        self._machines: list[Machine] = []

    def start_machine(self) -> Machine:
        """Start a machine without any program on it."""
        number = len(self._machines) + 1
        name = f"{self._name}-{number}"
        if number == 1:
            run("ip", "netns", "add", self._name)
            run("ip", "-n", self._name, "link", "add", "switch", "type", "bridge")
            run("ip", "-n", self._name, "link", "set", "switch", "up")
        run("ip", "netns", "add", name)
        run(
            "ip",
            "-n",
            name,
            "link",
            "add",
            "eth0",
            "type",
            "veth",
            "peer",
            "name",
            f"port{number}",
            "netns",
            self._name,
        )
        run("ip", "-n", self._name, "link", "set", f"port{number}", "master", "switch", "up")
        address = f"{SUBNET}.{number}"
        run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            run("ip", "-n", name, "link", "set", device, "up")
        folder = self._folder / f"machine-{number}"
        (folder / "home").mkdir(parents=True)
        hidden = [path for path in INSTALLED if path.is_relative_to("/tmp")]  # the machine's own /tmp would hide these
        insides = [folder / path.relative_to("/tmp") for path in hidden]
        for inside in insides:
            inside.mkdir(parents=True, exist_ok=True)
        mounts = [
            *(f"mount --bind {path} {inside}" for path, inside in zip(hidden, insides, strict=True)),
            f"mount --rbind {folder} /tmp",
            "mount -t tmpfs tmpfs /dev/shm",
        ]
        begin = " && ".join([*mounts, "touch /tmp/is-up", "while true; do sleep 3600 & wait; done"])
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", begin]
        power = subprocess.Popen(["ip", "netns", "exec", name, *unshare])
        while not (folder / "is-up").exists():
            assert power.poll() is None, f"machine {number} does not start"
            time.sleep(0.02)
        (init,) = psutil.Process(power.pid).children()
        machine = Machine(address=address, folder=folder, power=power, init=init.pid)
        self._machines.append(machine)
        return machine

    def start_node(self, *options: str) -> Machine:
        """Start a machine with Ray on it; try another machine if Ray exceeds its own limit of 30 s to start."""
        failure = ""
        for _ in range(ATTEMPTS):
            machine = self.start_machine()
            try:
                machine.start_ray(*options)
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                failure = f"{error}\n{error.stdout!r}\n{error.stderr!r}"
                machine.turn_off()
            else:
                return machine
        raise AssertionError(f"Ray started on none of {ATTEMPTS} machines: {failure}")

    def close(self) -> None:
        """Turn all machines off, and delete the network."""
        for machine in self._machines:
            machine.turn_off()
        for number in range(len(self._machines) + 1):
            subprocess.run(
                ["ip", "netns", "del", f"{self._name}-{number}" if number else self._name], capture_output=True
            )


@contextmanager
def network(folder: Path) -> Iterator[Network]:
    """Create a network for the block; the disks of its machines are folders in ``folder``."""
    created = Network(folder)
    try:
        yield created
    finally:
        created.close()
