"""The machine as a whole: is it there, what is it, give it its identity, how busy is it, turn it off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bandsox.errors import InvalidRequest
from bandsox.guest import frames
from bandsox.guest.answers import Answer, InfoAnswer, MetricsAnswer
from bandsox.guest.clock import tell_the_time
from bandsox.guest.connection import DEFAULT_TIMEOUT, Operations
from bandsox.guest.messages import Info, Ping, Prepare, ReadMetrics, Setup, Shutdown, Sync
from bandsox.guest.paths import GuestText, encode_env, encode_path, encode_text
from bandsox.models import GuestInfo, Metrics, ProcessInfo


class MachineOperations(Operations):
    """Operations on the machine itself.

    Every method raises MachineStopped, Timeout or ProtocolError where the connection fails, and those that change
    something OutcomeUnknown where it fails after they were sent.
    """

    async def ping(self, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Return when the agent has answered. `timeout` in seconds."""
        await self._connector.call(Ping(), Answer, timeout=timeout)

    async def info(self, *, timeout: float = DEFAULT_TIMEOUT) -> GuestInfo:
        """What the agent says of itself and its kernel."""
        answer = await self._connector.call(Info(), InfoAnswer, timeout=timeout)
        return GuestInfo(
            agent=answer.agent,
            kernel=answer.kernel,
            boot_id=answer.boot_id,
            arch=answer.arch,
            uptime_ms=answer.uptime_ms,
            transport=answer.transport,
            capabilities=tuple(answer.capabilities),
            time=answer.time,
        )

    async def prepare(self, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Make ready to be saved, for others to go on from, a machine that nobody has set up.

        Raises
        ------
        Unsupported: it depends on its disks already. GuestError: it has been set up.
        """
        await self._connector.call(Prepare(), Answer, timeout=timeout)

    async def setup(
        self,
        *,
        token: bytes | None = None,
        hostname: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        workdir: GuestText | None = None,
        hosts: GuestText | None = None,
        resolv: GuestText | None = None,
        time: float | None = None,
        tell_time: bool = False,
        entropy: bytes | None = None,
        network: Mapping[str, Any] | None = None,
        trust: Mapping[str, Any] | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        """Set what is given and leave the rest: once after boot, again after each restore.

        Parameters
        ----------
        token: the 32 bytes every later connection has to present; this client presents them from now on.
        env, user, workdir: the defaults of every later command.
        hosts, resolv: the whole of ``/etc/hosts`` and ``/etc/resolv.conf``.
        time: seconds since the epoch; steps the guest's clock.
        tell_time: step the clock to this host's time, for which the guest asks when it runs.
        entropy: bytes mixed into the kernel's random pool, and credited.
        network: the machine's place in its network: ``mac`` (6 bytes), ``mtu``, ``addresses`` (with prefix lengths) and ``gateways``.
        trust: an authority that programs are to believe: ``certificate`` and ``roots`` (PEM), ``hash``.
        """
        if token is not None and len(token) != frames.TOKEN_SIZE:
            raise InvalidRequest(f"a guest's token has {frames.TOKEN_SIZE} bytes, not {len(token)}")
        request = Setup(
            token=token,
            hostname=hostname,
            env=None if env is None else encode_env(env),
            user=None if user is None else encode_text(user, "the user"),
            workdir=None if workdir is None else encode_path(workdir),
            hosts=None if hosts is None else encode_text(hosts, "the hosts file"),
            resolv=None if resolv is None else encode_text(resolv, "the resolver's file"),
            time=time,
            ask_time=True if tell_time else None,
            entropy=entropy,
            network=None if network is None else dict(network),
            trust=None if trust is None else dict(trust),
        )
        async with self._connector.operation(request, timeout=timeout) as connection:
            await tell_the_time(connection, Answer)
        if token is not None:
            self._connector.token = token

    async def metrics(self, *, processes: bool = False) -> Metrics:
        """The guest's load; with `processes` its process list as well, of at most 4096."""
        answer = await self._connector.call(ReadMetrics(processes=processes), MetricsAnswer)
        return Metrics(
            uptime_ms=answer.uptime_ms,
            load=answer.load,
            cpu_count=answer.cpu.count,
            cpu_user_ms=answer.cpu.user_ms,
            cpu_system_ms=answer.cpu.system_ms,
            cpu_idle_ms=answer.cpu.idle_ms,
            cpu_steal_ms=answer.cpu.steal_ms,
            memory_total=answer.memory.total,
            memory_available=answer.memory.available,
            memory_free=answer.memory.free,
            memory_cached=answer.memory.cached,
            disk_total=answer.disk.total,
            disk_free=answer.disk.free,
            disk_read=answer.disk.read,
            disk_written=answer.disk.written,
            network_received=answer.network.received,
            network_sent=answer.network.sent,
            process_count=answer.processes,
            processes=tuple(
                ProcessInfo(
                    pid=process.pid,
                    ppid=process.ppid,
                    uid=process.uid,
                    name=process.name,
                    argv=tuple(process.argv),
                    state=process.state,
                    rss=process.rss,
                    cpu_ms=process.cpu_ms,
                )
                for process in answer.process_list or ()
            ),
        )

    async def sync(self, *, timeout: float = 120.0) -> None:
        """Return when everything written is on the guest's disks. `timeout` in seconds."""
        await self._connector.call(Sync(), Answer, timeout=timeout)

    async def shutdown(self, *, reboot: bool = False, kill_after: float = 2.0, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Begin to power off, or to reboot; returns at once.

        Parameters
        ----------
        kill_after: seconds between TERM and KILL for what runs.
        """
        await self._connector.call(Shutdown(reboot=reboot, timeout_ms=round(kill_after * 1000)), Answer, timeout=timeout)
