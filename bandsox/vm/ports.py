"""The ports of a machine: the part of `AsyncMicroVM` that reaches what listens in the guest. The machine needs no network for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bandsox.errors import Unsupported
from bandsox.models import PortState, PublishedPort
from bandsox.portal import portal
from bandsox.vm.access import GuestAccess

if TYPE_CHECKING:
    from bandsox.engine import Engine
    from bandsox.guest import GuestStream
    from bandsox.guest.http import HttpResponse
    from bandsox.models import VMRecord


class GuestPorts(GuestAccess):
    """The methods on ports."""

    _engine: Engine
    _record: VMRecord

    async def expose(self, port: int, host_port: int = 0, host: str = "127.0.0.1") -> str:
        """Let programs of this host reach a TCP port of the guest, and return the URL. It holds until `unexpose`, over every stop
        and start of the machine.

        Parameters
        ----------
        host_port: the port of this host; 0: the one that it has already, or a free one.
        host: the address of this host to listen on; others than a loopback address let other hosts in.

        Raises
        ------
        Conflict: the port is taken, or the machine is not running.
        """
        return (await self._engine.published.expose(self._record.id, PublishedPort(port, host_port, host))).url

    async def unexpose(self, port: int) -> None:
        """Undo every `expose` of a port of the guest; connections that were made go on."""
        for state in await self.ports():
            if state.port.guest_port == port:
                await self._engine.published.unexpose(self._record.id, state.port)

    async def ports(self) -> list[PortState]:
        """The ports that it publishes on this host, and how they are used."""
        return await self._engine.published.states(self._record.id)

    async def connect(self, port: int, host: str = "127.0.0.1", timeout: float = 10.0) -> GuestStream:
        """Connect to a TCP port of the guest; the connection has ``read``, ``write``, ``write_eof`` and ``aclose``.

        Parameters
        ----------
        host: an IP address as seen from within the guest, or ``localhost``: its own port over IPv4, or else over IPv6.
        timeout: seconds until it must have come about.

        Raises
        ------
        ConnectionRefused: nothing listens there. GuestConnectionError: it cannot be reached.
        """
        return await (await self._live()).connect(port, host, timeout=timeout)

    async def send_http_request(
        self,
        port: int,
        path: str = "/",
        method: str = "GET",
        *,
        params: Any = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | str | None = None,
        data: Mapping[str, Any] | bytes | str | None = None,
        json: Any = None,
        files: Any = None,
        cookies: Mapping[str, str] | None = None,
        host: str = "localhost",
        timeout: float = 30.0,
        max_bytes: int = 64 << 20,
        allow_redirects: bool = False,
    ) -> HttpResponse:
        """Send an HTTP request to a port of the guest, and return the answer, which has the attributes of a `requests.Response`.

        The parameters in the middle are those of `requests` and httpx. No redirect is followed: it would lead out of the guest.

        Parameters
        ----------
        content: the body; or `data` (a form, or the body), `json` or `files` to make it of.
        host: as for `connect`.
        timeout: seconds for everything.
        max_bytes: how long the answer's body may be, decompressed.

        Raises
        ------
        ConnectionRefused: nothing listens there. InvalidResponse: the answer is not HTTP. LimitExceeded: it is too long.
        Timeout: no answer in time; OutcomeUnknown instead where the method may change something.
        """
        if allow_redirects:
            raise Unsupported("redirects are not followed", remedy="look at the answer's Location, and send another request")
        from bandsox.guest import http

        guest = await self._live()
        request = http.build_request(
            method, port, path, params=params, headers=headers, content=content, data=data, json=json, files=files, cookies=cookies
        )
        return await http.send(guest, request, host=host, timeout=timeout, max_bytes=max_bytes)


class BlockingStream:
    """The blocking face of `bandsox.guest.GuestStream`: the same methods; see there. One thread may read while another writes."""

    def __init__(self, stream: GuestStream) -> None:
        self._async = stream

    def __enter__(self) -> BlockingStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, size: int = 65536) -> bytes:
        """The next 1 to `size` bytes, as soon as there are any; empty at the end."""
        return portal.run(self._async.read(size))

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`, as fast as the program in the guest takes it."""
        portal.run(self._async.write(data))

    def write_eof(self) -> None:
        """End this direction; the program in the guest reads an end of file, and may go on sending."""
        portal.run(self._async.write_eof())

    def close(self) -> None:
        """Close the connection in both directions; what was written still arrives."""
        portal.run(self._async.aclose())
