"""The link over the vsock of the host's own kernel, where that has one: the agent and this side of it in one machine, over loopback."""

from __future__ import annotations

import json
from pathlib import Path

from bandsox import BandSox
from bandsox.settings import Layout
from bandsox.vmm.kernel import Kernels
from tests.nested.outer import LIBRARY, host

_LINK = """
import asyncio, json, pathlib, platform, socket, subprocess
from bandsox.errors import BandSoxError
from bandsox.guest import GuestClient, HostVsockDoorbell, HostVsockLink
from bandsox.vmm.qemu import vhost

LOOPBACK = 1

async def failure(awaitable):
    try:
        await awaitable
    except BandSoxError as error:
        return f"{error.code}: {error.cause}"

async def doorbell():
    with HostVsockDoorbell(lambda: 4242) as bell:
        port = int(bell.boot_args.removeprefix("bandsox.doorbell="))
        ringing = asyncio.ensure_future(bell.rung())
        foreign = socket.socket(socket.AF_VSOCK)
        foreign.setblocking(False)
        await asyncio.get_running_loop().sock_connect(foreign, (socket.VMADDR_CID_HOST, port))
        told = await asyncio.get_running_loop().sock_recv(foreign, 99)
        still = not ringing.done()
        ringing.cancel()
        return [told.decode(), still]

async def main():
    guest = GuestClient(HostVsockLink(lambda: LOOPBACK))
    silent = socket.socket(socket.AF_VSOCK)
    silent.bind((socket.VMADDR_CID_ANY, 7777))
    silent.listen()
    content = pathlib.Path("/opt/content")
    content.write_bytes(bytes(range(256)) * 16384)
    await guest.upload_file(content, "/tmp/there")
    await guest.download_file("/tmp/there", pathlib.Path("/opt/back"))
    many = await asyncio.gather(*(guest.run(argv=["echo", str(n)]) for n in range(20)))
    return {
        "same": pathlib.Path("/opt/back").read_bytes() == content.read_bytes(),
        "many": [int(one.stdout) for one in many] == list(range(20)),
        "refused": await failure(GuestClient(HostVsockLink(lambda: LOOPBACK, port=9)).ping()),
        "nobody": await failure(GuestClient(HostVsockLink(lambda: 1 << 30)).ping()),
        "silent": await failure(GuestClient(HostVsockLink(lambda: LOOPBACK, port=7777)).ping(timeout=0.2)),
        "doorbell": await doorbell(),
        "device": vhost.unavailable(),
    }

program = f"{LIBRARY}/bandsox/agent/bin/bandsox-agent-{platform.machine()}"
with subprocess.Popen([program, "--listen", "vsock:1024"], stdout=subprocess.PIPE) as agent:
    agent.stdout.readline()  # it listens
    try:
        facts = asyncio.run(main())
    finally:
        agent.kill()
print(json.dumps(facts))
"""

_CLAIMS = """
import json, os, pathlib, tempfile
from bandsox.errors import MachineStopped
from bandsox.vmm.qemu import vhost

places = [pathlib.Path(tempfile.mkdtemp()) for _ in range(2)]
vhost._CIDS = 2  # all but no room
with vhost.claimed(places[0]) as one, vhost.claimed(places[1]) as other:
    apart = {one.cid, other.cid} == {vhost._FIRST_CID, vhost._FIRST_CID + 1}
    told = [vhost.cid_of(place) for place in places] == [one.cid, other.cid]
    full = vhost.unavailable()
free = vhost.unavailable()
try:
    vhost.cid_of(pathlib.Path("/nowhere"))
except MachineStopped as error:
    stopped = error.code
os.setuid(1000)
print(json.dumps({"apart": apart, "told": told, "full": full, "free": free, "stopped": stopped, "user": vhost.unavailable()}))
"""


def test_the_link_over_the_kernels_own_vsock(bandsox: BandSox, storage: Path) -> None:
    with host(bandsox, Kernels(Layout.open(storage)), mem_mib=512) as outer:
        outer.load("vhost_vsock", "vsock_loopback")
        assert json.loads(outer.python(f"LIBRARY = {LIBRARY!r}\n{_LINK}", timeout=300)) == {
            "same": True,
            "many": True,
            "refused": "machine_stopped: Connection reset by peer",
            "nobody": "machine_stopped: No such device",
            "silent": "timeout: None",
            "doorbell": ["", True],
            "device": None,
        }
        claims = json.loads(outer.python(_CLAIMS, timeout=300))
        assert "were all in use" in claims.pop("full")
        assert claims == {
            "apart": True,
            "told": True,
            "free": None,
            "stopped": "machine_stopped",
            "user": "this user may not open /dev/vhost-vsock",
        }
