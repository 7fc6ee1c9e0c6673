"""The Ray cluster to join, by RAY_ADDRESS or ``ray start``, checked before it is joined.

Ray itself retries for a quarter of an hour if an address does not answer, and forever if the cluster requires a token.
"""

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ResourcesError
from cluster.placement.deadline import within

VARIABLE = "RAY_ADDRESS"
OWN = f"{VARIABLE}=local starts a cluster on this machine for this command alone"
PROBE_SECONDS = 10.0
"""Time for a cluster to answer a trivial call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundCluster:
    """A cluster that answers."""

    address: str  # HOST:PORT
    source: str  # of the address: RAY_ADDRESS, or the file of ``ray start``


def find_cluster(
    log: Callable[[str], None], environment: Mapping[str, str] = os.environ, file: Path | None = None
) -> FoundCluster | None:
    """The cluster to join; None if there is none.

    ``file`` is where ``ray start`` leaves the address of its cluster. A cluster in it that does not answer is ignored, with a
    line to ``log``. Raises ResourcesError if RAY_ADDRESS names a cluster that cannot be joined.
    """
    text = environment.get(VARIABLE, "").strip()
    if text == "local":
        return None
    if text not in ("", "auto"):
        found = FoundCluster(address=_parsed(text), source=VARIABLE)
        if reason := refusal(found.address):
            raise ResourcesError(
                f"the Ray cluster at {found.address} ({found.source}) cannot be joined: {reason}. {OWN}"
            )
        return found
    file = _address_file() if file is None else file
    address = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
    if not address:
        if text == "auto":
            raise ResourcesError(
                f"{VARIABLE}=auto: `ray start` has recorded no cluster on this machine ({file}). Start one, or unset {VARIABLE}"
            )
        return None
    if reason := refusal(address):
        if text == "auto":
            raise ResourcesError(
                f"{VARIABLE}=auto: the Ray cluster at {address} ({file}) cannot be joined: {reason}. {OWN}"
            )
        log(
            f"the Ray cluster at {address}, which {file} names, cannot be joined ({reason}): this command continues without it"
        )
        return None
    return FoundCluster(address=address, source=f"`ray start`, {file}")


def _address_file() -> Path:
    from ray._common.utils import get_ray_address_file

    return Path(get_ray_address_file(None))


def _parsed(text: str) -> str:
    """The address, if it is HOST:PORT; raises ResourcesError for any other text."""
    if "://" in text:
        other = (
            "that is Ray Client, whose driver is not part of the cluster"
            if text.startswith("ray://")
            else "that is the address of a job server"
        )
        raise ResourcesError(
            f"{VARIABLE}={text}: {other}. Submit the run (`caravan submit --address http://HEAD:8265`), or run the command on a "
            f"machine of the cluster, with {VARIABLE}=HEAD:6379. {OWN}"
        )
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ResourcesError(f"{VARIABLE}={text} is no address: write HOST:PORT, for example 10.0.0.5:6379. {OWN}")
    return text


def refusal(address: str) -> str | None:
    """Reason why the cluster at an address cannot be joined, None if it can. A token is sent if one is required."""
    try:
        # The lookup of a host's name has no time limit of its own.
        return within(2.5 * PROBE_SECONDS, lambda: _refusal(address))
    except TimeoutError as error:
        return str(error)


def _refusal(address: str) -> str | None:
    if reason := _connection_error(address):
        return reason
    code, details = _ask(address, {})
    if code == "UNAUTHENTICATED":
        from ray._private.authentication.authentication_token_setup import (
            AuthenticationTokenLoader,
            maybe_enable_token_auth_if_token_available,
        )

        # Ray itself uses the token for a cluster that it finds, but not for one that RAY_ADDRESS names.
        if not maybe_enable_token_auth_if_token_available(warn_if_disabled=False):
            return "it asks for a token: set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to its file (~/.ray/auth_token of its head)"
        code, details = _ask(address, AuthenticationTokenLoader.instance().get_token_for_http_header())
        if code == "UNAUTHENTICATED":
            return "it refuses the token of RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
    if code == "OK":
        return None
    if code in ("DEADLINE_EXCEEDED", "UNAVAILABLE"):
        return f"it does not answer within {PROBE_SECONDS:g} s"
    return f"the server there is no Ray cluster ({details or code})"


def _connection_error(address: str) -> str | None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS).close()
    except socket.gaierror as error:
        return f"the host {host} has no address here ({error.strerror})"
    except TimeoutError:
        return f"nothing answers there within {PROBE_SECONDS:g} s"
    except OSError as error:
        return f"nothing listens there ({(error.strerror or str(error)).lower()})"
    return None


def _ask(address: str, header: Mapping[str, str]) -> tuple[str, str]:
    """Ask the cluster's control service for its id, by a gRPC call with an empty message; returns status and details."""
    import grpc

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:  # like Ray's own channels
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")
        try:
            ask(b"", timeout=PROBE_SECONDS, metadata=list(header.items()))
        except grpc.RpcError as error:
            return error.code().name, error.details() or ""
    return "OK", ""
