"""One machine: `AsyncMicroVM`, and its blocking face `MicroVM`.

A handle holds no connection between calls; each call opens one of its own, so calls run side by side and any process may hold a handle
on any machine.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeAlias

from bandsox import python
from bandsox.callbacks import Callback, deliver
from bandsox.engine import Engine
from bandsox.errors import CommandTimeout, Conflict, Timeout
from bandsox.guest import CommandOptions, Execution, GuestClient, TextCallback
from bandsox.models import ExecResult, FileChange, GuestInfo, Metrics, SessionInfo, VMRecord, VMStatus
from bandsox.portal import iterate, sync
from bandsox.process import ProcessId
from bandsox.sessions import Followers
from bandsox.vm_files import GuestFiles

Command: TypeAlias = str | Sequence[str]
"""A string runs in the image's ``/bin/sh -c``; a sequence is executed as it is, without a shell."""


class AsyncMicroVM(GuestFiles):
    """A handle on one machine. Made by `AsyncBandSox.create_vm` and `get_vm`."""

    def __init__(self, engine: Engine, record: VMRecord) -> None:
        self._engine = engine
        self._record = record
        self._followers = Followers(lambda: self.guest)

    def refresh(self, record: VMRecord) -> None:
        """Take over what is newly known of the machine."""
        self._record = record

    def __repr__(self) -> str:
        record = self._record
        return f"<{type(self).__name__} {record.id} {record.spec.name!r} {record.status.value} on {record.vmm}/{record.accelerator}>"

    # ── what it is ──────────────────────────────────────────────────────────────────────────────

    @property
    def vm_id(self) -> str:
        """Its id, which never changes."""
        return self._record.id

    @property
    def name(self) -> str:
        """Its name, as this handle last saw it."""
        return self._record.spec.name

    @property
    def process(self) -> ProcessId | None:
        """Its VMM's process; None when it has none."""
        record = self._record
        return None if record.pid is None or record.pid_start is None else ProcessId(record.pid, record.pid_start)

    @property
    def guest(self) -> GuestClient:
        """The client of its agent, for what this class has no method for."""
        return self._engine.client(self._record)

    async def info(self) -> dict[str, Any]:
        """What is known of it now; see docs/api.md for the keys."""
        self._record = await self._engine.get(self.vm_id)
        return vm_info(self._record)

    async def status(self) -> VMStatus:
        """Whether it is running, paused, stopped or dead, now."""
        self._record = await self._engine.get(self.vm_id)
        return self._record.status

    # ── life ────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Start it again after a stop, with its disk as it was left."""
        self._record = await self._engine.start(self.vm_id)

    async def stop(self, timeout: float = 10.0) -> None:
        """Power it off cleanly; kill it if that takes longer than `timeout` seconds."""
        self._record = await self._engine.stop(self.vm_id, timeout)

    async def pause(self) -> None:
        """Stop its CPUs; its memory stays."""
        self._record = await self._engine.pause(self.vm_id)

    async def resume(self) -> None:
        """Let it go on after a pause."""
        self._record = await self._engine.resume(self.vm_id)

    async def delete(self) -> None:
        """Kill it and remove everything it owns."""
        await self.disconnect()
        await self._engine.delete(self.vm_id)

    async def wait_for_agent(self, timeout: float = 30) -> bool:
        """Whether its agent answers within `timeout` seconds."""
        try:
            await (await self._live()).ping(timeout=timeout)
        except Timeout:
            return False
        return True

    async def disconnect(self) -> None:
        """Stop following its sessions; they go on in the guest."""
        await self._followers.close()

    # ── commands ────────────────────────────────────────────────────────────────────────────────

    async def run(
        self,
        command: Command,
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bytes | None = None,
    ) -> ExecResult:
        """Run a command and return its exit code and output, byte for byte.

        Parameters
        ----------
        timeout: seconds after which it is killed with all it started; None: never.
        env: variables over the machine's own.
        cwd, user: by default the image's; a user is a name, a uid, ``name:group`` or ``uid:gid``.
        stdin: what it reads; by default nothing.

        Raises
        ------
        CommandNotFound, ExecFailed: it could not be started.
        CommandTimeout: it was killed.
        """
        guest = await self._live()
        return await guest.run(**_program(command, timeout=timeout, env=env, cwd=cwd, user=user), stdin=stdin)

    @contextlib.asynccontextmanager
    async def execute(
        self,
        command: Command,
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bool = False,
        tty: tuple[int, int] | None = None,
    ) -> AsyncIterator[Execution]:
        """A command while it runs: an iterator of its output that takes input and signals. Leaving the block kills it.

        Parameters
        ----------
        stdin: whether it reads what `Execution.write_stdin` sends, until `Execution.close_stdin`.
        tty: columns and rows of a terminal to run it on.
        """
        guest = await self._live()
        program = _program(command, timeout=timeout, env=env, cwd=cwd, user=user, tty=tty)
        async with await guest.execute(**program, stdin=stdin) as execution:
            yield execution

    async def exec_command(
        self,
        command: Command,
        on_stdout: TextCallback | None = None,
        on_stderr: TextCallback | None = None,
        timeout: float | None = 30,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
    ) -> int:
        """Run a command, hand its output to callbacks as it comes, and return its exit code.

        The callbacks get text; a character is never split between two calls, and what is not UTF-8 appears as U+FFFD.

        Raises
        ------
        CommandTimeout: it ran longer than `timeout` seconds and was killed with all it had started (a TimeoutError).
        """
        async with self.execute(command, timeout=timeout, env=env, cwd=cwd, user=user) as execution:
            return (await deliver(execution, on_stdout, on_stderr)).exit_code

    async def exec_python(
        self,
        code: str,
        cwd: str = "/tmp",  # noqa: S108 — the guest's
        packages: Sequence[str] | None = None,
        on_stdout: TextCallback | None = None,
        on_stderr: TextCallback | None = None,
        timeout: float | None = 60,
        cleanup_venv: bool = True,
    ) -> int:
        """Run Python code in a fresh interpreter of the image, and return its exit code.

        Parameters
        ----------
        packages: what to install first, into a virtual environment made for this call; needs a network unless they are files of the guest.
        cleanup_venv: whether to remove that environment afterwards.

        Raises
        ------
        PythonNotFound: the image has no ``python3`` or ``python``.
        CommandTimeout: it ran longer than `timeout` seconds.
        """

        async def execute(command: list[str]) -> int:
            return await self.exec_command(command, on_stdout, on_stderr, timeout, cwd=cwd)

        guest = await self._live()
        return await python.run(guest, code, execute, packages=packages or (), cleanup_venv=cleanup_venv, timeout=timeout)

    async def exec_python_capture(
        self,
        code: str,
        cwd: str = "/tmp",  # noqa: S108 — the guest's
        packages: Sequence[str] | None = None,
        timeout: float | None = 60,
        cleanup_venv: bool = True,
    ) -> dict[str, Any]:
        """Run Python code as `exec_python` does, and return ``{exit_code, stdout, stderr, output, success, error}``.

        ``output`` is stdout and stderr in the order in which they came; ``error`` is None when the exit code is 0.
        A timeout is a result too: ``exit_code`` is 124 then.
        """
        parts: list[tuple[str, str]] = []
        error: str | None = None
        try:
            exit_code = await self.exec_python(
                code,
                cwd,
                packages,
                lambda text: parts.append(("stdout", text)),
                lambda text: parts.append(("stderr", text)),
                timeout,
                cleanup_venv,
            )
        except CommandTimeout as expired:
            exit_code, error = expired.exit_status, expired.message
        stderr = "".join(text for stream, text in parts if stream == "stderr")
        if exit_code != 0 and error is None:
            error = stderr.strip() or f"exit code {exit_code}"
        return {
            "exit_code": exit_code,
            "stdout": "".join(text for stream, text in parts if stream == "stdout"),
            "stderr": stderr,
            "output": "".join(text for _, text in parts),
            "success": exit_code == 0,
            "error": error,
        }

    async def stream(
        self, command: Command, *, timeout: float | None = None, env: Mapping[str, str] | None = None
    ) -> AsyncIterator[tuple[str, bytes]]:
        """Run a command and yield its output as it comes: ``("stdout" | "stderr", bytes)``. Stopping early kills it."""
        async with self.execute(command, timeout=timeout, env=env) as execution:
            async for piece in execution:
                yield piece

    # ── sessions ────────────────────────────────────────────────────────────────────────────────

    async def start_session(
        self,
        command: Command,
        on_stdout: TextCallback | None = None,
        on_stderr: TextCallback | None = None,
        on_exit: Callback[int] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
    ) -> tuple[str, int | None]:
        """Start a command that goes on until it ends or is killed, whoever looks on; return its session id and pid."""
        guest = await self._live()
        session_id = secrets.token_hex(8)
        pid = await guest.start_session(session_id, **_program(command, env=env, cwd=cwd, user=user))
        if on_stdout or on_stderr or on_exit:
            await self._followers.follow(session_id, on_stdout, on_stderr, on_exit)
        return session_id, pid

    async def start_pty_session(
        self,
        command: Command,
        cols: int = 80,
        rows: int = 24,
        on_stdout: TextCallback | None = None,
        on_exit: Callback[int] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
    ) -> str:
        """Start a session on a terminal of `cols` by `rows` characters, and return its id."""
        guest = await self._live()
        session_id = secrets.token_hex(8)
        await guest.start_session(session_id, **_program(command, env=env, cwd=cwd, user=user, tty=(cols, rows)))
        if on_stdout or on_exit:
            await self._followers.follow(session_id, on_stdout, None, on_exit)
        return session_id

    async def attach_session(
        self,
        session_id: str,
        on_stdout: TextCallback | None = None,
        on_stderr: TextCallback | None = None,
        on_exit: Callback[int] | None = None,
    ) -> None:
        """Follow a session that another process, or an earlier one, has started; its kept output comes first."""
        await self._live()
        await self._followers.follow(session_id, on_stdout, on_stderr, on_exit)

    async def send_session_input(self, session_id: str, data: str | bytes, encoding: str | None = None) -> None:
        """Feed a session; text is encoded as UTF-8 unless `encoding` says otherwise (``base64``: `data` is base64)."""
        await (await self._live()).send_input(session_id, _input_bytes(data, encoding))

    async def close_session_input(self, session_id: str) -> None:
        """Let a session read the end of its input."""
        await (await self._live()).send_input(session_id, b"", close=True)

    async def resize_session(self, session_id: str, cols: int, rows: int) -> None:
        """Tell a session the size of its terminal."""
        await (await self._live()).resize_session(session_id, cols, rows)

    async def signal_session(self, session_id: str, signal: int) -> None:
        """Send a signal to a session's process group."""
        await (await self._live()).signal_session(session_id, signal)

    async def kill_session(self, session_id: str) -> None:
        """Kill a session with all it has started."""
        await (await self._live()).signal_session(session_id, 9)

    async def list_sessions(self) -> list[SessionInfo]:
        """The sessions of the machine, those that have ended lately included."""
        return await (await self._live()).list_sessions()

    # ── the whole machine ───────────────────────────────────────────────────────────────────────

    async def metrics(self, processes: bool = False) -> Metrics:
        """The guest's load, memory and disk, and its processes when asked for."""
        return await (await self._live()).metrics(processes=processes)

    async def guest_info(self) -> GuestInfo:
        """What the agent says of itself and its kernel."""
        return await (await self._live()).info()

    async def console(self) -> str:
        """What it has printed on its console since it was started."""
        self._record = await self._engine.get(self.vm_id)
        return self._engine.console(self._record).decode(errors="replace").replace("\r\n", "\n")

    async def get_guest_ip(self) -> str | None:
        """Its address; None, since this version gives machines no network."""
        return None

    async def _live(self) -> GuestClient:
        """The client of the agent of a machine that runs.

        Raises
        ------
        Conflict: it is paused or stopped.
        """
        self._record = await self._engine.get(self.vm_id)
        if self._record.status is VMStatus.RUNNING:
            return self.guest
        remedies = {VMStatus.PAUSED: "resume it first", VMStatus.STOPPED: "start it first", VMStatus.DEAD: "start it again"}
        raise Conflict(f"VM {self.name} is {self._record.status.value}", remedy=remedies.get(self._record.status))


