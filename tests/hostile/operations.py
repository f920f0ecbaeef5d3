"""Every operation of the library that talks to a guest, as one call each."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from bandsox import AsyncMicroVM

COMMAND_TIMEOUT = 2.0
"""How long a command may run, in seconds."""

Operation = Callable[[AsyncMicroVM, Path], Awaitable[object]]


async def run_with_input(vm: AsyncMicroVM, place: Path) -> object:
    return await vm.run(["cat"], stdin=b"x" * 1_000_000, timeout=COMMAND_TIMEOUT)


async def execute(vm: AsyncMicroVM, place: Path) -> object:
    async with vm.execute(["top"], tty=(80, 24), stdin=True, timeout=COMMAND_TIMEOUT) as execution:
        await execution.resize(100, 30)
        await execution.signal(1)
        await execution.write(b"q" * 100_000)
        await execution.close_stdin()
        return await execution.wait()


async def stream(vm: AsyncMicroVM, place: Path) -> None:
    async for _ in vm.stream(["yes"], timeout=COMMAND_TIMEOUT):
        pass


async def watch(vm: AsyncMicroVM, place: Path) -> None:
    """Changes may come for ever: this user wants to see a thousand. The watch has no deadline, so he waits for the first one only."""
    seen = 0
    async with contextlib.aclosing(vm.watch("/root", recursive=True)) as changes:  # type: ignore[type-var]  # it is a generator
        async for _ in changes:
            seen += 1
            if seen == 1_000:
                return


async def attach(vm: AsyncMicroVM, place: Path) -> object:
    async with await vm.guest.attach_session("session") as execution:
        return await execution.__anext__()


async def read_stream(vm: AsyncMicroVM, place: Path) -> int:
    async with vm.guest.read_stream("/file", timeout=COMMAND_TIMEOUT) as pieces:
        return sum([len(piece) async for piece in pieces])


async def write_stream(vm: AsyncMicroVM, place: Path) -> object:
    async def source() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 10_000

    return await vm.guest.write_stream("/file", source())


async def tar_stream(vm: AsyncMicroVM, place: Path) -> int:
    async with vm.guest.tar_stream("/root") as pieces:
        size = 0
        async for piece in pieces:
            size += len(piece)
            if size > 10_000_000:
                break
        return size


async def freeze(vm: AsyncMicroVM, place: Path) -> None:
    async with vm.guest.frozen(timeout=10):
        pass


async def upload_folder(vm: AsyncMicroVM, place: Path) -> None:
    (place / "tree").mkdir()
    for number in range(20):
        (place / "tree" / f"file{number}").write_bytes(b"x" * 100_000)
    await vm.upload_folder(place / "tree", "/tree")


async def upload_file(vm: AsyncMicroVM, place: Path) -> None:
    (place / "file").write_bytes(b"x" * 4_000_000)
    await vm.upload_file(place / "file", "/file")


async def append_file(vm: AsyncMicroVM, place: Path) -> None:
    (place / "file").write_bytes(b"x" * 4_000_000)
    await vm.append_file(place / "file", "/file")


def nothing(*_: object) -> None:
    """A callback."""


OPERATIONS: dict[str, Operation] = {
    "run with input": run_with_input,
    "exec_command": lambda vm, place: vm.exec_command("ls", nothing, nothing, timeout=COMMAND_TIMEOUT),
    "exec_python": lambda vm, place: vm.exec_python("print(1)", timeout=COMMAND_TIMEOUT),
    "exec_python_capture": lambda vm, place: vm.exec_python_capture("print(1)", timeout=COMMAND_TIMEOUT),
    "execute on a terminal": execute,
    "stream": stream,
    "start_session": lambda vm, place: vm.start_session("sleep 100", nothing),
    "start_pty_session": lambda vm, place: vm.start_pty_session("sh", on_stdout=nothing),
    "attach": attach,
    "send_session_input": lambda vm, place: vm.send_session_input("session", b"x" * 1_000_000),
    "close_session_input": lambda vm, place: vm.close_session_input("session"),
    "resize_session": lambda vm, place: vm.resize_session("session", 80, 24),
    "signal_session": lambda vm, place: vm.signal_session("session", 15),
    "kill_session": lambda vm, place: vm.kill_session("session"),
    "list_sessions": lambda vm, place: vm.list_sessions(),
    "forget_session": lambda vm, place: vm.guest.forget_session("session"),
    "read_bytes": lambda vm, place: vm.read_bytes("/file", max_bytes=4_000_000),
    "get_file_contents": lambda vm, place: vm.get_file_contents("/file"),
    "read_stream": read_stream,
    "list_dir": lambda vm, place: vm.list_dir("/"),
    "stat": lambda vm, place: vm.stat("/file"),
    "get_file_info": lambda vm, place: vm.get_file_info("/file"),
    "download_file": lambda vm, place: vm.download_file("/file", place / "download", timeout=20),
    "upload_file": upload_file,
    "append_file": append_file,
    "write_text": lambda vm, place: vm.write_text("/file", "short"),
    "append_text": lambda vm, place: vm.append_text("/file", "short"),
    "write_bytes": lambda vm, place: vm.write_bytes("/file", b"x" * 4_000_000),
    "write_stream": write_stream,
    "upload_folder": upload_folder,
    "download_folder": lambda vm, place: vm.download_folder("/root", place / "folder"),
    "tar_stream": tar_stream,
    "download_layer": lambda vm, place: vm.guest.download_layer(place / "layer.tar", max_bytes=4_000_000),
    "make_dir": lambda vm, place: vm.make_dir("/directory"),
    "remove": lambda vm, place: vm.remove("/directory"),
    "rename": lambda vm, place: vm.rename("/file", "/other"),
    "chmod": lambda vm, place: vm.chmod("/file", 0o600),
    "change_owner": lambda vm, place: vm.guest.change_owner("/file", 1, 1),
    "make_symlink": lambda vm, place: vm.guest.make_symlink("/link", "/file"),
    "watch": watch,
    "metrics": lambda vm, place: vm.metrics(processes=True),
    "guest_info": lambda vm, place: vm.guest_info(),
    "ping": lambda vm, place: vm.guest.ping(timeout=10),
    "freeze": freeze,
    "thaw": lambda vm, place: vm.guest.thaw(timeout=10),
    "renew": lambda vm, place: vm.guest.renew(token=bytes(32), hostname="x", hook_timeout=1, timeout=10),
    "sync": lambda vm, place: vm.guest.sync(timeout=10),
}
