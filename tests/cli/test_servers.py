"""The command line against a server."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandsox.cli import servers
from bandsox.cli.command import Invocation
from bandsox.errors import AccessDenied, InvalidRequest
from bandsox.server.auth import keys
from bandsox.server.auth.file import AuthFile
from bandsox.settings import DEFAULT_IMAGE
from tests.cli.conftest import COMMAND, Cli
from tests.server.servers import Server, serving


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory of the test's own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("BANDSOX_URL", "BANDSOX_API_KEY", "BANDSOX_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def guarded(home: Path) -> Iterator[tuple[Server, AuthFile]]:
    storage = home / "storage"
    subprocess.run([*COMMAND, "--storage", str(storage), "auth", "init", "--password-stdin"], input=b"long enough", check=True)
    with serving(storage) as server:
        yield server, AuthFile(storage)


@pytest.mark.parametrize(
    ("host", "port", "environment", "url"),
    [
        (None, None, None, None),
        (None, None, "", None),
        (None, None, "https://h:1/", "https://h:1"),
        (None, 81, None, "http://127.0.0.1:81"),
        ("h", None, "https://other", "http://h:8000"),
        ("::1", 81, None, "http://[::1]:81"),
        ("https://h", None, None, "https://h"),
        ("https://h", 81, None, "https://h:81"),
    ],
)
def test_which_server_is_meant(
    home: Path, monkeypatch: pytest.MonkeyPatch, host: str | None, port: int | None, environment: str | None, url: str | None
) -> None:
    if environment is not None:
        monkeypatch.setenv("BANDSOX_URL", environment)
    state = Invocation()
    state.host, state.port = host, port
    assert servers.url_of(state) == url


@pytest.mark.parametrize("host", ["ftp://h", "http://", "http://h?x", "http://user@h", "http://h:x", "http://h:99999"])
def test_what_is_no_server(home: Path, host: str) -> None:
    state = Invocation()
    state.host = host
    with pytest.raises(InvalidRequest):
        servers.url_of(state)


def test_a_storage_directory_and_a_server_exclude_each_other(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = Invocation()
    state.storage, state.host = "/x", "h"
    with pytest.raises(InvalidRequest):
        servers.url_of(state)
    state.host = None
    monkeypatch.setenv("BANDSOX_URL", "http://h")
    assert servers.url_of(state) is None, "what was said wins over the environment"


def test_keys_are_kept_for_the_server_they_are_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    servers.keep_key("https://one", "bsx_%1")
    servers.keep_key("https://other:1", "bsx_2")
    assert servers.headers_for("https://one") == {"Authorization": "Bearer bsx_%1"}
    assert servers.headers_for("https://one:2") == {}
    place = home / ".bandsox/credentials"
    assert (place.stat().st_mode & 0o777, place.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    servers.keep_key("https://one", None)
    assert (servers.headers_for("https://one"), bool(servers.headers_for("https://other:1"))) == ({}, True)
    place.chmod(0o644)
    with pytest.raises(AccessDenied):
        servers.headers_for("https://one")
    monkeypatch.setenv("BANDSOX_API_KEY", "bsx_3")
    assert servers.headers_for("https://one") == {"Authorization": "Bearer bsx_3"}


def test_login_keeps_a_key_that_the_server_knows(home: Path, guarded: tuple[Server, AuthFile]) -> None:
    server, file = guarded
    made = keys.create(file, "me", ["read"])

    def bandsox(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run([*COMMAND, *words, "--host", server.url], input=stdin, capture_output=True, text=True, check=False)

    assert bandsox("vm", "list").returncode != 0
    assert bandsox("auth", "login", stdin="bsx_0\n").returncode != 0
    assert not (home / ".bandsox").exists()
    assert bandsox("auth", "login", stdin=made.key + "\n").returncode == 0
    assert json.loads(bandsox("--json", "vm", "list").stdout) == []
    assert bandsox("auth", "logout").returncode == 0
    assert json.loads(bandsox("--json", "vm", "list").stderr)["error"]["code"] == "not_authenticated"


def test_a_machine_of_a_server_lives_through_its_commands(storage: Path, tmp_path: Path) -> None:
    cli = Cli(tmp_path / "unused")
    with serving(storage) as server:
        cli.environment = {**cli.environment, "BANDSOX_URL": server.url, "HOME": str(tmp_path)}
        del cli.environment["BANDSOX_STORAGE"]
        before = cli("--json", "vm", "list", check=True).json
        made = cli("--json", "create", DEFAULT_IMAGE, "--mem", "256", check=True).json["id"]
        try:
            (tmp_path / "file").write_text("content")
            cli("cp", str(tmp_path / "file"), f"{made}:/root/file", check=True)
            assert cli("exec", "-i", made, "--", "sh", "-c", "cat /root/file -", stdin=b" and more", check=True).text == "content and more"
            assert cli("exec", made, "--", "sh", "-c", "exit 7").status == 7
            packed = cli("cp", "--tar", f"{made}:/root", "-", check=True).stdout
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                assert "root/file" in archive.getnames()
            cli("cp", "--tar", "-", f"{made}:/srv/unpacked", stdin=packed, check=True)
            assert cli("cp", f"{made}:/srv/unpacked/root/file", "-", check=True).text == "content"
            assert made in [each["id"] for each in cli("--json", "vm", "list", check=True).json]
            assert cli("--json", "stats", made, check=True).json[0]["host_rss"] is None
            cli("vm", "pause", made, check=True)
            cli("vm", "resume", made, check=True)
            cli("exec", made, "--", "sh", "-c", "echo 'a mark' > /dev/console", check=True)
            assert "a mark" in cli("logs", made, check=True).text
            assert cli("--json", "inspect", made, check=True).json["status"] == "running"
            saved = cli("--json", "vm", "save", made, f"cli-{made}", check=True)
            assert saved.status == 0
            cli("snapshot", "delete", f"cli-{made}", check=True)
        finally:
            cli("vm", "delete", made, check=True)
        assert cli("--json", "image", "prune").error["code"] == "unsupported"
        assert cli("run", DEFAULT_IMAGE, "--mem", "256", "--", "echo", "ran", check=True).text == "ran\n"
        assert [each["id"] for each in cli("--json", "vm", "list", check=True).json] == [each["id"] for each in before]
    assert not (tmp_path / "unused").exists(), "nothing was done here"
