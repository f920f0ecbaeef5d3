"""How many snapshots a server takes in and gives away at a time. None is whole here: what counts is under way."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bandsox import BandSox, errors
from bandsox.server.auth import keys
from bandsox.server.auth.callers import EVERYBODY, Caller, Scope
from bandsox.server.auth.file import AuthFile
from bandsox.server.slots import RETRY_S, Slots
from bandsox.settings import Layout
from tests.server.servers import Server, serving

_SIZE = 2048


class Upload:
    """An import that has begun: the server has asked for its body."""

    def __init__(self, server: Server, key: str) -> None:
        place = urlsplit(server.url)
        self._socket = socket.create_connection((place.hostname, place.port or 80))
        head = f"POST /api/snapshots/import HTTP/1.1\r\nhost: {place.netloc}\r\nauthorization: Bearer {key}\r\n"
        self._socket.sendall(f"{head}expect: 100-continue\r\ncontent-length: {_SIZE}\r\n\r\n".encode())
        self.said = self._socket.recv(4096)

    def finish(self) -> bytes:
        """Send the rest, which is no snapshot, and return the answer's status line."""
        self._socket.sendall(bytes(_SIZE))
        answer = self._socket.recv(4096)
        self.close()
        return answer.partition(b"\r\n")[0]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = Layout.open(tmp_path_factory.mktemp("transfers")).root
    AuthFile(root).set_password("long enough")
    return root


@pytest.fixture(scope="module")
def server(storage: Path) -> Iterator[Server]:
    with serving(storage, "--transfers", "2") as running:
        yield running


def key(storage: Path, scope: str) -> str:
    return keys.create(AuthFile(storage), scope, [scope]).key


def test_one_too_many_is_told_to_come_again_and_then_may(server: Server, storage: Path, tmp_path: Path) -> None:
    admin = key(storage, "admin")
    (tmp_path / "snapshot.tar").write_bytes(bytes(_SIZE))
    with contextlib.ExitStack() as stack:
        uploads = [stack.enter_context(contextlib.closing(Upload(server, admin))) for _ in range(2)]
        assert [each.said.partition(b"\r\n")[0] for each in uploads] == [b"HTTP/1.1 100 Continue"] * 2
        with server.client(admin) as client, BandSox(server.url, headers={"Authorization": f"Bearer {admin}"}) as remote:
            refused = client.post("/api/snapshots/import", content=bytes(_SIZE))
            assert (refused.status_code, refused.headers["retry-after"]) == (429, str(RETRY_S))
            assert (refused.json()["code"], refused.json()["retryable"]) == ("too_many_requests", True)
            assert client.post("/api/snapshots/pull", json={"reference": "127.0.0.1:1/none:1"}).status_code == 429
            with pytest.raises(errors.TooManyRequests):
                remote.import_snapshot(tmp_path / "snapshot.tar")
            assert client.get("/api/snapshots").json() == [], "the rest goes on"
            assert uploads[0].finish().startswith(b"HTTP/1.1 422 ")
            assert client.post("/api/snapshots/import", content=bytes(_SIZE)).status_code == 422, "there is room for it again"


def test_who_is_no_administrator_does_not_keep_others_out(server: Server, storage: Path) -> None:
    slow, other = key(storage, "exec"), key(storage, "exec")
    with contextlib.closing(Upload(server, slow)) as first, server.client(slow) as same, server.client(other) as client:
        assert first.said.startswith(b"HTTP/1.1 100 ")
        assert same.post("/api/snapshots/import", content=bytes(_SIZE)).status_code == 429
        assert client.post("/api/snapshots/import", content=bytes(_SIZE)).status_code == 422
        assert first.finish().startswith(b"HTTP/1.1 422 ")


def test_what_fails_gives_its_place_back() -> None:
    slots, somebody = Slots(3, "transfers"), Caller("id", "name", frozenset({Scope.EXEC}))
    for _ in range(5):
        with pytest.raises(ZeroDivisionError), slots.one(somebody), slots.one(somebody):
            raise ZeroDivisionError
    with slots.one(somebody), slots.one(somebody):
        with pytest.raises(errors.TooManyRequests), slots.one(somebody):
            pass
        with slots.one(EVERYBODY), pytest.raises(errors.TooManyRequests), slots.one(EVERYBODY):
            pass
