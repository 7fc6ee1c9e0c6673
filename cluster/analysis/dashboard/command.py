"""``caravan dashboard``: serve the pages of a run until Ctrl-C."""

import ipaddress
import socket
import sys
from pathlib import Path

from cluster.errors import ConfigError, RunFolderError
from cluster.ledger.run_folder import RunFolder


def serve(run: Path, host: str, port: int) -> int:
    """Serve a run's dashboard; returns the exit code. Raises RunFolderError for what is no run, ConfigError for the address."""
    refuse_other_folders(run)
    listening = listen(host, port)
    import uvicorn

    from cluster.analysis.dashboard.server import application

    config = uvicorn.Config(
        application(run, host), log_level="warning", access_log=False, timeout_graceful_shutdown=10, server_header=False
    )
    port = listening.getsockname()[1]
    print(f"http://{f'[{host}]' if ':' in host else host}:{port}/", flush=True)
    if not is_loopback(host):
        print(f"caravan: whoever reaches port {port} of this machine can read the run", file=sys.stderr)
    print("caravan: Ctrl-C ends it", file=sys.stderr)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn closes all, and then raises it again
        pass
    finally:
        listening.close()
    return 0


def refuse_other_folders(run: Path) -> None:
    """Raises RunFolderError where no run has begun; one that has not ended a step yet is served."""
    folder = RunFolder(run)
    signs = (folder.config, folder.metrics, folder.learning_log)
    if not any(path.is_file() for path in signs):
        names = ", ".join(path.name for path in signs)
        raise RunFolderError(f"{run} holds none of {names}: no run began there")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; raises ConfigError where it cannot."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no name of a machine"
        raise ConfigError(
            f"cannot listen on port {port} of {host} ({why}); choose another with --port, or --port 0 for any"
        ) from None
    return listening


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
