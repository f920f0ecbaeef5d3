"""A server as users run it: a process of its own, found by the address that it prints."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from bandsox.models import ImageConfig, Isolation, VMRecord, VMSpec, VMStatus

PASSWORD, OTHER = "correct horse battery", "another password"

STOPPED = VMRecord(
    id="",
    spec=VMSpec("image", "name"),
    status=VMStatus.STOPPED,
    created_at=1.0,
    image_id="image",
    image_config=ImageConfig(),
    rootfs=Path("/nonexistent"),
    kernel=Path("/nonexistent"),
    initramfs=Path("/nonexistent"),
    vmm="qemu",
    vmm_version="",
    accelerator="tcg",
    accelerator_reason="",
    isolation=Isolation.EMULATED,
    transport="virtio-serial",
)
"""A machine that a server may list, of which there is nothing but the record."""


class Server:
    """A running ``bandsox serve``."""

    def __init__(self, process: subprocess.Popen[str], url: str, proxy_url: str | None) -> None:
        self.process, self.url = process, url
        self.proxy_url = proxy_url or ""

    def client(self, key: str | None = None, **options: object) -> httpx.Client:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=120, trust_env=False, verify=False, **options)  # type: ignore[arg-type]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


_PORTS = itertools.count(20_000 + os.getpid() % 100 * 100)


def free_port() -> int:
    """A port that nobody has, and that nobody gets by chance: it is none of those that the kernel gives away (ip_local_port_range)."""
    for port in _PORTS:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError


@contextmanager
def serving(storage: Path, *options: str, log: Path | None = None) -> Iterator[Server]:
    """A server of a storage directory, on a free port, for the time of the block. `log`: where what it says goes, to the end of a file."""
    command = [sys.executable, "-m", "bandsox", "--json", "--storage", str(storage), "serve", "--port", "0", *options]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with contextlib.ExitStack() as stack:
        stderr = None if log is None else stack.enter_context(log.open("a"))
        process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment))
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            yield Server(process, ready["url"], ready["proxy_url"])
        finally:
            process.kill()


def refused(storage: Path, *options: str) -> dict[str, object]:
    """How ``bandsox serve`` fails."""
    command = [sys.executable, "-m", "bandsox", "--json", "--storage", str(storage), "serve", "--port", "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    error: dict[str, object] = json.loads(done.stderr)["error"]
    return error


def as_json(value: object) -> object:
    """`value` as it comes out of JSON, where tuples are lists."""
    return json.loads(json.dumps(value))
