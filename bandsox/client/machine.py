"""A machine of a server: the library's handle, whose calls are requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, NoReturn

from bandsox.client.connection import Connection
from bandsox.client.guest import RemoteGuest, refuse
from bandsox.errors import VMNotFound
from bandsox.models import VMStatus
from bandsox.vm.handle import AsyncMicroVM

if TYPE_CHECKING:
    from bandsox.process import ProcessId


class RemoteMicroVM(AsyncMicroVM):
    """A handle on one machine of a server; used as `AsyncMicroVM`."""

    def __init__(self, connection: Connection, info: dict[str, Any]) -> None:
        self._server = connection
        self._info = info

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
        return RemoteGuest(self._server, self.vm_id)

    async def info(self) -> dict[str, Any]:
        """What is known of it now."""
        self._info = await self._server.get(f"/api/vms/{self.vm_id}", dict[str, Any])
        return dict(self._info)

    async def status(self) -> VMStatus:
        """Whether it is running, paused, stopped or dead, now."""
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
        """Let it go on after a pause."""
        await self._change("resume")

    async def _change(self, verb: str, **options: Any) -> None:
        await self._server.call("POST", f"/api/vms/{self.vm_id}/{verb}", patient=True, **options)

    async def delete(self) -> None:
        """Kill it and remove everything it owns; no error when it is gone already."""
        await self.disconnect()
        try:
            await self._server.call("DELETE", f"/api/vms/{self.vm_id}", patient=True)
        except VMNotFound:
            return

    async def keep(self) -> None:
        """Refused: machines of a server end with no process."""
        refuse()

    async def console(self) -> str:
        """What it has printed on its console since it was started."""
        return str((await self._server.get(f"/api/vms/{self.vm_id}/console", dict[str, Any]))["console"])

    async def follow_console(self) -> AsyncIterator[str]:
        """Refused: there is no route for it."""
        refuse()
        yield ""

    async def get_guest_ip(self) -> str | None:
        """Its address; None when it has no network."""
        network = (await self.info())["network_config"]
        return None if network is None else str(network["guest_ip"])

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
        answer = await self._server.get(f"/api/vms/{self.vm_id}/read-file", dict[str, Any], path=path, **window, **shown)
        return str(answer["content"])

    async def _live(self) -> RemoteGuest:
        """The client of its agent; the server says so where it does not run."""
        return self.guest
