"""Ports: exclusive, fair between tasks and processes, and usable again after whatever their last user did."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandsox.errors import MachineStopped, Timeout
from bandsox.guest import GuestClient, Lane, PortLink, at_boundary, recall_frames
from bandsox.guest.frames import RESYNC
from tests.guest.conftest import MakePorts

pytestmark = pytest.mark.anyio


def soon(seconds: float = 60.0) -> float:
    return asyncio.get_running_loop().time() + seconds


def port_of(channel: object) -> int:
    return channel._lock.port  # type: ignore[attr-defined]


@contextlib.contextmanager
def held_by_another_process(directory: Path, *ports: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the locks of `ports` until it is told to end (a line) or killed."""
    program = textwrap.dedent(f"""
        import fcntl
        files = [open("{directory}/port%d.lock" % port, "a+b") for port in {ports!r}]
        for file in files:
            fcntl.flock(file, fcntl.LOCK_EX)
        print("held", flush=True)
        input()
    """)
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin and process.stdout
    with process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


async def test_a_port_that_needs_padding_is_taken_where_there_is_no_other(make_ports: MakePorts) -> None:
    link, _ = make_ports(4)
    recall_frames(link.directory, 4, at_boundary=(0, 2))
    channels = [await link.open(Lane.CONTROL, soon()) for _ in range(4)]
    assert [(port_of(channel), len(channel.preamble)) for channel in channels] == [(2, 0), (0, 0), (3, len(RESYNC)), (1, len(RESYNC))]


async def test_a_port_stands_at_a_boundary_unless_it_is_in_use_or_was_left_otherwise(make_ports: MakePorts) -> None:
    link, _ = make_ports(3)
    assert at_boundary(link.directory, 3) == (0, 1, 2)
    for clean, standing in ((True, (0, 1, 2)), (False, (0, 1))):
        channel = await link.open(Lane.CONTROL, soon())
        assert at_boundary(link.directory, 3) == (0, 1)
        channel.release(clean=clean)
        assert at_boundary(link.directory, 3) == standing


async def test_long_operations_leave_two_ports_and_short_ones_leave_one(make_ports: MakePorts) -> None:
    link, _ = make_ports(5)
    channels = [await link.open(Lane.LONG, soon()) for _ in range(3)]
    assert sorted(map(port_of, channels)) == [0, 1, 2]
    with pytest.raises(Timeout, match="all 3 connections"):
        await link.open(Lane.LONG, soon(0.01))
    channels.append(await link.open(Lane.SHORT, soon()))
    with pytest.raises(Timeout, match="all 4 connections"):
        await link.open(Lane.SHORT, soon(0.01))
    channels.append(await link.open(Lane.CONTROL, soon()))
    assert sorted(map(port_of, channels)) == [0, 1, 2, 3, 4]
    with pytest.raises(Timeout, match="all 5 connections"):
        await link.open(Lane.CONTROL, soon(0.01))
    for channel in channels:
        channel.release(clean=True)


async def test_a_machine_with_one_port_still_works(make_ports: MakePorts) -> None:
    link, _ = make_ports(1)
    client = GuestClient(link)
    assert (await client.run(argv=["echo", "one"])).stdout == b"one\n"
    await client.ping()


async def test_waiters_of_one_process_are_served_in_order(make_ports: MakePorts) -> None:
    link, _ = make_ports(3)
    first = await link.open(Lane.LONG, soon())
    served: list[int] = []

    async def use(number: int) -> None:
        channel = await link.open(Lane.LONG, soon())
        served.append(number)
        channel.release(clean=True)

    tasks = []
    for number in range(40):  # more than are handed over in a row
        tasks.append(asyncio.create_task(use(number)))
        await asyncio.sleep(0)
    first.release(clean=True)
    await asyncio.gather(*tasks)
    assert served == list(range(40))


async def test_a_free_port_is_not_given_to_a_newcomer_before_those_who_wait(make_ports: MakePorts) -> None:
    link, _ = make_ports(3)
    first = await link.open(Lane.LONG, soon())
    waiting = asyncio.create_task(link.open(Lane.LONG, soon()))
    await asyncio.sleep(0)
    control = await link.open(Lane.CONTROL, soon())  # has ports of its own
    first.release(clean=True)
    with pytest.raises(Timeout):
        await link.open(Lane.LONG, soon(0.01))
    for channel in (control, await waiting):
        channel.release(clean=True)


async def test_a_cancelled_waiter_passes_the_port_on(make_ports: MakePorts) -> None:
    link, _ = make_ports(3)
    first = await link.open(Lane.LONG, soon())
    cancelled = asyncio.create_task(link.open(Lane.LONG, soon()))
    patient = asyncio.create_task(link.open(Lane.LONG, soon()))
    await asyncio.sleep(0)
    first.release(clean=True)  # grants it to the first waiter …
    cancelled.cancel()  # … who goes before it knows
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    (await patient).release(clean=True)


async def test_a_port_that_another_process_holds_is_left_alone(make_ports: MakePorts, short_path: Path) -> None:
    link, _ = make_ports(4)
    with held_by_another_process(short_path, 0):
        channel = await link.open(Lane.LONG, soon())
        assert port_of(channel) == 1
        channel.release(clean=True)


async def test_a_port_that_another_process_gives_back_wakes_a_waiter(make_ports: MakePorts, short_path: Path) -> None:
    link, _ = make_ports(4)
    with held_by_another_process(short_path, 0), held_by_another_process(short_path, 1) as second:
        waiting = asyncio.create_task(link.open(Lane.LONG, soon()))
        await asyncio.sleep(0)
        second.communicate(b"\n")
        channel = await waiting
        assert port_of(channel) == 1
        channel.release(clean=True)
        assert (await GuestClient(link).run(argv=["echo", "on"])).stdout == b"on\n"


