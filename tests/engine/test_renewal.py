"""What makes a copy of a machine one of its own, tried on a machine itself: the programs stop, and it gets another identity."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest

from bandsox import BandSox, MicroVM
from bandsox.engine import Engine
from bandsox.errors import GuestError
from bandsox.guest import GuestClient
from bandsox.guest.answers import FrozenEvent
from bandsox.guest.messages import Freeze
from bandsox.models import RestoreReceipt

pytestmark = pytest.mark.anyio

HOOK = "/etc/bandsox/on-restore"
CLOSE = 0.05
"""How near the guest's clock has to be to the host's, in seconds."""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def machine(bandsox: BandSox) -> Iterator[MicroVM]:
    with bandsox.create_vm(mem_mib=256) as vm:
        yield vm


@pytest.fixture
async def guest(storage: Path, machine: MicroVM) -> AsyncIterator[GuestClient]:
    engine = Engine(storage)
    yield engine.client(await engine.get(machine.vm_id))
    engine.close()


@pytest.fixture
async def hook(guest: GuestClient) -> AsyncIterator[None]:
    """Removes what a test puts there."""
    yield
    await guest.remove("/etc/bandsox", recursive=True)


async def renew(guest: GuestClient, **options: object) -> RestoreReceipt:
    """A renewal that leaves the machine its token."""
    return await guest.renew(token=guest._connector.token, **options)  # type: ignore[arg-type]


async def text(guest: GuestClient, command: str) -> str:
    result = await guest.run(shell=command)
    assert result.exit_code == 0, result
    return result.stdout.decode().strip()


async def is_frozen(guest: GuestClient) -> bool:
    """What the kernel says of the cgroup of all programs."""
    return b"frozen 1" in await guest.read_bytes("/sys/fs/cgroup/bandsox/cgroup.events", max_bytes=1000)


# ── freezing ────────────────────────────────────────────────────────────────────────────────────


async def test_no_program_runs_while_the_machine_is_frozen(guest: GuestClient) -> None:
    await guest.start_session("counts", shell="while :; do echo x >> /dev/shm/count; done")
    await text(guest, "until test -s /dev/shm/count; do :; done")
    async with guest.frozen() as complete:
        assert complete and await is_frozen(guest)
        before = (await guest.stat("/dev/shm/count")).size
        starting = asyncio.create_task(guest.run(argv=["true"]))
        for _ in range(20):
            await guest.ping()
        assert (await guest.stat("/dev/shm/count")).size == before
        assert not starting.done()
    assert (await starting).exit_code == 0
    assert not await is_frozen(guest)
    await guest.signal_session("counts", 9)


async def test_cgroups_that_programs_have_made_are_frozen_too_unless_they_are_already(guest: GuestClient) -> None:
    enter = "mkdir /sys/fs/cgroup/{0} && echo $$ > /sys/fs/cgroup/{0}/cgroup.procs && exec sleep 1000"
    await guest.start_session("own", shell=enter.format("own"))
    await guest.start_session("halted", shell=enter.format("halted"))
    await text(
        guest, "until grep -q 'populated 1' /sys/fs/cgroup/halted/cgroup.events; do :; done; echo 1 > /sys/fs/cgroup/halted/cgroup.freeze"
    )

    async def frozen(group: str) -> bytes:
        return (await guest.read_bytes(f"/sys/fs/cgroup/{group}/cgroup.freeze", max_bytes=10)).strip()

    async with guest.frozen():
        assert (await frozen("own"), await frozen("halted")) == (b"1", b"1")
    assert (await frozen("own"), await frozen("halted")) == (b"0", b"1")
    for session in ("own", "halted"):
        await guest.signal_session(session, 9, group=False)  # it has left the group it was started in
    await text(guest, "cd /sys/fs/cgroup; until rmdir own halted 2>/dev/null; do test -d own -o -d halted || break; done")


async def test_a_machine_that_is_frozen_cannot_be_frozen_again(guest: GuestClient) -> None:
    async with guest.frozen():
        with pytest.raises(GuestError, match="frozen already"):
            async with guest.frozen():
                pytest.fail("it was")
        assert await is_frozen(guest)


async def test_programs_go_on_when_the_one_who_froze_them_is_gone(guest: GuestClient) -> None:
    connection = await guest._connector.open(Freeze(), timeout=30)
    await connection.event(FrozenEvent)
    connection.close()  # as the kernel does for a process that was killed
    assert (await guest.run(argv=["true"])).exit_code == 0


async def test_an_error_or_a_cancellation_within_the_block_thaws(guest: GuestClient) -> None:
    with pytest.raises(ZeroDivisionError):
        async with guest.frozen():
            raise ZeroDivisionError
    with anyio.CancelScope() as scope:
        async with guest.frozen():
            scope.cancel()
            await anyio.sleep_forever()
    assert (await guest.run(argv=["true"])).exit_code == 0


async def test_a_frozen_program_can_be_killed_and_its_client_is_told(guest: GuestClient) -> None:
    async with await guest.execute(argv=["sleep", "1000"]) as running, guest.frozen():
        await guest.ping()
        await running.signal(9)
        assert (await running.wait()).signal == 9


# ── the new identity ────────────────────────────────────────────────────────────────────────────


async def test_a_renewal_changes_token_names_and_environment(guest: GuestClient) -> None:
    old, new = guest._connector.token, secrets.token_bytes(32)
    stranger = GuestClient(guest._connector.link, old)
    before = await text(guest, "hostname; cat /etc/hosts /etc/hostname; env")

    receipt = await guest.renew(token=new, hostname="clone-7", hosts=b"127.0.1.1\tclone-7\n", env={"CLONE": "seven"})
    with pytest.raises(GuestError, match="wrong token"):
        await stranger.ping()
    assert await text(guest, "hostname; cat /etc/hosts /etc/hostname; echo $CLONE") == "clone-7\n127.0.1.1\tclone-7\nclone-7\nseven"
    assert "clone-7" not in before
    assert receipt.failures == () and receipt.hook is None and not receipt.frozen
    assert [step.name for step in receipt.steps] == ["entropy", "clock", "connections", "machine-id", "hostname", "names", "thaw"]

    await guest.renew(token=old)
    await stranger.ping()


async def test_machine_ids_are_replaced_where_the_image_has_them(guest: GuestClient) -> None:
    await text(guest, "rm -f /etc/machine-id; mkdir -p /var/lib/dbus; ln -sf /etc/machine-id /var/lib/dbus/machine-id")
    first = await renew(guest)
    assert await text(guest, "cat /run/machine-id; test -e /etc/machine-id || echo none") == f"{first.machine_id}\nnone"
    await text(guest, "echo old > /etc/machine-id")
    second = await renew(guest)
    assert await text(guest, "cat /etc/machine-id /run/machine-id /var/lib/dbus/machine-id") == "\n".join([second.machine_id or ""] * 3)
    assert first.machine_id != second.machine_id


@pytest.mark.parametrize("wrong_by", [-86_400.0, 0.3, 1_000_000.0])
async def test_the_clock_is_the_hosts(guest: GuestClient, wrong_by: float) -> None:
    await guest.setup(time=time.time() + wrong_by)
    receipt = await renew(guest)
    assert receipt.clock_error_s < CLOSE
    assert abs(receipt.clock_step_s + wrong_by) < 5
    early, guests, late = await best_reading(guest)
    assert early - CLOSE <= guests <= late + CLOSE


def test_a_machine_that_has_booted_knows_the_time(bandsox: BandSox) -> None:
    readings = []
    with bandsox.create_vm(enable_networking=False) as vm:
        for _ in range(10):
            early = time.time()
            guests = vm.guest_info().time
            readings.append((early, guests, time.time()))
    early, guests, late = min(readings, key=lambda reading: reading[2] - reading[0])
    assert early - CLOSE <= guests <= late + CLOSE


async def best_reading(guest: GuestClient) -> tuple[float, float, float]:
    """The guest's time, and the host's before and after it was asked; the quickest answer of several."""
    readings = []
    for _ in range(10):
        early = time.time()
        guests = (await guest.info()).time
        readings.append((early, guests, time.time()))
    return min(readings, key=lambda reading: reading[2] - reading[0])


async def test_the_past_is_closed_and_sessions_go_on(guest: GuestClient) -> None:
    await guest.start_session("talks", argv=["cat"])
    watcher, runner = GuestClient(guest._connector.link, guest._connector.token), GuestClient(guest._connector.link, guest._connector.token)
    async with await watcher.attach_session("talks"), await runner.execute(argv=["sleep", "1000"]):
        receipt = await renew(guest)
        assert receipt.connections_closed == 2
    sessions = {session.id: session for session in await guest.list_sessions()}
    assert sessions["talks"].running
    await guest.send_input("talks", b"still here\n")
    async with await guest.attach_session("talks") as attached:
        assert await attached.__anext__() == ("stdout", b"still here\n")
    assert await text(guest, "while pgrep -f 'sleep 100[0]' > /dev/null; do :; done; echo gone") == "gone"
    await guest.signal_session("talks", 9)


async def test_a_frozen_machine_is_renewed_before_anything_runs_in_it(guest: GuestClient, hook: None) -> None:
    await guest.write_bytes(HOOK, b"#!/bin/sh\ncat /sys/fs/cgroup/bandsox/cgroup.freeze; hostname\n", mode=0o755)
    freezing = await guest._connector.open(Freeze(), timeout=30)
    await freezing.event(FrozenEvent)
    receipt = await renew(guest, hostname="clone-9")
    assert receipt.frozen and receipt.hook is not None
    assert receipt.hook.output == b"1\nclone-9\n"
    assert (await guest.run(argv=["true"])).exit_code == 0  # thawed
    assert not await is_frozen(guest)
    freezing.close()


# ── the guest's own program ─────────────────────────────────────────────────────────────────────


async def test_the_hook_has_its_time(guest: GuestClient, hook: None) -> None:
    await guest.write_bytes(HOOK, b"#!/bin/sh\nsleep 1000\n", mode=0o755)
    receipt = await renew(guest, hook_timeout=0.5)
    assert receipt.hook is not None and receipt.hook.timed_out
    assert await text(guest, "while pgrep -f 'sleep 100[0]' > /dev/null; do :; done; echo gone") == "gone"


async def test_only_the_beginning_of_what_the_hook_writes_is_kept(guest: GuestClient, hook: None) -> None:
    await guest.write_bytes(HOOK, b"#!/bin/sh\nhead -c 1000000 /dev/zero\n", mode=0o755)
    receipt = await renew(guest, hook_timeout=60)
    assert receipt.hook is not None and not receipt.hook.timed_out
    assert receipt.hook.truncated and receipt.hook.output == bytes(16 << 10)


async def test_the_hooks_end_is_told_and_it_leaves_nobody_behind(guest: GuestClient, hook: None) -> None:
    await guest.write_bytes(HOOK, b"#!/bin/sh\nsleep 4321 &\necho $NAME; echo oh >&2; exit 3\n", mode=0o755)
    receipt = await renew(guest, env={"NAME": "clone"})
    assert receipt.hook is not None
    assert (receipt.hook.exit_code, receipt.hook.output, receipt.hook.timed_out) == (3, b"clone\noh\n", False)
    assert await text(guest, "until ! pgrep -f 'sleep 432[1]' >/dev/null; do :; done; echo gone") == "gone"


async def test_a_hook_that_cannot_run_is_a_failure_of_that_step_alone(guest: GuestClient, hook: None) -> None:
    await guest.write_bytes(HOOK, b"not a program", mode=0o644)
    receipt = await renew(guest)
    assert [step.name for step in receipt.failures] == ["hook"]
    assert receipt.hook is None


async def test_files_that_cannot_be_written_do_not_keep_a_copy_from_running(guest: GuestClient) -> None:
    await text(guest, "mount -t tmpfs -o ro none /etc")
    receipt = await renew(guest, hostname="clone-8", hosts=b"127.0.0.1 localhost\n")
    assert {step.name for step in receipt.failures} == {"hostname", "names"}
    assert all("read-only" in (step.failure or "") for step in receipt.failures)
    await text(guest, "umount /etc")
    assert await text(guest, "hostname") == "clone-8"