def vm_info(record: VMRecord) -> dict[str, Any]:
    """A machine as the interface shows it: the keys that programs know, and what this system adds."""
    spec = record.spec
    return {
        "id": record.id,
        "name": spec.name,
        "image": spec.image,
        "vcpu": spec.vcpu,
        "mem_mib": spec.mem_mib,
        "disk_size_mib": spec.disk_size_mib,
        "rootfs_path": str(record.rootfs),
        "network_config": None,
        "vsock_config": None,
        "created_at": record.created_at,
        "status": record.status.value,
        "pid": record.pid if record.status in {VMStatus.RUNNING, VMStatus.PAUSED} else None,
        "env_vars": dict(spec.env_vars),
        "mcp": None,
        "metadata": dict(spec.metadata),
        "agent_ready": record.status is VMStatus.RUNNING,
        "restored_from": record.restored_from,
        "image_id": record.image_id,
        "vmm": record.vmm,
        "vmm_version": record.vmm_version,
        "accelerator": record.accelerator,
        "accelerator_reason": record.accelerator_reason,
        "isolation": record.isolation.name.lower(),
        "transport": record.transport,
        "expires_at": record.expires_at,
    }


def _program(
    command: Command,
    *,
    env: Mapping[str, str] | None,
    cwd: str | None,
    user: str | None,
    timeout: float | None = None,
    tty: tuple[int, int] | None = None,
) -> CommandOptions:
    """A command as the guest's client takes it; what is None is left to the machine's defaults."""
    options: CommandOptions = {"shell": command} if isinstance(command, str) else {"argv": command}
    options.update({"env": env or {}, "cwd": cwd, "user": user, "timeout": timeout, "tty": tty})
    return options