async def test_a_killed_process_gives_its_port_back(make_ports: MakePorts, short_path: Path) -> None:
    link, _ = make_ports(3)
    with held_by_another_process(short_path, 0) as holder:
        waiting = asyncio.create_task(link.open(Lane.LONG, soon()))
        await asyncio.sleep(0)
        holder.kill()
        (await waiting).release(clean=True)


async def test_when_all_waiters_have_gone_the_port_is_free_for_others(make_ports: MakePorts, short_path: Path) -> None:
    link, _ = make_ports(3)
    with held_by_another_process(short_path, 0) as holder:
        with pytest.raises(Timeout) as failure:
            await link.open(Lane.LONG, soon(0.01))
        assert failure.value.retryable and failure.value.remedy
        holder.communicate(b"\n")
        with (short_path / "port0.lock").open("r+b") as lock:
            await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)


async def test_two_links_share_the_ports(make_ports: MakePorts, short_path: Path) -> None:
    link, _ = make_ports(4)
    clients = [GuestClient(link), GuestClient(PortLink(short_path, 4))]
    answers = await asyncio.gather(*(clients[number % 2].run(argv=["echo", str(number)]) for number in range(20)))
    assert [answer.stdout for answer in answers] == [b"%d\n" % number for number in range(20)]


async def test_processes_share_the_ports(make_ports: MakePorts, short_path: Path) -> None:
    make_ports(4)
    program = textwrap.dedent(f"""
        import asyncio
        from pathlib import Path
        from bandsox.guest import GuestClient, PortLink

        async def main():
            client = GuestClient(PortLink(Path("{short_path}"), 4))
            await asyncio.gather(*(client.run(argv=["true"]) for _ in range(15)))

        asyncio.run(main())
    """)
    processes = [await asyncio.create_subprocess_exec(sys.executable, "-c", program) for _ in range(3)]
    assert [await process.wait() for process in processes] == [0, 0, 0]


async def test_a_clean_port_costs_no_padding(make_ports: MakePorts) -> None:
    link, ports = make_ports(1)
    client = GuestClient(link)
    for _ in range(3):
        await client.ping()
        await client.run(argv=["cat"], stdin=b"input")
        await client.write_bytes("/dev/null", b"x" * 100_000, append=True)
    assert ports[0].from_host < 500_000


@pytest.mark.parametrize("left_in", ["a header", "a payload", "an upload", "a running command", "unread output"])
async def test_a_port_is_usable_however_it_was_left(make_ports: MakePorts, short_path: Path, left_in: str) -> None:
    """The last user is killed, which leaves what it has sent; the guest is not even told."""
    _, ports = make_ports(1)
    program = textwrap.dedent(f"""
        import os, signal, asyncio
        from pathlib import Path
        from bandsox.guest import GuestClient, PortLink, Lane, frames
        from bandsox.guest.frames import FrameType
        from bandsox.guest.messages import Read, Write, Exec

        def die():
            os.kill(os.getpid(), signal.SIGKILL)

        async def main():
            link = PortLink(Path("{short_path}"), 1)
            if "{left_in}" == "a header":
                channel = await link.open(Lane.LONG, None)
                channel.sock.sendall(channel.preamble + frames.hello(bytes(16), bytes(32)) + bytes([FrameType.DATA, 0]))
            elif "{left_in}" == "a payload":
                channel = await link.open(Lane.LONG, None)
                channel.sock.sendall(channel.preamble + frames.hello(bytes(16), bytes(32)) + frames.header(FrameType.DATA, 1 << 20))
            elif "{left_in}" == "an upload":
                client = GuestClient(link)
                async with client._connector.operation(Write(path=b"{short_path}/upload"), timeout=60) as connection:
                    await connection.send(frames.header(FrameType.DATA, 1 << 20) + b"half")
                    die()
            elif "{left_in}" == "a running command":
                execution = await GuestClient(link).execute(argv=["sleep", "1000"])
            else:
                execution = await GuestClient(link).execute(shell="head -c 4000000 /dev/zero; exec sleep 1000")
                await execution.__anext__()
            die()

        asyncio.run(main())
    """)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    assert await process.wait() == -9
    assert (short_path / "port0.lock").read_bytes() == b"d"
    client = GuestClient(PortLink(short_path, 1))
    assert (await client.run(argv=["echo", "again"])).stdout == b"again\n"
    assert (short_path / "port0.lock").read_bytes() == b"c"
    assert not (short_path / "upload").exists()
    assert ports[0].from_host > len(RESYNC)


async def test_a_cancelled_operation_leaves_the_port_usable(make_ports: MakePorts) -> None:
    link, _ = make_ports(1)
    client = GuestClient(link)
    for _ in range(3):
        task = asyncio.create_task(
            client.run(shell="head -c 4000000 /dev/zero; exec sleep 1000", max_output=1 << 40, on_output=lambda *_: None)
        )
        await asyncio.wait({task}, timeout=0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.ping()


async def test_a_machine_without_sockets_is_stopped(short_path: Path) -> None:
    with pytest.raises(MachineStopped):
        await GuestClient(PortLink(short_path, 4)).ping()
    with pytest.raises(MachineStopped):
        await GuestClient(PortLink(short_path / "gone", 4)).ping()
