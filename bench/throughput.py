"""TCP between a guest and a server: over BandSox's network, with policies and without, and over an uplink of the same kind by the bare VMM.

It runs on the host of the network tests' lab (`tests.network.lab`), whose world has the server: nothing of this machine's network takes
part; as root, and as an ordinary user. The bare VMM has a TAP device in a namespace that a pair of devices leads out of, made by ip(8), or
pasta, with NAT and without any rules besides. The guests take turns, since the speed of an emulated one changes in the course of minutes.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from bandsox.core import AsyncBandSox
from bandsox.engine import networking
from bandsox.guest import GuestClient
from bandsox.models import NetworkConfig, Policy
from bench.rawvm import RawDevice, raw_vm
from tests.network.internet import API4, RESOLVER
from tests.network.lab import lab
from tests.users import ordinary_user, script

_ROUNDS = 30
_SIZE = 48_000_000
_PORT = 9
_HOST, _NAMESPACE, _GATEWAY, _GUEST = "192.168.77.1", "192.168.77.2", "192.168.78.1", "192.168.78.2"
_MTU = 1500 if os.geteuid() == 0 else 65520
_MAC = "06:00:c0:a8:4e:02"

_SERVER = f"""
import socket, threading
from tests.network.internet import RESOLVER, answer

def serve(connection):
    block = bytearray(1 << 20)
    with connection:
        if connection.recv(1) == b"<":
            left = {_SIZE}
            while left:
                left -= connection.send(memoryview(block)[:left])
        else:
            left = {_SIZE}
            while left:
                left -= connection.recv_into(block)
            connection.sendall(b"!")

def resolve(sock):
    while True:
        query, address = sock.recvfrom(2048)
        sock.sendto(answer(query), address)

names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
names.bind((RESOLVER, 53))
threading.Thread(target=resolve, args=(names,), daemon=True).start()
listener = socket.create_server(("", {_PORT}), backlog=16)
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""

_CLIENT = f"""
import socket, sys, time
block, left = bytearray(1 << 20), {_SIZE}
connection = socket.create_connection((sys.argv[1], {_PORT}), 60)
started = time.monotonic()
connection.sendall(sys.argv[2].encode())
while left:
    left -= connection.recv_into(block) if sys.argv[2] == "<" else connection.send(memoryview(block)[:left])
if sys.argv[2] == ">":
    assert connection.recv(1) == b"!"
print({_SIZE} / (time.monotonic() - started))
"""

Run = Callable[[list[str]], Awaitable[str]]


def begin(storage: Path) -> None:
    """Measure in processes on the host of a lab, root's and an ordinary user's, which print the tables."""
    if os.geteuid() != 0:
        print("\nThroughput is measured by root, who makes the lab: it needs namespaces.")
        return
    checkout = str(Path(__file__).parents[1])
    server = ["env", f"PYTHONPATH={checkout}", sys.executable, "-c", _SERVER]
    with lab((API4, RESOLVER), server) as world:
        environment = {**os.environ, "BANDSOX_STORAGE": str(storage), "PYTHONPATH": checkout}
        subprocess.run([*world.within, sys.executable, "-m", "bench.throughput"], env=environment, check=True)
        ordinary_user()
        done = script("import bench.throughput as it; it.asyncio.run(it.main())", within=world.within)
        print(done.stdout or done.stderr, end="")


async def _measure(bandsox: AsyncBandSox) -> None:
    async with AsyncExitStack() as stack:
        ways = {"bare VMM": await stack.enter_async_context(_bare(bandsox))}
        for way, policy in {
            "no policy": None,
            "a policy of addresses": Policy(allow=("203.0.113.0/24", "10.0.0.0/8:22", "*.example.org")),
            "a policy of names, carried by the filter": Policy(allow=(f"api.example.com:{_PORT}",)),
        }.items():
            ways[way] = await stack.enter_async_context(_machine(bandsox, policy))
        rates: dict[str, dict[str, list[float]]] = {way: {"<": [], ">": []} for way in ways}
        for _ in range(_ROUNDS):
            for way, run in ways.items():
                for direction, samples in rates[way].items():
                    place = "api.example.com" if "names" in way else API4
                    samples.append(float(await run(["python3", "-c", _CLIENT, place, direction])))
    uplink = "a pair of devices, by root" if os.geteuid() == 0 else "pasta, without root"
    print(f"\n### TCP of a guest over {uplink}\n\n| way | runs | in MB/s | of bare | out MB/s | of bare |\n|---|---|---|---|---|---|")
    for way, directions in rates.items():
        floor = rates["bare VMM"]
        cells = [(statistics.median(samples) / 1e6, _ratio(samples, floor[sign])) for sign, samples in directions.items()]
        print(f"| {way} | {_ROUNDS} | " + " | ".join(f"{rate:.0f} | {ratio:.2f}" for rate, ratio in cells) + " |")
    cost = [1 - _ratio(rates["a policy of addresses"][sign], rates["no policy"][sign]) for sign in "<>"]
    print(f"\nA policy costs {max(cost):.0%} (target: at most 10 %); without one at least 70 % of the bare VMM's are wanted.")


