"""Files over HTTP: any size as streams, parts of them, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bandsox import MicroVM
from tests.server.servers import Server

LARGE = 24 << 20


def memory(server: Server) -> int:
    """The most memory that the server ever had, in bytes."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def noise(size: int) -> Iterator[bytes]:
    """Pieces of `size` bytes in all that no compression makes smaller."""
    piece = os.urandom(1 << 20)
    for number in range(size >> 20):
        yield number.to_bytes(8, "little") + piece[8:]


def test_a_large_file_goes_in_and_out_through_little_memory(http: httpx.Client, path: str, server: Server) -> None:
    http.put(f"{path}/file", params={"path": "/root/warm"}, content=noise(4 << 20))
    http.get(f"{path}/download", params={"path": "/root/warm"})
    before = memory(server)
    pieces = list(noise(LARGE))
    sent = hashlib.sha256(b"".join(pieces)).digest()
    put = http.put(f"{path}/file", params={"path": "/root/large"}, content=iter(pieces))
    assert put.json() == {"status": "written", "path": "/root/large", "size": LARGE}
    got = hashlib.sha256()
    with http.stream("GET", f"{path}/download", params={"path": "/root/large"}) as answer:
        for piece in answer.iter_raw():
            got.update(piece)
    assert got.digest() == sent
    assert memory(server) - before < LARGE // 2


@pytest.mark.parametrize(
    ("wanted", "status", "start", "end"),
    [("bytes=0-0", 206, 0, 1), ("bytes=5-", 206, 5, 10), ("bytes=-3", 206, 7, 10), ("bytes=2-99", 206, 2, 10), ("bytes=5-2", 200, 0, 10),
     ("lines=1-2", 200, 0, 10), ("bytes=0-1,3-4", 200, 0, 10), ("bytes=-", 200, 0, 10), ("bytes=-99", 206, 0, 10)],
)  # fmt: skip
def test_parts_of_a_file(http: httpx.Client, path: str, vm: MicroVM, wanted: str, status: int, start: int, end: int) -> None:
    vm.write_bytes("/root/ten", b"0123456789")
    answer = http.get(f"{path}/download", params={"path": "/root/ten"}, headers={"range": wanted})
    assert (answer.status_code, answer.content) == (status, b"0123456789"[start:end])
    if status == 206:
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/10"


def test_a_part_behind_the_end_and_one_of_another_file(http: httpx.Client, path: str, vm: MicroVM) -> None:
    vm.write_bytes("/root/ten", b"0123456789")
    answer = http.get(f"{path}/download", params={"path": "/root/ten"}, headers={"range": "bytes=10-"})
    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */10")
    stale = {"range": "bytes=5-", "if-range": '"another"'}
    assert http.get(f"{path}/download", params={"path": "/root/ten"}, headers=stale).content == b"0123456789"


def test_a_file_of_the_kernel_is_read_to_its_end(http: httpx.Client, path: str) -> None:
    assert b"MemTotal" in http.get(f"{path}/download", params={"path": "/proc/meminfo"}).content


def test_an_upload_that_broke_off_goes_on(http: httpx.Client, path: str) -> None:
    where = {"path": "/root/resumed"}
    http.put(f"{path}/file", params=where, content=b"first ")
    assert http.put(f"{path}/file", params={**where, "at": 3}, content=b"x").json()["detail"] == {"size": 6}
    assert http.put(f"{path}/file", params={**where, "at": 6}, content=b"second").json()["size"] == 6
    assert http.get(f"{path}/read-file", params=where).json() == {"path": "/root/resumed", "content": "first second"}


def test_an_upload_that_breaks_off_leaves_nothing(http: httpx.Client, path: str, vm: MicroVM) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise ConnectionError

    with pytest.raises(ConnectionError):
        http.put(f"{path}/file", params={"path": "/root/broken/half"}, content=broken())
    assert "half" not in vm.run("ls -A /root/broken 2>/dev/null; true").text


def test_forms(http: httpx.Client, path: str, vm: MicroVM) -> None:
    content = os.urandom(3_000_000)
    answer = http.post(f"{path}/upload", data={"remote_path": "/root/form"}, files={"file": ("näme", content)})
    assert answer.json() == {"status": "uploaded", "path": "/root/form", "size": len(content)}
    assert vm.read_bytes("/root/form") == content
    assert http.post(f"{path}/upload", files={"file": ("name", b"x")}).status_code == 400
    assert http.post(f"{path}/upload", data={"remote_path": "/root/form"}).status_code == 400
    assert http.post(f"{path}/upload", content=b"x", headers={"content-type": "multipart/form-data; boundary=b"}).status_code == 400
    head = b"--b\r\nContent-Disposition: form-data; name="
    cut = head + b'"remote_path"\r\n\r\n/root/cut\r\n' + head + b'"file"\r\n\r\nx'
    assert http.post(f"{path}/upload", content=cut, headers={"content-type": "multipart/form-data; boundary=b"}).status_code == 400
    assert http.get(f"{path}/stat", params={"path": "/root/cut"}).status_code == 404


def test_small_contents_as_json(http: httpx.Client, path: str, vm: MicroVM) -> None:
    every = bytes(range(256))
    body = {"path": "/root/small", "content": base64.b64encode(every).decode(), "encoding": "base64"}
    assert http.post(f"{path}/write-file", json=body).json()["size"] == 256
    assert http.post(f"{path}/append-file", json={"path": "/root/small", "content": "grüß"}).json()["size"] == 6
    assert vm.read_bytes("/root/small") == every + "grüß".encode()
    odd = {"path": "/x", "content": "%", "encoding": "base64"}
    wrongs: tuple[Any, ...] = (
        odd,
        {"path": "/x"},
        {"content": ""},
        {"path": "/x", "content": 1},
        [],
    )
    for wrong in wrongs:
        assert http.post(f"{path}/write-file", json=wrong).status_code == 400
    assert http.post(f"{path}/write-file", json={"path": "relative", "content": ""}).status_code == 400


def test_directories(http: httpx.Client, path: str) -> None:
    assert http.post(f"{path}/directories", json={"path": "/srv/a/b"}).status_code == 200
    http.put(f"{path}/file", params={"path": "/srv/a/f", "mode": "750"}, content=b"x")
    listed = http.get(f"{path}/files", params={"path": "/srv/a/"}).json()["files"]
    assert [(each["name"], each["path"], each["is_dir"], each["mode"]) for each in listed] == [
        ("b", "/srv/a/b", True, "0o755"),
        ("f", "/srv/a/f", False, "0o750"),
    ]
    assert http.get(f"{path}/file-info", params={"path": "/srv/a/f"}).json()["info"]["size"] == 1
    assert http.post(f"{path}/files/rename", json={"path": "/srv/a/f", "to": "/srv/a/g"}).status_code == 200
    assert http.put(f"{path}/files/mode", json={"path": "/srv/a/g", "mode": 0o600}).status_code == 200
    assert http.delete(f"{path}/files", params={"path": "/srv/a"}).json()["code"] == "guest_file_error"
    assert http.delete(f"{path}/files", params={"path": "/srv/a", "recursive": True}).status_code == 200
    assert http.get(f"{path}/stat", params={"path": "/srv/a"}).json()["code"] == "guest_file_not_found"


def test_a_missing_file_is_not_found_wherever_it_is_asked_for(http: httpx.Client, path: str) -> None:
    for route in ("read-file", "file-info", "stat", "download", "files", "tree"):
        answer = http.get(f"{path}/{route}", params={"path": "/no/such/file"})
        assert (answer.status_code, answer.json()["code"]) == (404, "guest_file_not_found"), route
