"""Starting a machine's keeper, which makes its namespace, and telling it of the VMM."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import msgspec

from bandsox.decoding import ready
from bandsox.errors import HostError, MissingTool
from bandsox.models import NetworkConfig, Policy
from bandsox.network import filter as filtering
from bandsox.network import plan, rules
from bandsox.network.cni import remedy_for
from bandsox.process import ProcessId

LOG = "network.log"
"""What the keeper has to say after its start, in the machine's directory."""

_DEADLINE_S = 60.0
_ANSWER_LIMIT = 64 << 10
_MTU_PASTA = 65520
"""pasta ends every TCP connection itself, so no path behind it bounds a segment, and the largest is the fastest (passt(1), ``--mtu``)."""

_NS_GET_USERNS = 0xB701
"""ioctl_ns(2)."""

_SYSTEM_PATH = "/usr/sbin:/sbin"
_TUN = "load the driver (modprobe tun) and let users open it (chmod 666 /dev/net/tun), as distributions do"

_ALLOW = "let this user make user namespaces: see kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns"


class Reply(msgspec.Struct):
    """What the keeper says (``agent/internal/keeper``, ``Reply``), twice: when a VMM can be started, and when packets get through."""

    mtu: int
    ipv6: bool
    error: str | None = None
    collision: bool = False
    addresses: tuple[str, ...] = ()
    resolvers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class AddressesTaken(Exception):
    """Another machine of this host has these addresses."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A machine's namespace that has just been made: descriptors of it, of its TAP device and, where that is not the host's, of the user
    namespace that owns it; and the socket to its keeper."""

    descriptor: int
    tap: int | None
    users: int | None
    keeper: socket.socket
    reply: Reply

    def complete(self) -> None:
        """Return when packets get through: rules, uplink and filter are there. Before, none does. Blocks, for some 50 ms after `make`.

        Raises
        ------
        HostError: this host cannot give it.
        """
        try:
            answer = self.keeper.recv(_ANSWER_LIMIT)
        except TimeoutError as error:
            raise _late() from error
        except OSError as error:
            raise _ended(error) from error
        _completed(answer)

    async def completed(self) -> None:
        """As `complete`, without blocking."""
        self.keeper.setblocking(False)
        try:
            with anyio.fail_after(_DEADLINE_S):
                answer = await asyncio.get_running_loop().sock_recv(self.keeper, _ANSWER_LIMIT)
        except TimeoutError as error:
            raise _late() from error
        except OSError as error:
            raise _ended(error) from error
        _completed(answer)

    def bind(self, vmm: ProcessId) -> None:
        """Have the keeper stay until `vmm` has ended; without this word it ends when this process lets go of the namespace."""
        with vmm.handle() as pidfd, contextlib.suppress(BrokenPipeError):
            if pidfd is not None:
                socket.send_fds(self.keeper, [b"machine"], [pidfd])

    def close(self) -> None:
        """Let go of it."""
        self.keeper.close()
        for descriptor in (self.descriptor, self.tap, self.users):
            if descriptor is not None:
                os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Programs:
    """The keeper's program, the filter's, and the one that attaches to CNI networks."""

    keeper: Path
    filter: Path
    cni: Path


def make(
    programs: Programs,
    directory: Path,
    config: NetworkConfig,
    lease: int,
    policy: Policy | None = None,
    owner: int | None = None,
    secrets: Mapping[str, Any] | None = None,
    cni: Mapping[str, Any] | None = None,
) -> Namespace:
    """Begin to make a machine's network: return when its namespace has the TAP device, and the rest is on its way. Blocks for some 20 ms.

    Parameters
    ----------
    directory: the machine's, in which it works.
    lease: the descriptor that holds the claim to the addresses of `config`.
    policy: where the machine may go; None: wherever the rules let it.
    owner: the user who will open the TAP device by its name; None: it comes as a descriptor.
    secrets: as for `filter.configuration`.
    cni: of `cni.configuration`, where the uplink is a CNI network.

    Raises
    ------
    MissingTool: a program is not installed.
    HostError: this host cannot give a network.
    AddressesTaken: choose others.
    """
    request = msgspec.json.encode(_request(programs, config, directory.name, policy, owner, secrets, cni))
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.ExitStack() as undo:
        undo.callback(here.close)
        with there, open(directory / LOG, "wb", opener=_owner_only) as log:
            started = subprocess.run(
                [str(programs.keeper), str(lease)],
                stdin=there.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=directory,
                env={},
                pass_fds=[lease],
                check=False,
            )
        if started.returncode != 0:
            raise _refusal((directory / LOG).read_text(errors="replace").strip())
        here.settimeout(_DEADLINE_S)
        answer, descriptors = _ask(here, request)
        if answer.collision:
            raise AddressesTaken
        if answer.error is not None:
            raise _refusal(answer.error)
        users = fcntl.ioctl(descriptors[0], _NS_GET_USERNS) if config.uplink == "pasta" else None
        undo.pop_all()
    return Namespace(descriptors[0], descriptors[1] if len(descriptors) > 1 else None, users, here, answer)


