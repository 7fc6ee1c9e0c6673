import os
import signal
import subprocess
from pathlib import Path

import pytest

from cluster.errors import ResourcesError
from cluster.placement.local_ray import provide_token, start_ray, temporary_folder


def folder(*others: Path) -> tuple[Path, list[str]]:
    lines: list[str] = []
    return temporary_folder(lines.append, others), lines


def test_the_default_folder_is_used_if_it_is_usable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert folder(tmp_path / "ray") == (Path("/tmp/ray"), [])
    assert list(tmp_path.iterdir()) == []  # the other folder is not created


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize("value", ["/tmp/" + 100 * "x", "/proc/none", "/dev/null/x"])
def test_a_short_folder_is_used_if_the_one_in_the_environment_is_unusable(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(variable, value)
    chosen, lines = folder(Path("/proc/ray"), Path("/tmp/ray"))
    assert chosen == Path("/tmp/ray")
    assert len(lines) == 1
    assert variable in lines[0]
    assert not Path("/tmp/" + 100 * "x").exists()


def test_an_error_names_each_folder_if_none_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + 100 * "x")
    with pytest.raises(ResourcesError, match=r"too long for the sockets.*/proc/ray cannot be written.*Set RAY_TMPDIR"):
        folder(Path("/proc/ray"))


def test_the_token_is_kept_in_the_environment_if_the_home_directory_is_not_writable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray._private.authentication.authentication_token_setup import AuthenticationTokenLoader

    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/proc/none")
    loader = AuthenticationTokenLoader.instance()
    loader.reset_cache()
    try:
        provide_token()
        assert os.environ["RAY_AUTH_TOKEN"]
        assert loader.has_token(ignore_auth_mode=True)
        before = os.environ["RAY_AUTH_TOKEN"]
        provide_token()
        assert os.environ["RAY_AUTH_TOKEN"] == before
    finally:
        monkeypatch.undo()
        os.environ.pop("RAY_AUTH_TOKEN", None)
        loader.reset_cache()


def test_a_start_that_is_too_slow_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Exception("The current node timed out during startup. This could happen because ...")
    starts: list[subprocess.Popen[bytes]] = []

    def init(**_: object) -> str:
        starts.append(subprocess.Popen(["sleep", "60"]))
        if len(starts) < 2:
            raise slow
        return "context"

    lines: list[str] = []
    monkeypatch.setattr("ray.init", init)
    assert start_ray(lines.append) == "context"
    assert starts[0].wait(10) == -signal.SIGKILL  # nothing of the first start is left
    assert starts[1].poll() is None
    starts[1].kill()
    assert lines == ["Ray did not start in time on this busy machine: trying again (2 of 3)"]


def test_a_start_that_fails_is_tried_three_times_if_it_is_slow_and_once_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(message: str) -> int:
        calls: list[object] = []

        def init(**arguments: object) -> None:
            calls.append(arguments)
            raise RuntimeError(message)

        monkeypatch.setattr("ray.init", init)
        with pytest.raises(RuntimeError, match=message):
            start_ray()
        return len(calls)

    assert failing("The current node timed out during startup.") == 3
    assert failing("no such address") == 1