def _input_bytes(data: str | bytes, encoding: str | None) -> bytes:
    if encoding == "base64":
        import base64

        return base64.b64decode(data, validate=True)
    return data if isinstance(data, bytes) else data.encode(encoding or "utf-8")


class MicroVM:
    """The blocking face of `AsyncMicroVM`: the same methods, parameters and results; see there.

    Callbacks run in the thread that called; those of sessions run in a thread of the session's own.
    """

    def __init__(self, vm: AsyncMicroVM) -> None:
        self._async = vm

    def __repr__(self) -> str:
        return repr(self._async).replace("AsyncMicroVM", "MicroVM", 1)

    def __enter__(self) -> MicroVM:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.delete()

    vm_id = property(lambda self: self._async.vm_id, doc=AsyncMicroVM.vm_id.__doc__)
    name = property(lambda self: self._async.name, doc=AsyncMicroVM.name.__doc__)
    process = property(lambda self: self._async.process, doc=AsyncMicroVM.process.__doc__)

    info = sync(AsyncMicroVM.info)
    status = sync(AsyncMicroVM.status)
    start = sync(AsyncMicroVM.start)
    stop = sync(AsyncMicroVM.stop)
    pause = sync(AsyncMicroVM.pause)
    resume = sync(AsyncMicroVM.resume)
    delete = sync(AsyncMicroVM.delete)
    wait_for_agent = sync(AsyncMicroVM.wait_for_agent)
    disconnect = sync(AsyncMicroVM.disconnect)

    run = sync(AsyncMicroVM.run)
    exec_command = sync(AsyncMicroVM.exec_command)
    exec_python = sync(AsyncMicroVM.exec_python)
    exec_python_capture = sync(AsyncMicroVM.exec_python_capture)

    start_session = sync(AsyncMicroVM.start_session, background=True)
    start_pty_session = sync(AsyncMicroVM.start_pty_session, background=True)
    attach_session = sync(AsyncMicroVM.attach_session, background=True)
    send_session_input = sync(AsyncMicroVM.send_session_input)
    close_session_input = sync(AsyncMicroVM.close_session_input)
    resize_session = sync(AsyncMicroVM.resize_session)
    signal_session = sync(AsyncMicroVM.signal_session)
    kill_session = sync(AsyncMicroVM.kill_session)
    list_sessions = sync(AsyncMicroVM.list_sessions)

    get_file_contents = sync(AsyncMicroVM.get_file_contents)
    read_bytes = sync(AsyncMicroVM.read_bytes)
    list_dir = sync(AsyncMicroVM.list_dir)
    scan_dir = sync(AsyncMicroVM.scan_dir)
    get_file_info = sync(AsyncMicroVM.get_file_info)
    stat = sync(AsyncMicroVM.stat)
    download_file = sync(AsyncMicroVM.download_file)
    upload_file = sync(AsyncMicroVM.upload_file)
    append_file = sync(AsyncMicroVM.append_file)
    write_text = sync(AsyncMicroVM.write_text)
    append_text = sync(AsyncMicroVM.append_text)
    write_bytes = sync(AsyncMicroVM.write_bytes)
    upload_folder = sync(AsyncMicroVM.upload_folder)
    download_folder = sync(AsyncMicroVM.download_folder)
    make_dir = sync(AsyncMicroVM.make_dir)
    remove = sync(AsyncMicroVM.remove)
    rename = sync(AsyncMicroVM.rename)
    chmod = sync(AsyncMicroVM.chmod)

    metrics = sync(AsyncMicroVM.metrics)
    guest_info = sync(AsyncMicroVM.guest_info)
    console = sync(AsyncMicroVM.console)
    get_guest_ip = sync(AsyncMicroVM.get_guest_ip)

    def watch(self, path: str, recursive: bool = False) -> Iterator[FileChange]:
        """What changes at and below `path`, as it happens, until the caller stops asking."""
        return iterate(self._async.watch(path, recursive))

    def stream(
        self, command: Command, *, timeout: float | None = None, env: Mapping[str, str] | None = None
    ) -> Iterator[tuple[str, bytes]]:
        """Run a command and yield its output as it comes: ``("stdout" | "stderr", bytes)``. Stopping early kills it."""
        return iterate(self._async.stream(command, timeout=timeout, env=env))
