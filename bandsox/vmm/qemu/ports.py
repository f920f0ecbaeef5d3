"""The agent's virtio-serial ports: a few from the start, and more when they are all in use.

Each port costs the guest memory, so a machine starts with `START_PORTS`, and whoever finds them all in use adds one, up to
`MAX_PORTS` or a quarter of the guest's memory. How many there are is said by the directory of the machine's sockets: a port is there
when its socket is. It gets its name last, so that a process that is killed while it adds a port leaves one that nobody sees, and
that the next one completes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bandsox.errors import MachineStopped
from bandsox.locks import Locks
from bandsox.sockets import listen
from bandsox.vmm.qemu import qmp
from bandsox.vmm.qemu.command import MAX_PORTS, monitor_socket, most_ports, port_socket

_DEADLINE_S = 30.0


async def add_port(sockets: Path, known: int) -> int:
    """See to it that the machine with these sockets has more than `known` ports, unless it has as many as it may; how many it has.

    Raises
    ------
    MachineStopped: no QEMU is behind the sockets. VMMError: QEMU refused. Timeout: another process does not come to an end with it.
    """
    if (count := count_ports(sockets)) > known or count == MAX_PORTS:
        return count
    try:
        async with Locks(sockets / "ports.lock").hold(deadline_s=_DEADLINE_S, what="a port of the machine"):
            if (count := count_ports(sockets)) > known or count == MAX_PORTS:
                return count
            return await _add(sockets, count)
    except FileNotFoundError as error:
        raise MachineStopped("the VMM is not running", cause=str(error)) from error


def count_ports(sockets: Path) -> int:
    """How many ports the machine with these sockets has."""
    return next(number for number in range(MAX_PORTS + 1) if not port_socket(sockets, number).exists())


async def _add(sockets: Path, number: int) -> int:
    """Give QEMU a listening socket and put a port in front of it, as far as somebody has not done so before; how many there are now."""
    name, unfinished = f"port{number}", sockets / f"port{number}.new"
    async with qmp.connect(monitor_socket(sockets)) as monitor:
        memory = await monitor.execute("query-memory-size-summary")
        if number >= most_ports(memory["base-memory"] >> 20):
            return number
        if not any(chardev["label"] == name for chardev in await monitor.execute("query-chardev")):
            with listen(unfinished, queue=1) as listener:
                await monitor.execute("getfd", fdname=name, descriptor=listener.fileno())
            address = {"type": "fd", "data": {"str": name}}
            backend = {"type": "socket", "data": {"addr": address, "server": True, "wait": False}}
            await monitor.execute("chardev-add", id=name, backend=backend)
        if not any(device["name"] == name for device in await monitor.execute("qom-list", path="/machine/peripheral")):
            port: dict[str, Any] = {
                "driver": "virtserialport",
                "id": name,
                "chardev": name,
                "name": f"org.bandsox.{number}",
                "nr": number + 1,
            }
            await monitor.execute("device_add", **port)
        unfinished.rename(port_socket(sockets, number))
    return number + 1