def _ratio(samples: list[float], floor: list[float]) -> float:
    """At the median, of one and the other in the same round: from round to round the speed of the host changes more."""
    return statistics.median(one / other for one, other in zip(samples, floor, strict=True))


@asynccontextmanager
async def _machine(bandsox: AsyncBandSox, policy: Policy | None) -> AsyncIterator[Run]:
    vm = await bandsox.create_vm(mem_mib=256, enable_networking=True, network=policy, dns=[RESOLVER])
    try:
        yield lambda command: _text(vm.guest, command)
    finally:
        await vm.delete()


@asynccontextmanager
async def _bare(bandsox: AsyncBandSox) -> AsyncIterator[Run]:
    like = await bandsox.create_vm(mem_mib=256, enable_networking=False)
    try:
        with _veth() if os.geteuid() == 0 else _pasta() as device:
            async with raw_vm(bandsox, like._record, device=device) as raw:
                await raw.client.setup(network=networking.guest_side(_CONFIG), timeout=60)
                yield lambda command: _text(raw.client, command)
    finally:
        await like.delete()


_CONFIG = NetworkConfig("veth", _GATEWAY, _GUEST, "", _MAC, "tap0", "fd00:78::1", "fd00:78::2", mtu=_MTU)


async def _text(guest: GuestClient, command: list[str]) -> str:
    done = await guest.run(argv=command, timeout=300)
    assert done.exit_code == 0, done.stderr.decode()
    return done.stdout.decode()


@contextmanager
def _veth() -> Iterator[RawDevice]:
    """A namespace with a TAP device, and a pair of devices that leads out of it, made by hand."""
    with _namespace("--net") as (pid, within):
        _run(
            f"ip link add bare0 type veth peer name uplink netns {pid}",
            f"ip address add {_HOST}/30 dev bare0",
            "ip link set bare0 up",
            f"{within} ip address add {_NAMESPACE}/30 dev uplink",
            f"{within} ip link set uplink up",
            f"{within} ip route add default via {_HOST}",
            f"ip route add {_GUEST} via {_NAMESPACE}",
            "sysctl -qw net.ipv4.ip_forward=1",
            "nft add table ip bare",
            "nft add chain ip bare out { type nat hook postrouting priority srcnat ; }",
            f"nft add rule ip bare out ip saddr {_GUEST} oifname net0 masquerade",
        )
        yield RawDevice(tuple(within.split()), "tap0", _MAC)


@contextmanager
def _pasta() -> Iterator[RawDevice]:
    """A namespace with a TAP device, and pasta(1) beside it; packets without flags, which old ones send, are dropped as by BandSox."""
    with _namespace("--user --map-root-user --net") as (pid, within):
        options = f"--foreground --quiet --config-net --ns-ifname uplink --mtu {_MTU} --no-map-gw -t none -u none -T none -U none"
        pasta = subprocess.Popen(["pasta", *options.split(), str(pid)])
        try:
            _run(
                f"{within} nft add table ip bare",
                f"{within} nft add chain ip bare in {{ type filter hook prerouting priority mangle ; }}",
                f"{within} nft add rule ip bare in ct state invalid drop",
                f"{within} nft add chain ip bare out {{ type nat hook postrouting priority srcnat ; }}",
                f"{within} nft add rule ip bare out oifname uplink masquerade",
            )
            yield RawDevice(tuple(within.split()), "tap0", _MAC)
        finally:
            pasta.terminate()
            pasta.wait()


@contextmanager
def _namespace(kinds: str) -> Iterator[tuple[int, str]]:
    """A process in namespaces of its own with a TAP device, and the command that leads into them; they are gone with it."""
    waiting = [sys.executable, "-c", "print(flush=True); input()"]
    holder = subprocess.Popen(["unshare", *kinds.split(), *waiting], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        user = "--user --preserve-credentials" if "--user" in kinds else ""
        within = f"nsenter --target {holder.pid} {user} --net"
        _run(
            f"{within} ip tuntap add tap0 mode tap vnet_hdr",
            f"{within} ip address add {_GATEWAY}/30 dev tap0",
            f"{within} ip link set tap0 mtu {_MTU} up",
            f"{within} sysctl -qw net.ipv4.ip_forward=1",
        )
        yield holder.pid, within
    finally:
        holder.kill()
        holder.communicate()


def _run(*lines: str) -> None:
    for line in lines:
        subprocess.run(line.split(), check=True)


async def main() -> None:
    """Measure, and print a table."""
    async with AsyncBandSox() as bandsox:
        await _measure(bandsox)


if __name__ == "__main__":
    asyncio.run(main())
