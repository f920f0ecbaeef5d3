"""A machine gets further ports while it runs: when all are in use, from any process, and whatever becomes of who adds them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from bandsox import BandSox, MicroVM
from bandsox.engine import Engine
from bandsox.guest import GuestClient
from bandsox.vmm.qemu.command import MAX_PORTS, START_PORTS
from bandsox.vmm.qemu.ports import add_port

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def machine(bandsox: BandSox) -> Iterator[MicroVM]:
    with bandsox.create_vm(mem_mib=640) as vm:
        yield vm


@pytest.fixture
def engine(storage: Path) -> Iterator[Engine]:
    engine = Engine(storage)
    yield engine
    engine.close()


async def client(engine: Engine, machine: MicroVM) -> GuestClient:
    return engine.client(await engine.get(machine.vm_id))


def ports(engine: Engine, machine: MicroVM) -> list[str]:
    return sorted(path.name for path in engine.layout.sockets(machine.vm_id).glob("port*.sock"))


async def test_a_machine_has_few_ports_until_it_needs_more(engine: Engine, machine: MicroVM) -> None:
    guest = await client(engine, machine)
    await asyncio.gather(*(guest.run(argv=["true"]) for _ in range(2)))
    assert len(ports(engine, machine)) == START_PORTS


async def test_as_many_commands_run_at_once_as_there_can_be_ports(engine: Engine, machine: MicroVM) -> None:
    guest = await client(engine, machine)
    count = MAX_PORTS - 2  # which are for short operations
    async with AsyncExitStack() as running:
        starts = (guest.execute(argv=["cat"], stdin=True) for _ in range(count))
        executions = [await running.enter_async_context(execution) for execution in await asyncio.gather(*starts)]
        assert len({execution.pid for execution in executions}) == count
        assert (await guest.stat("/")).type == "directory"
        for number, execution in enumerate(executions):
            await execution.write(b"%d\n" % number)
        assert [await execution.__anext__() for execution in executions] == [("stdout", b"%d\n" % number) for number in range(count)]
    assert len(ports(engine, machine)) == MAX_PORTS


_RUNNER = """
    import asyncio, sys
    from bandsox.engine import Engine

    async def main():
        engine = Engine(sys.argv[1])
        guest = engine.client(await engine.get(sys.argv[2]))
        executions = await asyncio.gather(*(guest.execute(argv=["cat"], stdin=True) for _ in range(5)))
        print("running", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        for execution in executions:
            await execution.close_stdin()
            assert (await execution.wait()).exit_code == 0

    asyncio.run(main())
"""


async def test_several_processes_add_ports_at_once(engine: Engine, machine: MicroVM, storage: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(_RUNNER), str(storage), machine.vm_id]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"running\n"
    assert [process.communicate(b"\n")[0] for process in processes] == [b""] * 3
    assert [process.returncode for process in processes] == [0] * 3


_KILLED = """
    import asyncio, os, signal, sys
    from pathlib import Path
    from bandsox.engine import Engine
    from bandsox.vmm.qemu.qmp import Monitor

    stage = sys.argv[3]
    execute = Monitor.execute

    def die(*_arguments):
        os.kill(os.getpid(), signal.SIGKILL)

    async def execute_until(self, command, **arguments):
        if command == stage:
            die()
        return await execute(self, command, **arguments)

    Monitor.execute = execute_until
    if stage == "rename":
        Path.rename = die

    async def main():
        engine = Engine(sys.argv[1])
        guest = engine.client(await engine.get(sys.argv[2]))
        await asyncio.gather(*(guest.execute(argv=["cat"], stdin=True) for _ in range(int(sys.argv[4]))))

    asyncio.run(main())
"""


async def test_a_process_killed_while_it_adds_a_port(engine: Engine, machine: MicroVM, storage: Path) -> None:
    guest = await client(engine, machine)
    for stage in ("getfd", "chardev-add", "device_add", "rename"):
        before = ports(engine, machine)
        command = [sys.executable, "-c", textwrap.dedent(_KILLED), str(storage), machine.vm_id, stage, str(len(before))]
        assert (await asyncio.to_thread(subprocess.run, command)).returncode == -9
        assert ports(engine, machine) == before
        count = len(before) - 1  # one more than there are for long operations
        async with AsyncExitStack() as running:
            for _ in range(count):
                await running.enter_async_context(await guest.execute(argv=["cat"], stdin=True))
            assert len(ports(engine, machine)) == len(before) + 1


async def test_a_paused_machine_gets_a_port_too(engine: Engine, machine: MicroVM) -> None:
    guest = await client(engine, machine)
    machine.pause()
    assert await add_port(engine.layout.sockets(machine.vm_id), START_PORTS) == START_PORTS + 1
    machine.resume()
    async with AsyncExitStack() as running:
        for _ in range(START_PORTS + 1 - 2):
            await running.enter_async_context(await guest.execute(argv=["cat"], stdin=True))
    assert len(ports(engine, machine)) == START_PORTS + 1


async def test_a_small_machine_keeps_most_of_its_memory_for_itself(bandsox: BandSox, engine: Engine) -> None:
    with bandsox.create_vm(mem_mib=128) as machine:
        sockets, count = engine.layout.sockets(machine.vm_id), 0
        while (there := await add_port(sockets, count)) > count:
            count = there
        assert START_PORTS < count < MAX_PORTS
        assert (await (await client(engine, machine)).run(argv=["echo", "alive"])).stdout == b"alive\n"
