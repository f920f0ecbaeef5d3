"""A host and a world of its own, in two network namespaces that end with the test: nothing of this machine's network takes part.

world 192.0.2.1 ── 192.0.2.2 host
203.0.113.10 and 2001:db8:80::10   the Internet: a server that greets on port 80, and answers datagrams on port 7
10.1.2.3, 169.254.169.254, fd00::99  a private server, cloud metadata: the same server, which no guest is to reach
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

INTERNET4, INTERNET6 = "203.0.113.10", "2001:db8:80::10"
FORBIDDEN = ("10.1.2.3", "169.254.169.254", "fd00::99")
HOST4, HOST6 = "192.0.2.2", "2001:db8:1::2"

_SERVER = """
    import socket, threading

    def greet(listener):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    def serve(connection):
        with connection:
            connection.sendall(b"hello")
            while data := connection.recv(1 << 20):  # takes whatever comes
                pass

    def echo(sock):
        while True:
            data, address = sock.recvfrom(2048)
            sock.sendto(data, address)

    tcp = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
    udp = [socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)]
    udp[0].bind(("203.0.113.10", 7))
    udp[1].bind(("2001:db8:80::10", 7))
    for target, sock in ((greet, tcp), (echo, udp[0]), (echo, udp[1])):
        threading.Thread(target=target, args=(sock,), daemon=True).start()
    print("ready", flush=True)
    threading.Event().wait()
"""


@dataclass(frozen=True)
class Lab:
    """The two namespaces, each by a process that is in it."""

    host: int
    world: int

    @property
    def within(self) -> list[str]:
        """The command that runs another one on the host."""
        return ["nsenter", f"--net=/proc/{self.host}/ns/net"]

    def on_host(self, *command: str) -> str:
        return _run([*self.within, *command])


@contextlib.contextmanager
def lab(addresses: Sequence[str] = (INTERNET4, INTERNET6, *FORBIDDEN), program: Sequence[str] = ()) -> Iterator[Lab]:
    """Build it; needs root.

    Parameters
    ----------
    addresses: of the world.
    program: what runs there, in place of the server, and prints a line when it is ready.
    """
    with contextlib.ExitStack() as stack:
        host, world = (stack.enter_context(_holder()) for _ in range(2))
        made = Lab(host, world)
        _run(["ip", "link", "add", "net0", "netns", str(host), "type", "veth", "peer", "name", "net0", "netns", str(world)])
        nodad = ("dev", "net0", "nodad")
        in_world = ["nsenter", f"--net=/proc/{world}/ns/net"]
        for prefix in (made.within, in_world):
            _run([*prefix, "ip", "link", "set", "lo", "up"])
            _run([*prefix, "ip", "link", "set", "net0", "up"])
        for address in ("192.0.2.1/24", "2001:db8:1::1/64"):
            _run([*in_world, "ip", "address", "add", address, *nodad])
        for address in addresses:
            _run([*in_world, "ip", "address", "add", f"{address}/{128 if ':' in address else 32}", "dev", "lo"])
        for address in (f"{HOST4}/24", f"{HOST6}/64"):
            made.on_host("ip", "address", "add", address, *nodad)
        made.on_host("ip", "route", "add", "default", "via", "192.0.2.1")
        made.on_host("ip", "-6", "route", "add", "default", "via", "2001:db8:1::1")
        stack.enter_context(_server(made.within))
        stack.enter_context(_running([*in_world, *program]) if program else _server(in_world))
        yield made


@contextlib.contextmanager
def _holder() -> Iterator[int]:
    """A process in a network namespace of its own."""
    code = "import os, ctypes; assert ctypes.CDLL(None).unshare(0x40000000) == 0; print(os.getpid(), flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    try:
        yield int(holder.stdout.readline())
    finally:
        holder.kill()
        holder.communicate()


def _server(prefix: Sequence[str]) -> contextlib.AbstractContextManager[None]:
    code = textwrap.dedent(_SERVER)
    if "203.0.113.10" not in _run([*prefix, "ip", "address"]):
        code = code.replace('"203.0.113.10"', '"0.0.0.0"').replace('"2001:db8:80::10"', '"::1"')
    return _running([*prefix, sys.executable, "-c", code])


@contextlib.contextmanager
def _running(command: Sequence[str]) -> Iterator[None]:
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        assert server.stdout.readline() == "ready\n"
        yield
    finally:
        server.kill()
        server.communicate()


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout
