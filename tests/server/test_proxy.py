"""Ports of guests through the proxy: pages, streams and WebSockets, for whom they are, and nothing of the server's with them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from bandsox import MicroVM
from bandsox.server.auth import keys
from bandsox.server.auth.file import AuthFile
from bandsox.server.configuration import Configuration
from bandsox.server.proxy.entrance import Place, place_of
from bandsox.server.proxy.headers import from_guest, to_guest
from tests.server.servers import Server, refused, serving

GUEST = r"""
import base64, hashlib, http.server, json, socketserver, struct, threading

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self):
        if self.headers.get("Upgrade", "").lower() == "websocket":
            return self.websocket()
        if self.path == "/chunks":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in (b"one", b"two"):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()
            if self.headers.get("X-Break") is None:
                self.wfile.write(b"0\r\n\r\n")
            self.close_connection = True
            return
        if self.path == "/nonsense":
            self.wfile.write(b"this is not HTTP\r\n\r\n")
            self.close_connection = True
            return
        body = json.dumps({"path": self.path, "headers": self.headers.items()}).encode()
        self.send_response(307 if self.path == "/away" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Set-Cookie", "own=1; Domain=example.org; Path=/")
        self.send_header("Set-Cookie", "bandsox_session=stolen; Path=/")
        self.send_header("Service-Worker-Allowed", "/")
        if self.path == "/away":
            self.send_header("Location", "http://169.254.169.254/")
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        answer = hashlib.sha256(self.body()).hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def websocket(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        if "chat" in self.headers.get("Sec-WebSocket-Protocol", ""):
            self.send_header("Sec-WebSocket-Protocol", "chat")
        self.end_headers()
        self.wfile.flush()
        self.close_connection = True
        while True:
            first, second = self.rfile.read(2)
            size = second & 127
            if size == 126: size = struct.unpack(">H", self.rfile.read(2))[0]
            if size == 127: size = struct.unpack(">Q", self.rfile.read(8))[0]
            mask = self.rfile.read(4)
            data = bytes(byte ^ mask[n % 4] for n, byte in enumerate(self.rfile.read(size)))
            if data == b"bye":
                self.wfile.write(b"\x88\x02" + struct.pack(">H", 3999))
                return
            head = bytes([first]) + (bytes([size]) if size < 126 else b"\x7e" + struct.pack(">H", size))
            self.wfile.write(head + data)
            self.wfile.flush()
            if first & 15 == 8:
                return

    def log_message(self, *_):
        pass

class Server(socketserver.ThreadingTCPServer, http.server.HTTPServer):
    daemon_threads = allow_reuse_address = True

server = Server(("127.0.0.1", 8080), Handler)
print("ready", flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module", autouse=True)
def page(vm: MicroVM) -> Iterator[None]:
    """A program in the guest that listens on port 8080."""
    vm.write_text("/root/page.py", GUEST)
    lines = vm.stream(["python3", "/root/page.py"])
    assert next(lines)[1] == b"ready\n"
    yield
    lines.close()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def proxied(storage: Path) -> Iterator[Server]:
    with serving(storage, "--proxy-port", "0", "--proxy-domain", "vms.example") as server:
        yield server


@pytest.fixture
def proxy(proxied: Server) -> Iterator[httpx.Client]:
    with at(proxied) as client:
        yield client


@contextmanager
def at(server: Server, **headers: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.proxy_url, headers=headers, timeout=120, trust_env=False) as client:
        yield client


# ── what is meant ──


@pytest.mark.parametrize(
    ("host", "path", "place"),
    [
        ("h:1", "/api/vms/dev/proxy/80/x?", Place("dev", 80, "/x?", "/api/vms/dev/proxy/80")),
        ("h", "/api/vms/dev/proxy/80", Place("dev", 80, "/", "/api/vms/dev/proxy/80")),
        ("80-9f86d081.d.example", "/x", Place("9f86d081", 80, "/x", "")),
        ("80-9F86d081.D.example:81", "/api/vms/dev/proxy/1/", Place("9f86d081", 80, "/api/vms/dev/proxy/1/", "")),
        ("80-9f86d081.evil.example", "/x", None),
        ("d.example", "/x", None),
        ("x-9f86d081.d.example", "/", None),
        ("0-9f86d081.d.example", "/", None),
        ("99999-9f86d081.d.example", "/", None),
        ("a.80-9f86d081.d.example", "/", None),
        ("h", "/api/vms/dev/proxy/70000/", None),
        ("h", "/api/vms/a/b/proxy/80/", None),
        ("h", "/api/vms", None),
    ],
)
def test_which_port_is_meant(host: str, path: str, place: Place | None) -> None:
    assert place_of(Configuration(proxy_port=1, proxy_domain="d.example"), host, path) == place


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_address_is_a_port_or_none(host: str, path: str) -> None:
    found = place_of(Configuration(proxy_port=1, proxy_domain="d.example"), host, path)
    assert found is None or 1 <= found.port <= 65535


@given(
    st.lists(st.tuples(st.sampled_from([b"Cookie", b"Authorization", b"X-BandSox-Key", b"Connection", b"X-Other"]), st.binary(max_size=40)))
)
def test_nothing_of_the_servers_reaches_a_guest(headers: list[tuple[bytes, bytes]]) -> None:
    secret = [(b"cookie", b"a=1; bandsox_session=bss_secret; bandsox_pass=x.secret"), (b"authorization", b"Bearer bsx_secret")]
    handed = to_guest([*headers, *secret, (b"x-bandsox-key", b"bsx_secret")], 80, scheme="http", prefix="")
    assert b"secret" not in b"".join(value for _, value in handed)
    assert (b"cookie", b"a=1") in handed or any(value.lower().find(b"cookie") >= 0 for name, value in headers if name == b"Connection")


def test_a_guest_sets_no_cookies_for_others() -> None:
    given_ = [(b"Set-Cookie", b"a=1; DOMAIN=x; Path=/"), (b"set-cookie", b" bandsox_pass=1"), (b"Connection", b"x-hop"), (b"X-Hop", b"1")]
    assert from_guest(given_) == [(b"set-cookie", b"a=1; Path=/")]


# ── what is handed on ──


def test_a_page_is_handed_on_without_what_is_the_servers(proxy: httpx.Client, vm: MicroVM) -> None:
    headers = {"cookie": "own=2; bandsox_session=bss_x", "authorization": "Basic abc", "x-forwarded-host": "forged"}
    answer = proxy.get(f"/api/vms/{vm.vm_id}/proxy/8080/a%20b/c?d=e&d=f", headers=headers)
    assert answer.json()["path"] == "/a%20b/c?d=e&d=f"
    got: dict[str, str] = {name.lower(): value for name, value in answer.json()["headers"]}
    assert (got["host"], got["cookie"], got["authorization"]) == ("localhost:8080", "own=2", "Basic abc")
    assert got["x-forwarded-host"] == proxy.base_url.netloc.decode()
    assert got["x-forwarded-prefix"] == f"/api/vms/{vm.vm_id}/proxy/8080"
    assert answer.headers.get_list("set-cookie") == ["own=1; Path=/"]
    assert "service-worker-allowed" not in answer.headers
    assert "content-security-policy" not in answer.headers, "a guest's page is its own"


def test_under_a_name_of_its_own(proxy: httpx.Client, vm: MicroVM) -> None:
    answer = proxy.get("/x", headers={"host": f"8080-{vm.vm_id}.vms.example"})
    assert answer.json()["path"] == "/x"
    assert proxy.get("/x", headers={"host": "8080-0000000000000000.vms.example"}).status_code == 404
    assert proxy.get("/x", headers={"host": f"8080-{vm.vm_id}.evil.example"}).status_code in {400, 421}


def test_no_redirect_is_followed(proxy: httpx.Client, vm: MicroVM) -> None:
    answer = proxy.get(f"/api/vms/{vm.vm_id}/proxy/8080/away")
    assert (answer.status_code, answer.headers["location"]) == (307, "http://169.254.169.254/")


def test_bodies_are_streams_in_both_directions(proxy: httpx.Client, vm: MicroVM) -> None:
    data = os.urandom(3 << 20)
    path = f"/api/vms/{vm.vm_id}/proxy/8080/"
    assert proxy.post(path, content=data).text == hashlib.sha256(data).hexdigest()
    chunks = (data[start : start + 65536] for start in range(0, len(data), 65536))
    assert proxy.post(path, content=chunks).text == hashlib.sha256(data).hexdigest()
    with proxy.stream("GET", f"{path}chunks") as answer:
        assert b"".join(answer.iter_raw()) == b"onetwo"


def test_an_answer_that_breaks_off_is_not_taken_for_a_whole_one(proxy: httpx.Client, vm: MicroVM) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        proxy.get(f"/api/vms/{vm.vm_id}/proxy/8080/chunks", headers={"x-break": "1"})


@pytest.mark.parametrize(
    ("port", "path", "status", "code"), [(9, "/", 422, "connection_refused"), (8080, "/nonsense", 422, "invalid_response")]
)
def test_what_does_not_answer(proxy: httpx.Client, vm: MicroVM, port: int, path: str, status: int, code: str) -> None:
    answer = proxy.get(f"/api/vms/{vm.vm_id}/proxy/{port}{path}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_websocket_is_handed_on(proxied: Server, vm: MicroVM) -> None:
    url = f"{proxied.proxy_url.replace('http', 'ws')}/api/vms/{vm.vm_id}/proxy/8080/chat"
    with connect(url, proxy=None, open_timeout=60, subprotocols=["chat"], compression=None) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "chat"
        for message in ("grüß", b"\x00\xff", "x" * 60_000, b""):
            socket.send(message)
            assert socket.recv(timeout=60) == message
        socket.send("bye")
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=60)
        assert socket.close_code == 3999
    with pytest.raises(InvalidStatus), connect(url.replace("8080", "9"), proxy=None, open_timeout=60):
        pass


# ── for whom ──


def test_the_api_and_the_proxy_do_not_answer_for_each_other(proxied: Server, proxy: httpx.Client, vm: MicroVM) -> None:
    assert proxy.get("/api/vms").status_code == 400
    assert proxy.post("/api/auth/login", json={"password": "x"}).status_code == 400
    with proxied.client() as api:
        assert api.get(f"/api/vms/{vm.vm_id}/proxy/8080/").status_code == 404
        assert api.get("/api/vms", headers={"origin": proxied.proxy_url}).status_code == 403, "a guest's page is foreign there"


def test_foreign_pages_and_names_are_refused(proxy: httpx.Client, vm: MicroVM) -> None:
    path = f"/api/vms/{vm.vm_id}/proxy/8080/"
    assert proxy.get(path, headers={"origin": "http://evil.example"}).status_code == 403
    assert proxy.get(path, headers={"host": "evil.example"}).status_code == 421


def test_a_browser_gets_a_pass_for_one_port_with_a_link(storage: Path, vm: MicroVM) -> None:
    file = AuthFile(storage)
    file.set_password("long enough", new=True)
    try:
        made = {scope: keys.create(file, scope, [scope]) for scope in ("read", "exec")}
        with serving(storage, "--proxy-port", "0") as server:
            path = f"/api/vms/{vm.vm_id}/proxy/8080/"
            with at(server) as anybody:
                assert anybody.get(path).status_code == 401
                for forged in ("x", f"{vm.vm_id}.8080.session.1.0", "é"):
                    assert anybody.get(path, headers={b"cookie": f"bandsox_pass={forged}".encode()}).status_code == 401
            with at(server, authorization=f"Bearer {made['read'].key}") as reader:
                assert reader.get(path).status_code == 403
            with at(server, **{"x-bandsox-key": made["exec"].key}) as client:
                assert made["exec"].key not in client.get(path).text
            with server.client(made["exec"].key) as api:
                url = api.post(f"/api/vms/{vm.name}/ports/8080/link").json()["url"]
                assert api.post(f"/api/vms/{vm.name}/ports/0/link").status_code == 422
            with httpx.Client(trust_env=False, timeout=120) as browser:
                first = browser.get(url)
                cookie = first.headers["set-cookie"].lower()
                assert first.status_code == 303
                assert "ticket" not in first.headers["location"]
                assert all(word in cookie for word in ("httponly", "samesite=lax", f"path={path[:-1]}/"))
                page = browser.get(server.proxy_url + path)
                assert page.status_code == 200
                assert "bandsox_pass" not in json.dumps(page.json()["headers"])
                other = dict(browser.cookies)
                assert browser.get(server.proxy_url + path.replace("8080", "8081"), cookies=other).status_code == 401
                assert httpx.get(url, trust_env=False, timeout=120).status_code == 401, "a ticket is good for once"
                keys.revoke(file, made["exec"].key_id)
                assert browser.get(server.proxy_url + path).status_code == 401
    finally:
        file.path.unlink()


def test_without_a_proxy_there_is_no_link(http: httpx.Client, path: str) -> None:
    assert http.post(f"{path}/ports/80/link").status_code == 403


def test_a_domain_alone_makes_no_proxy(tmp_path: Path) -> None:
    assert "--proxy-port" in str(refused(tmp_path, "--proxy-domain", "d.example"))