def sweep(program: Path, vm_ids: Sequence[str]) -> None:
    """Remove what keepers of root's that were killed have left on the host. Blocks for some 10 ms.

    Parameters
    ----------
    vm_ids: machines that do not run, whose pairs of devices may still be there; the host's rules go with the last pair of any machine.

    Raises
    ------
    HostError: it cannot be removed.
    """
    names = (interface_of(vm_id) for vm_id in vm_ids)
    command = [str(program), "sweep", _tool("nft", "nftables"), str(rules.GROUP), *names]
    done = subprocess.run(command, capture_output=True, env={}, check=False)
    if done.returncode != 0:
        cause = done.stderr.decode(errors="replace").strip()
        raise HostError("what a killed network has left cannot be removed", cause=cause, remedy="mend the cause, and try again")


def interface_of(vm_id: str) -> str:
    """What the host's end of a machine's veth pair is called, in the 15 characters of a device's name."""
    return f"bsx{vm_id[:11]}"


def _ask(keeper: socket.socket, request: bytes) -> tuple[Reply, list[int]]:
    try:
        keeper.sendall(request)
        answer, descriptors, _, _ = socket.recv_fds(keeper, _ANSWER_LIMIT, 2)
    except TimeoutError as error:
        raise _late() from error
    except OSError as error:
        raise _ended(error) from error
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return _read(answer), descriptors


def _completed(answer: bytes) -> None:
    reply = _read(answer)
    if reply.error is not None:
        raise _refusal(reply.error)


def _read(answer: bytes) -> Reply:
    if not answer:
        raise _ended()
    return msgspec.json.decode(answer, type=ready(Reply))


def _request(
    programs: Programs,
    config: NetworkConfig,
    vm_id: str,
    policy: Policy | None,
    owner: int | None,
    secrets: Mapping[str, Any] | None,
    cni: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The keeper's ``Config``."""
    nft = _tool("nft", "nftables")
    rootless = config.uplink == "pasta"
    host, inner = plan.link_addresses()
    return {
        "tap": {
            "name": config.tap_name,
            "mac": config.host_mac,
            "mtu": _MTU_PASTA if rootless else 0,
            "addresses": [plan.with_length(ip) for ip in (config.host_ip, config.host_ipv6, plan.GATEWAY6)],
            "owner": 0 if rootless and owner is not None else owner,  # an ordinary user is root where his keeper is
        },
        "guest": {"mac": config.guest_mac, "addresses": [config.guest_ip, config.guest_ipv6]},
        "rules": rules.namespace_rules(config),
        "resolvers": config.dns,
        "nft": nft,
        "pasta": _pasta() if rootless else [],
        "veth": {"name": interface_of(vm_id), "group": rules.GROUP, "host": host, "inner": inner},
        "host_rules": rules.host_rules() if config.uplink == "veth" else "",
        "cni": cni or {},
        "filter": filtering.configuration(programs.filter, nft, config, policy, secrets),
    }


def _pasta() -> Sequence[str]:
    """pasta without any way in and without a way to the host's own loopback, but for the namespace it serves."""
    ports = ("-t", "none", "-u", "none", "-T", "none", "-U", "none")
    return (
        *(_tool("pasta", "passt"), "--quiet", "--config-net", "--ns-ifname", rules.UPLINK, "--mtu", str(_MTU_PASTA)),
        *("--no-map-gw", *ports),
    )


def _tool(name: str, package: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=_SYSTEM_PATH)
    if found is None:
        raise MissingTool(f"{name} is not installed", cause="a VM's network needs it", remedy=f"apt-get install {package}")
    return found


def _owner_only(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _late() -> HostError:
    return HostError(f"a network was not there within {_DEADLINE_S:.0f} s", cause="this host is too busy for it")


def _ended(error: OSError | None = None) -> HostError:
    return _refusal("the keeper of the network ended" + (f": {error}" if error is not None else ""))


def _refusal(cause: str) -> HostError:
    remedy = remedy_for(cause) or "mend the cause, or pass enable_networking=False"
    if "/dev/net/tun" in cause:
        remedy = _TUN
    elif "not permitted" in cause and os.geteuid() != 0:
        remedy = _ALLOW
    return HostError("this host cannot give the VM a network", cause=cause or None, remedy=remedy)
