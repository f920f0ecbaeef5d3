"""Copies of a machine: nothing runs while one is made, and each gets an identity of its own before anything runs in it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any

import anyio

from bandsox.errors import BandSoxError, InvalidRequest, MachineStopped, OutcomeUnknown, Unsupported
from bandsox.guest import frames
from bandsox.guest.answers import Answer, FrozenEvent, RenewAnswer, ThawAnswer
from bandsox.guest.clock import tell_the_time
from bandsox.guest.connection import DEFAULT_TIMEOUT, Connection, Operations
from bandsox.guest.faults import printable
from bandsox.guest.frames import FrameType
from bandsox.guest.messages import CancelControl, Freeze, Renew, Thaw, encode_message
from bandsox.guest.paths import GuestText, encode_env, encode_path, encode_text
from bandsox.models import HookResult, RestoreReceipt, RestoreStep

HOOK_TIMEOUT = 5.0
"""How long the guest's own program for a restore may take, in seconds, where the caller does not say."""


class RenewalOperations(Operations):
    """Operations around a snapshot: before it in the source, after it in every copy."""

    @contextlib.asynccontextmanager
    async def frozen(self, *, grace: float = 0.0, timeout: float = DEFAULT_TIMEOUT) -> AsyncIterator[bool]:
        """No program of the guest but its agent runs within the block; the value is whether all have stopped.

        One that has not sleeps in the kernel, and stops before it returns from there. The guest's CPUs may be stopped within the
        block, but have to run at its end. If this process dies in the block, the programs go on by themselves as soon as the guest
        learns of it; in a copy that was made meanwhile they stay frozen until `renew`.

        Parameters
        ----------
        grace: how much later, in seconds, they go on by themselves. It has to be longer than a restore takes where the guest cannot
            tell a copy from itself, since the disks of both have the same serial numbers.
        timeout: seconds for the freezing, and again for the thawing.

        Raises
        ------
        Unsupported: the guest's kernel cannot freeze.
        GuestError: they are frozen already.
        """
        connection = await self._connector.open(Freeze(grace_ms=round(grace * 1000)), timeout=timeout)
        try:
            event = await connection.event(FrozenEvent)
            try:
                yield event.complete
            except BaseException:
                with anyio.CancelScope(shield=True), contextlib.suppress(BandSoxError):
                    await self._end_freezing(connection, timeout)
                raise
            with anyio.CancelScope(shield=True):
                await self._end_freezing(connection, timeout)
        finally:
            connection.close()

    async def _end_freezing(self, connection: Connection, timeout: float) -> None:
        """Thaw on the connection that froze, or, where the snapshot has cost it its life as with Firecracker's vsock, on another one."""
        connection.deadline = asyncio.get_running_loop().time() + timeout
        try:
            await connection.send(frames.encode(FrameType.CONTROL, encode_message(CancelControl())))
            await connection.result(Answer)
        except (MachineStopped, OutcomeUnknown):
            await self.thaw(timeout=timeout)

    async def thaw(self, *, timeout: float = DEFAULT_TIMEOUT) -> bool:
        """Let the guest's programs go on; return whether they were frozen. `timeout` in seconds."""
        return (await self._connector.call(Thaw(), ThawAnswer, timeout=timeout)).frozen

    async def renew(
        self,
        *,
        token: bytes,
        itself: bool = False,
        hostname: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        workdir: GuestText | None = None,
        hosts: GuestText | None = None,
        resolv: GuestText | None = None,
        network: Mapping[str, Any] | None = None,
        trust: Mapping[str, Any] | None = None,
        hook_timeout: float = HOOK_TIMEOUT,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> RestoreReceipt:
        """Make a copy of a machine one of its own, and let its programs go on.

        It gets fresh entropy, the time, another machine-id, and what is given, as with `setup`. All other connections end; sessions go on
        and can be attached to again. Then the guest's ``/etc/bandsox/on-restore`` runs, where it has one. A copy for which this fails must
        not be used: it is not known to be unlike its source.

        Parameters
        ----------
        token: the 32 bytes every later connection has to present instead of the source's; this client presents them from now on.
        itself: the machine is the one that it was copied from, which is no more: it keeps its machine-id.
        network: the machine's place in its network, as with `setup`.
        trust: an authority that programs are to believe, as with `setup`.
        hook_timeout: seconds after which the guest's own program is killed.
        timeout: seconds for everything else.
        """
        if len(token) != frames.TOKEN_SIZE:
            raise InvalidRequest(f"a guest's token has {frames.TOKEN_SIZE} bytes, not {len(token)}")
        machine_id = None if itself else secrets.token_bytes(16)
        request = Renew(
            token=token,
            hostname=hostname,
            env=None if env is None else encode_env(env),
            user=None if user is None else encode_text(user, "the user"),
            workdir=None if workdir is None else encode_path(workdir),
            hosts=None if hosts is None else encode_text(hosts, "the hosts file"),
            resolv=None if resolv is None else encode_text(resolv, "the resolver's file"),
            network=None if network is None else dict(network),
            machine_id=machine_id,
            trust=None if trust is None else dict(trust),
            entropy=secrets.token_bytes(64),
            hook_timeout_ms=max(1, round(hook_timeout * 1000)),
        )
        async with self._connector.operation(request, timeout=timeout + hook_timeout) as connection:
            answer = await tell_the_time(connection, RenewAnswer)
        done = {step.name for step in answer.steps}
        if (network is not None and "network" not in done) or (trust is not None and "trust" not in done):
            raise Unsupported("the agent in the snapshot is too old to give a copy a network, or secrets", remedy="take the snapshot anew")
        self._connector.token = token
        return _receipt(answer, machine_id)


def _receipt(answer: RenewAnswer, machine_id: bytes | None) -> RestoreReceipt:
    hook = answer.hook
    return RestoreReceipt(
        frozen=answer.frozen,
        machine_id=None if machine_id is None else machine_id.hex(),
        clock_step_s=answer.clock_step_us / 1e6,
        clock_error_s=answer.clock_error_us / 1e6,
        connections_closed=answer.closed,
        steps=tuple(
            RestoreStep(printable(step.name), step.took_us / 1000, None if step.failure is None else printable(step.failure))
            for step in answer.steps
        ),
        hook=None if hook is None else HookResult(hook.exit_code, hook.timed_out, hook.output or b"", hook.truncated),
    )
