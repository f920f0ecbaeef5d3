"""A real registry for tests (Debian's docker-registry), images pushed to it by hand, and a proxy that breaks connections."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from bandsox.images import spec
from tests.images.tars import sha256

USER, PASSWORD = "anna", "secret"


@dataclass
class Registry:
    """A running registry."""

    host: str
    storage: Path
    log: Path
    auth: tuple[str, str] | None = None
    scheme: str = "http"
    authorization: Callable[[str], str] | None = None

    def push_blob(self, repository: str, data: bytes) -> str:
        digest = sha256(data)
        with self._client(repository) as client:
            started = client.post(f"/v2/{repository}/blobs/uploads/")
            assert started.status_code == 202, started.text
            location = httpx.URL(started.headers["Location"]).copy_merge_params({"digest": digest})
            done = client.put(location, content=data)
            assert done.status_code == 201, done.text
        return digest

    def push_manifest(self, repository: str, tag: str, manifest: bytes, media_type: str) -> str:
        with self._client(repository) as client:
            done = client.put(f"/v2/{repository}/manifests/{tag}", content=manifest, headers={"Content-Type": media_type})
            assert done.status_code == 201, done.text
        return sha256(manifest)

    def push(
        self,
        name: str,
        layers: list[bytes],
        *,
        config: Mapping[str, object] | None = None,
        architecture: str = "amd64",
        docker: bool = False,
        diff_ids: list[str] | None = None,
        extra: dict[str, object] | None = None,
    ) -> bytes:
        """Push an image of these layers (plain tars, or gzip ones with `diff_ids`); return its manifest."""
        repository, _, tag = name.partition(":")
        document: dict[str, object] = {
            "architecture": architecture,
            "os": "linux",
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids or [sha256(layer) for layer in layers]},
            **(extra or {}),
        }
        config_bytes = json.dumps(document).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": spec.DOCKER_MANIFEST if docker else spec.OCI_MANIFEST,
                "config": {
                    "mediaType": spec.DOCKER_CONFIG if docker else spec.OCI_CONFIG,
                    "digest": self.push_blob(repository, config_bytes),
                    "size": len(config_bytes),
                },
                "layers": [
                    {
                        "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip" if docker else spec.OCI_LAYER,
                        "digest": self.push_blob(repository, layer),
                        "size": len(layer),
                    }
                    for layer in layers
                ],
            }
        ).encode()
        self.push_manifest(repository, tag or "latest", manifest, spec.DOCKER_MANIFEST if docker else spec.OCI_MANIFEST)
        return manifest

    def blob_file(self, digest: str) -> Path:
        """Where the registry keeps a blob, to be damaged there."""
        hexadecimal = digest.removeprefix("sha256:")
        return self.storage / "docker/registry/v2/blobs/sha256" / hexadecimal[:2] / hexadecimal / "data"

    def requests(self, pattern: str) -> int:
        """How many requests whose line matches were answered so far."""
        return len(re.findall(pattern, self.log.read_text()))

    def _client(self, repository: str) -> httpx.Client:
        headers = {"Authorization": self.authorization(repository)} if self.authorization else {}
        return httpx.Client(base_url=f"{self.scheme}://{self.host}", auth=self.auth, headers=headers, timeout=120, verify=False)


@contextmanager
def run_registry(
    directory: Path,
    *,
    password: bool = False,
    auth: Mapping[str, object] | None = None,
    tls: Mapping[str, object] | None = None,
    authorization: Callable[[str], str] | None = None,
) -> Iterator[Registry]:
    """Run docker-registry on a free port of the loopback interface, with all its state in `directory`.

    `auth` and `tls` are parts of its configuration; `authorization` gives the header that tests push to a repository with.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lines = [
        "version: 0.1",
        "log: {level: info}",
        f"storage: {{filesystem: {{rootdirectory: {directory / 'data'}}}, delete: {{enabled: true}}}}",
        f"http: {json.dumps({'addr': f'127.0.0.1:{port}', **({'tls': tls} if tls else {})})}",
    ]
    if auth:
        lines.append(f"auth: {json.dumps(auth)}")
    if password:
        entry = subprocess.run(["htpasswd", "-nbB", USER, PASSWORD], capture_output=True, check=True).stdout
        (directory / "htpasswd").write_bytes(entry)
        lines.append(f"auth: {{htpasswd: {{realm: tests, path: {directory / 'htpasswd'}}}}}")
    (directory / "config.yml").write_text("\n".join(lines))
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(["docker-registry", "serve", str(directory / "config.yml")], stdout=output, stderr=output)
    try:
        _wait_for_port(port, process)
        known = (USER, PASSWORD) if password else None
        yield Registry(f"127.0.0.1:{port}", directory / "data", log, known, "https" if tls else "http", authorization)
    finally:
        process.kill()
        process.wait()


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    pause = threading.Event()
    for _ in range(300):
        assert process.poll() is None, "the registry ended at once"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        pause.wait(0.05)
    raise AssertionError("the registry does not listen")


@dataclass
class Proxy:
    """A TCP proxy before a registry, on a loopback port of its own.

    ``cuts`` holds, for each connection that answers a blob in turn, after how many bytes of it to break off; None to
    let it pass. ``stall`` does not break off but stops delivering, and sets ``stalled``.
    """

    target: str
    cuts: list[int | None] = field(default_factory=list)
    stall: bool = False
    host: str = ""
    stalled: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    delivered: int = 0
    requests: list[str] = field(default_factory=list)

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._handle, args=(connection,), daemon=True).start()

    def _handle(self, client: socket.socket) -> None:
        host, _, port = self.target.partition(":")
        with client, socket.create_connection((host, int(port))) as server:
            limit: list[int | None] = [None]
            threading.Thread(target=self._upstream, args=(client, server, limit), daemon=True).start()
            self._downstream(client, server, limit)
            for end in (client, server):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _downstream(self, client: socket.socket, server: socket.socket, limit: list[int | None]) -> None:
        while data := _receive(server):
            if limit[0] is not None and len(data) >= limit[0]:
                _send(client, data[: limit[0]])
                self.delivered += limit[0]
                if self.stall:
                    self.stalled.set()
                    self.ended.wait()
                return
            if limit[0] is not None:
                limit[0] -= len(data)
            self.delivered += len(data)
            if not _send(client, data):
                return

    def _upstream(self, client: socket.socket, server: socket.socket, limit: list[int | None]) -> None:
        while data := _receive(client):
            line = data.split(b"\r\n", 1)[0].decode("latin-1")
            ranged = re.search(rb"(?i)^range: (.*?)\r$", data, re.MULTILINE)
            self.requests.append(line + (f" [{ranged.group(1).decode()}]" if ranged else ""))
            if "/blobs/" in line:
                limit[0] = self.cuts.pop(0) if self.cuts else None
            if not _send(server, data):
                return


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except OSError:
        return b""


def _send(connection: socket.socket, data: bytes) -> bool:
    try:
        connection.sendall(data)
    except OSError:
        return False
    return True


@contextmanager
def proxy(registry: Registry, cuts: list[int | None] | None = None, *, stall: bool = False) -> Iterator[Proxy]:
    """Run a proxy before a registry."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = Proxy(registry.host, cuts or [], stall, f"127.0.0.1:{listener.getsockname()[1]}")
        threading.Thread(target=running._serve, args=(listener,), daemon=True).start()
        try:
            yield running
        finally:
            running.ended.set()
            listener.shutdown(socket.SHUT_RDWR)
