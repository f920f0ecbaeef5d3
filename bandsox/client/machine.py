"""A machine of a server: the library's handle, whose calls are requests."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import httpx
import msgspec

from bandsox.client.connection import MESSAGEPACK, Connection
from bandsox.client.guest import RemoteGuest, refuse
from bandsox.client.network import RemoteNetwork
from bandsox.client.timeline import RemoteTimeline
from bandsox.decoding import ready
from bandsox.errors import LimitExceeded, Unsupported, VMNotFound
from bandsox.guest.http import HttpResponse, build_request
from bandsox.models import Balloon, NetworkConfig, PortState, ProgressCallback, PublishedPort, RestoreReceipt, VMStatus
from bandsox.vm.handle import AsyncMicroVM

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from bandsox.models import Deadlines
    from bandsox.process import ProcessId


class RemoteMicroVM(RemoteNetwork, RemoteTimeline, AsyncMicroVM):
    """A handle on one machine of a server; used as `AsyncMicroVM`."""

    def __init__(self, connection: Connection, info: dict[str, Any]) -> None:
        self._server = connection
        self._info = info
        self._guest: RemoteGuest | None = None

    @property
    def _engine(self) -> NoReturn:  # type: ignore[override]
        """Refused, and with it every method that is not here: the engine is the server's."""
        refuse()

    def __repr__(self) -> str:
        return f"<AsyncMicroVM {self.vm_id} {self.name!r} {self._info['status']} on {self._server.url}>"

    @property
    def vm_id(self) -> str:
        """Its id, which never changes."""
        return str(self._info["id"])

    @property
    def _path(self) -> str:
        return f"/api/vms/{self.vm_id}"

    @property
    def name(self) -> str:
        """Its name, as this handle last saw it."""
        return str(self._info["name"])

    @property
    def process(self) -> ProcessId | None:
        """None: its process is another host's."""
        return None

    @property
    def guest(self) -> RemoteGuest:
        """The client of its agent."""
        if self._guest is None:
            self._guest = RemoteGuest(self._server, self.vm_id)
        return self._guest

    async def info(self) -> dict[str, Any]:
        """What is known of it now."""
        self._info = await self._server.get(self._path, dict[str, Any])
        return dict(self._info)

    async def status(self) -> VMStatus:
        """Whether it is running, paused, saved, stopped or dead, now."""
        return VMStatus((await self.info())["status"])

    async def start(self) -> None:
        """Start it again after a stop."""
        await self._change("start")

    async def stop(self, timeout: float = 10.0) -> None:
        """Power it off cleanly; kill it if that takes longer than `timeout` seconds."""
        await self._change("stop", params={"timeout": timeout})

    async def pause(self) -> None:
        """Stop its CPUs."""
        await self._change("pause")

    async def resume(self) -> None:
        """Let it go on after a pause, or from its memory on the disk."""
        await self._change("resume")

    async def hibernate(self, progress: ProgressCallback | None = None) -> None:
        """Write its memory to the disk and end its VMM; `resume` lets it go on where it was."""
        await self._server.work("POST", f"{self._path}/hibernate", progress)

    async def set_deadlines(self, **deadlines: Unpack[Deadlines]) -> None:
        """Change how long it may run, now and at later starts; what is not given stays as it is."""
        await self._server.call("PUT", f"{self._path}/deadlines", json=dict(deadlines))

    async def _change(self, verb: str, **options: Any) -> None:
        await self._server.call("POST", f"{self._path}/{verb}", patient=True, **options)

    async def delete(self) -> None:
        """Kill it and remove everything it owns; no error when it is gone already."""
        await self.disconnect()
        try:
            await self._server.call("DELETE", self._path, patient=True)
        except VMNotFound:
            return

    @property
    def receipt(self) -> RestoreReceipt | None:
        """What was done to make it a machine of its own, if it goes on from another; as this handle last saw it."""
        found = self._info["receipt"]
        return None if found is None else msgspec.convert(found, ready(RestoreReceipt))

    async def keep(self) -> None:
        """Refused: machines of a server end with no process."""
        refuse()

    async def console(self) -> str:
        """What it has printed on its console since it was started."""
        return str((await self._server.get(f"{self._path}/console", dict[str, Any]))["console"])

    async def follow_console(self) -> AsyncIterator[str]:
        """What it has printed on its console, and what it prints from now on, as it comes, until it stops."""
        async with contextlib.aclosing(self._server.lines("GET", f"{self._path}/console/follow")) as lines:
            async for line in lines:
                yield line["data"]

    async def snapshot(
        self, snapshot_name: str | None = None, metadata: Mapping[str, Any] | None = None, progress: ProgressCallback | None = None
    ) -> str:
        """Save it, running or paused, and return the snapshot's name."""
        body = {"name": snapshot_name, "metadata": None if metadata is None else dict(metadata)}
        return str((await self._server.make(f"{self._path}/snapshot", progress, json=body))["snapshot_id"])

    async def fork(
        self,
        count: int = 1,
        name: str | None = None,
        *,
        env_vars: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        progress: ProgressCallback | None = None,
    ) -> list[AsyncMicroVM]:
        """Make clones of it, running or paused, and let it go on."""
        body = {
            "count": count,
            "name": name,
            "env_vars": None if env_vars is None else dict(env_vars),
            "metadata": None if metadata is None else dict(metadata),
        }
        made = await self._server.make(f"{self._path}/fork", progress, json=body)
        return [RemoteMicroVM(self._server, info) for info in made["vms"]]

    async def balloon(self) -> Balloon:
        """How large its balloon is, and what the guest says of the rest of its memory."""
        return await self._server.get(f"{self._path}/balloon", Balloon)

    async def set_balloon(self, mib: int) -> None:
        """Have its balloon take `mib` MiB of its memory from it."""
        await self._server.call("PUT", f"{self._path}/balloon", json={"mib": mib})

    async def set_mmds(self, data: Mapping[str, Any]) -> None:
        """Have its metadata service say `data`."""
        await self._server.call("PUT", f"{self._path}/mmds", json={"data": dict(data)})

    # ── ports ──

    async def expose(self, port: int, host_port: int = 0, host: str = "127.0.0.1") -> str:
        """Publish a TCP port of the guest on the server's host, and return the URL, which is as seen from there."""
        body = {"guest_port": port, "host_port": host_port, "host": host}
        return str((await self._server.work("POST", f"{self._path}/ports", json=body))["url"])

    async def unexpose(self, port: int) -> None:
        """Undo every `expose` of a port of the guest."""
        await self._server.call("DELETE", f"{self._path}/ports/{port}")

    async def ports(self) -> list[PortState]:
        """The ports that it publishes on the server's host, and how they are used."""
        found = await self._server.get(f"{self._path}/ports", list[dict[str, Any]])
        return [_port_state(each) for each in found]

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
        """Send an HTTP request to a port of the guest, and return the answer. It can be read as a mapping as well, with the keys
        ``status_code``, ``headers`` and ``body`` (text), as earlier versions had it."""
        if allow_redirects:
            raise Unsupported("redirects are not followed", remedy="look at the answer's Location, and send another request")
        request = build_request(
            method, port, path, params=params, headers=headers, content=content, data=data, json=json, files=files, cookies=cookies
        )
        body = {
            "port": port,
            "path": request.url.raw_path.decode("ascii"),
            "method": request.method,
            "headers": {name: value for name, value in request.headers.items() if name not in {"content-length", "connection"}},
            "body": base64.b64encode(request.read()).decode(),
            "encoding": "base64",
            "host": host,
            "timeout": timeout,
        }
        accept = {"Accept": MESSAGEPACK}
        answer = await self._server.call("POST", f"{self._path}/http", json=body, headers=accept, patient=True)
        facts = msgspec.msgpack.decode(answer.content, type=dict[str, Any])
        if len(facts["body"]) > max_bytes:
            raise LimitExceeded(f"the guest's answer is longer than {max_bytes} bytes", remedy="allow more with max_bytes")
        head = httpx.Headers([(name, value) for name, value in facts["header_list"]])
        return RemoteResponse(facts["status_code"], facts["reason"], head, facts["body"], facts["url"], facts["elapsed"])

    async def get_guest_ip(self) -> str | None:
        """Its address; None when it has no network."""
        network = (await self.info())["network_config"]
        return None if network is None else msgspec.convert(network, ready(NetworkConfig)).reached_at

    async def get_file_contents(
        self,
        path: str,
        offset: int = 0,
        limit: int = 0,
        show_line_numbers: bool = False,
        show_header: bool = True,
        show_footer: bool = True,
    ) -> str:
        """A text file, or some lines of it."""
        window = {"offset": offset, "limit": limit, "show_line_numbers": show_line_numbers}
        shown = {"show_header": show_header, "show_footer": show_footer}
        answer = await self._server.get(f"{self._path}/read-file", dict[str, Any], path=path, **window, **shown)
        return str(answer["content"])

    async def _live(self) -> RemoteGuest:
        """The client of its agent; the server says so where it does not run."""
        return self.guest


class RemoteResponse(HttpResponse):
    """The answer to a request, which can be read as a mapping too."""

    def __getitem__(self, name: str) -> Any:
        """``status_code``, ``headers`` or ``body``."""
        return {"status_code": self.status_code, "headers": dict(self.headers), "body": self.text}[name]


def _port_state(facts: dict[str, Any]) -> PortState:
    port = PublishedPort(facts["guest_port"], facts["host_port"], facts["host"])
    return PortState(port, facts["listening"], facts["open"], facts["accepted"], facts["refused"])
