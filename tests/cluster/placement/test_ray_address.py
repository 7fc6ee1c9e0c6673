import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

import cluster.placement.ray_address as ray_address
import cluster.placement.ray_cluster as placement
from cluster.cli.main import main
from cluster.errors import ResourcesError
from cluster.placement.ray_address import FoundCluster, find_cluster

TOKEN = "a-token-of-the-cluster"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_address, "PROBE_SECONDS", 1.0)


def find(address: str = "", file: Path | None = None) -> tuple[FoundCluster | None, list[str]]:
    lines: list[str] = []
    return find_cluster(lines.append, {"RAY_ADDRESS": address}, file or Path("/nowhere/ray_current_cluster")), lines


@contextmanager
def control_service(code: grpc.StatusCode) -> Iterator[str]:
    """Run a service that answers like the head of a cluster, or like another service; yields its address."""

    def answer(_: bytes, context: grpc.ServicerContext) -> bytes:
        if code is not grpc.StatusCode.OK:
            context.abort(code, "InvalidAuthToken" if code is grpc.StatusCode.UNAUTHENTICATED else "who are you?")
        return b""

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
            return grpc.unary_unary_rpc_method_handler(answer) if "GetClusterId" in details.method else None

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextmanager
def silent_listener() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_no_cluster_is_joined_without_an_address_or_with_local(tmp_path: Path) -> None:
    with control_service(grpc.StatusCode.OK) as address:
        address_file = tmp_path / "ray_current_cluster"
        address_file.write_text(address)
        assert find() == (None, [])
        assert find("local", address_file) == (None, [])


def test_the_cluster_of_ray_start_is_joined(tmp_path: Path) -> None:
    address_file = tmp_path / "ray_current_cluster"
    with control_service(grpc.StatusCode.OK) as address:
        address_file.write_text(f"{address}\n")
        found, lines = find("", address_file)
        assert found is not None
        assert (found.address, lines) == (address, [])
        assert str(address_file) in found.source
        assert find("auto", address_file)[0] == found
        assert find(address)[0] == FoundCluster(address=address, source="RAY_ADDRESS")


@pytest.mark.parametrize(
    "text", ["ray://127.0.0.1:10001", "http://127.0.0.1:8265", "127.0.0.1", "127.0.0.1:port", "a:0", ":1"]
)
def test_an_invalid_address_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ResourcesError) as caught:
        find(text)
    assert text in str(caught.value)
    assert "RAY_ADDRESS=local" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "reason"),
    [("127.0.0.1:1", "nothing listens there"), ("no-such-host.invalid:6379", "has no address here")],
)
def test_an_unreachable_address_is_refused_at_once(address: str, reason: str) -> None:
    started = time.monotonic()
    with pytest.raises(ResourcesError, match=reason) as caught:
        find(address)
    assert time.monotonic() - started < 10
    assert "RAY_ADDRESS=local" in str(caught.value)


def test_a_service_that_accepts_and_never_answers_is_refused_after_the_deadline() -> None:
    with silent_listener() as address, pytest.raises(ResourcesError, match="does not answer within 1 s"):
        find(address)


def test_a_host_name_whose_lookup_hangs_is_refused_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_address, "_connection_error", lambda _: time.sleep(60))
    with pytest.raises(ResourcesError, match=r"does not answer within 2\.5 s"):
        find("slow-names.invalid:6379")


def test_a_service_that_is_no_ray_cluster_is_refused() -> None:
    with (
        control_service(grpc.StatusCode.UNIMPLEMENTED) as address,
        pytest.raises(ResourcesError, match="no Ray cluster"),
    ):
        find(address)


def test_the_error_says_whether_a_required_token_is_missing_or_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ray._private.authentication.authentication_token_setup import AuthenticationTokenLoader

    loader = AuthenticationTokenLoader.instance()
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that it is restored afterwards: Ray sets RAY_AUTH_MODE
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    loader.reset_cache()
    try:
        with control_service(grpc.StatusCode.UNAUTHENTICATED) as address:
            with pytest.raises(ResourcesError, match="asks for a token: set RAY_AUTH_TOKEN"):
                find(address)
            monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
            loader.reset_cache()
            with pytest.raises(ResourcesError, match="refuses the token"):
                find(address)
    finally:
        monkeypatch.undo()
        loader.reset_cache()


def test_a_recorded_cluster_that_is_gone_is_ignored_with_a_log_line(tmp_path: Path) -> None:
    address_file = tmp_path / "ray_current_cluster"
    address_file.write_text("127.0.0.1:1")
    found, lines = find("", address_file)
    assert found is None
    assert len(lines) == 1
    assert "127.0.0.1:1" in lines[0]
    assert str(address_file) in lines[0]
    with pytest.raises(ResourcesError, match="RAY_ADDRESS=auto: the Ray cluster at 127"):
        find("auto", address_file)
    with pytest.raises(ResourcesError, match="has recorded no cluster on this machine"):
        find("auto")


def test_a_command_fails_with_one_line_if_the_address_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert main(["plan", "model.path=tiny"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(
        "caravan: the Ray cluster at 127.0.0.1:1 (RAY_ADDRESS) cannot be joined: nothing listens there"
    )


def test_a_cluster_of_another_version_or_without_this_machine_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def other_version(_address: str) -> None:
        raise RuntimeError(
            "Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.8.1\nThis process"
        )

    found = FoundCluster(address="10.0.0.5:6379", source="RAY_ADDRESS")
    monkeypatch.setattr(placement, "_init", other_version)
    for is_node, reason in ((True, "Ray: 2.9.0 Python: 3.8.1"), (False, "ray start --address=10.0.0.5:6379")):
        monkeypatch.setattr(placement, "_is_node", lambda _, answer=is_node: answer)
        with pytest.raises(ResourcesError) as caught:
            placement._join(found)
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)
