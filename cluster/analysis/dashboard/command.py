"""``caravan dashboard``: serve the pages of a run until Ctrl-C."""

import ipaddress
import socket
import sys
from pathlib import Path

from cluster.errors import ConfigError, RunFolderError
from cluster.ledger.run_folder import RunFolder


def serve(run: Path, host: str, port: int) -> int:
    """Serve a run's dashboard until Ctrl-C and return the exit code.

    Raises RunFolderError for a folder without a run and ConfigError for the address.
    """
    check_run(run)
    listening = listen(host, port)
    import uvicorn

    from cluster.analysis.dashboard.server import application

    config = uvicorn.Config(
        application(run, host), log_level="warning", access_log=False, timeout_graceful_shutdown=10, server_header=False
    )
    port = listening.getsockname()[1]
    print(f"http://{f'[{host}]' if ':' in host else host}:{port}/", flush=True)
    if not is_loopback(host):
        print(f"caravan: everyone who can reach port {port} of this machine can read the run", file=sys.stderr)
    print("caravan: stop with Ctrl-C", file=sys.stderr)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn shuts down first and then raises it again
        pass
    finally:
        listening.close()
    return 0


def check_run(run: Path) -> None:
    """Raise RunFolderError for a folder in which no run started; a run without a finished step is accepted."""
    folder = RunFolder(run)
    files = (folder.config, folder.metrics, folder.learning_log)
    if not any(path.is_file() for path in files):
        names = ", ".join(path.name for path in files)
        raise RunFolderError(f"{run} is not a run directory: it has none of {names}")


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; raises ConfigError if the address cannot be used."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except (OSError, UnicodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "not a valid host name"
        raise ConfigError(
            f"cannot listen on port {port} of {host} ({cause}); choose another port with --port, or --port 0 for any free one"
        ) from None
    return listening


def is_loopback(host: str) -> bool:
    """Check that a host can only be reached from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
