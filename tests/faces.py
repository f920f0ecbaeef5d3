"""The faces of BandSox under one small interface, so that one suite serves them all.

A face is opened with the options that every machine it creates gets, such as the hypervisor.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from bandsox import AsyncBandSox, AsyncMicroVM, BandSox, ExecResult, MicroVM

Result = TypeVar("Result")


class Machine(Protocol):
    """One machine, seen through a face."""

    vm_id: str

    def run(
        self,
        command: str | Sequence[str],
        *,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = None,
    ) -> ExecResult: ...
    def write(self, path: str, content: bytes) -> None: ...
    def read(self, path: str) -> bytes: ...
    def upload(self, local: Path, remote: str) -> None: ...
    def download(self, remote: str, local: Path) -> None: ...
    def upload_tree(self, local: Path, remote: str) -> None: ...
    def download_tree(self, remote: str, local: Path) -> None: ...
    def status(self) -> str: ...
    def stop(self) -> None: ...
    def start(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def delete(self) -> None: ...
    def snapshot(self, name: str) -> str: ...
    def fork(self, count: int) -> list[Machine]: ...


class Face(Protocol):
    """A way to use a storage directory."""

    def create(self, image: str, **options: Any) -> Machine: ...
    def names(self) -> list[str]: ...
    def rename(self, vm_id: str, name: str) -> None: ...
    def restore(self, snapshot: str, *, cold: bool = False) -> Machine: ...
    def snapshots(self) -> dict[str, str]: ...
    def rename_snapshot(self, snapshot: str, name: str) -> None: ...
    def compress_snapshot(self, snapshot: str) -> None: ...
    def export_snapshot(self, snapshot: str, target: Path) -> None: ...
    def import_snapshot(self, source: Path, name: str) -> str: ...
    def delete_snapshot(self, snapshot: str) -> None: ...
    def close(self) -> None: ...


class SyncFace:
    """`BandSox`."""

    def __init__(self, storage: Path, options: Mapping[str, Any] | None = None) -> None:
        self.bandsox, self.options = BandSox(storage), options or {}

    def create(self, image: str, **options: Any) -> Machine:
        return _SyncMachine(self.bandsox.create_vm(image, **{**self.options, **options}))

    def names(self) -> list[str]:
        return [info["name"] for info in self.bandsox.list_vms()]

    def rename(self, vm_id: str, name: str) -> None:
        self.bandsox.rename_vm(vm_id, name)

    def restore(self, snapshot: str, *, cold: bool = False) -> Machine:
        return _SyncMachine(self.bandsox.restore_vm(snapshot, cold=cold))

    def snapshots(self) -> dict[str, str]:
        """The ids of all snapshots, by name."""
        return {info["snapshot_name"]: info["id"] for info in self.bandsox.list_snapshots()}

    def rename_snapshot(self, snapshot: str, name: str) -> None:
        self.bandsox.rename_snapshot(snapshot, name)

    def compress_snapshot(self, snapshot: str) -> None:
        self.bandsox.compress_snapshot(snapshot)

    def export_snapshot(self, snapshot: str, target: Path) -> None:
        self.bandsox.export_snapshot(snapshot, target, image=False)

    def import_snapshot(self, source: Path, name: str) -> str:
        return self.bandsox.import_snapshot(source, name)

    def delete_snapshot(self, snapshot: str) -> None:
        self.bandsox.delete_snapshot(snapshot)

    def close(self) -> None:
        self.bandsox.close()


class _SyncMachine:
    def __init__(self, vm: MicroVM) -> None:
        self.vm = vm
        self.vm_id: str = vm.vm_id
        self.run = vm.run
        self.write = vm.write_bytes
        self.read = vm.read_bytes
        self.upload = vm.upload_file
        self.download = vm.download_file
        self.upload_tree = vm.upload_folder
        self.download_tree = vm.download_folder
        self.stop = vm.stop
        self.start = vm.start
        self.pause = vm.pause
        self.resume = vm.resume
        self.delete = vm.delete
        self.snapshot = vm.snapshot

    def status(self) -> str:
        return self.vm.status().value

    def fork(self, count: int) -> list[Machine]:
        return [_SyncMachine(clone) for clone in self.vm.fork(count)]


class AsyncFace:
    """`AsyncBandSox`, on an event loop of the test's own."""

    def __init__(self, storage: Path, options: Mapping[str, Any] | None = None) -> None:
        self.loop = asyncio.new_event_loop()
        self.bandsox, self.options = AsyncBandSox(storage), options or {}

    def _do(self, operation: Coroutine[Any, Any, Result]) -> Result:
        return self.loop.run_until_complete(operation)

    def create(self, image: str, **options: Any) -> Machine:
        return _AsyncMachine(self, self._do(self.bandsox.create_vm(image, **{**self.options, **options})))

    def names(self) -> list[str]:
        return [info["name"] for info in self._do(self.bandsox.list_vms())]

    def rename(self, vm_id: str, name: str) -> None:
        self._do(self.bandsox.rename_vm(vm_id, name))

    def restore(self, snapshot: str, *, cold: bool = False) -> Machine:
        return _AsyncMachine(self, self._do(self.bandsox.restore_vm(snapshot, cold=cold)))

    def snapshots(self) -> dict[str, str]:
        return {info["snapshot_name"]: info["id"] for info in self._do(self.bandsox.list_snapshots())}

    def rename_snapshot(self, snapshot: str, name: str) -> None:
        self._do(self.bandsox.rename_snapshot(snapshot, name))

    def compress_snapshot(self, snapshot: str) -> None:
        self._do(self.bandsox.compress_snapshot(snapshot))

    def export_snapshot(self, snapshot: str, target: Path) -> None:
        self._do(self.bandsox.export_snapshot(snapshot, target, image=False))

    def import_snapshot(self, source: Path, name: str) -> str:
        return self._do(self.bandsox.import_snapshot(source, name))

    def delete_snapshot(self, snapshot: str) -> None:
        self._do(self.bandsox.delete_snapshot(snapshot))

    def close(self) -> None:
        self._do(self.bandsox.close())
        self.loop.close()


class _AsyncMachine:
    _SAME: ClassVar = {
        "run": "run",
        "write": "write_bytes",
        "read": "read_bytes",
        "upload": "upload_file",
        "download": "download_file",
        "upload_tree": "upload_folder",
        "download_tree": "download_folder",
        "stop": "stop",
        "start": "start",
        "pause": "pause",
        "resume": "resume",
        "delete": "delete",
        "snapshot": "snapshot",
    }

    def __init__(self, face: AsyncFace, vm: AsyncMicroVM) -> None:
        self.vm, self.vm_id, self._face = vm, vm.vm_id, face

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self.vm, self._SAME[name])
        return lambda *arguments, **options: self._face._do(operation(*arguments, **options))

    def status(self) -> str:
        return self._face._do(self.vm.status()).value

    def fork(self, count: int) -> list[Machine]:
        return [_AsyncMachine(self._face, clone) for clone in self._face._do(self.vm.fork(count))]


class RemoteFace(SyncFace):
    """`BandSox` over a server of its own."""

    def __init__(self, storage: Path, options: Mapping[str, Any] | None = None) -> None:
        from tests.server.servers import serving

        self._serving = serving(storage)
        self.bandsox, self.options = BandSox(self._serving.__enter__().url), options or {}

    def close(self) -> None:
        super().close()
        self._serving.__exit__(None, None, None)


class CliFace:
    """The command line, each operation a process of its own."""

    _FLAGS: ClassVar = {
        "mem_mib": "--mem",
        "vcpu": "--vcpu",
        "disk_size_mib": "--disk-size",
        "name": "--name",
        "vmm": "--vmm",
        "kernel_path": "--kernel",
        "boot_args": "--boot-args",
        "cpu_template": "--cpu-template",
    }

    def __init__(self, storage: Path, options: Mapping[str, Any] | None = None) -> None:
        self.options = options or {}
        self.environment = {**os.environ, "BANDSOX_STORAGE": str(storage)}

    def call(self, *arguments: str, stdin: bytes | None = None, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [sys.executable, "-m", "bandsox", *arguments],
            input=stdin if stdin is not None else b"",
            capture_output=True,
            env=self.environment,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"bandsox {' '.join(arguments)} exited {done.returncode}: {done.stderr.decode(errors='replace')}")
        return done

    def create(self, image: str, **options: Any) -> Machine:
        words = []
        for option, value in {**self.options, **options}.items():
            if option == "env_vars":
                words += [word for name, content in value.items() for word in ("-e", f"{name}={content}")]
            else:
                words.append(f"{self._FLAGS[option]}={value}")
        created = json.loads(self.call("--json", "create", image, *words).stdout)
        return _CliMachine(self, created["id"])

    def names(self) -> list[str]:
        return [info["name"] for info in json.loads(self.call("--json", "vm", "list").stdout)]

    def rename(self, vm_id: str, name: str) -> None:
        self.call("vm", "rename", vm_id, name)

    def restore(self, snapshot: str, *, cold: bool = False) -> Machine:
        words = ["--cold"] if cold else []
        return _CliMachine(self, json.loads(self.call("--json", "snapshot", "restore", snapshot, *words).stdout)["id"])

    def snapshots(self) -> dict[str, str]:
        return {info["snapshot_name"]: info["id"] for info in json.loads(self.call("--json", "snapshot", "list").stdout)}

    def rename_snapshot(self, snapshot: str, name: str) -> None:
        self.call("snapshot", "rename", snapshot, name)

    def compress_snapshot(self, snapshot: str) -> None:
        self.call("snapshot", "compress", snapshot)

    def export_snapshot(self, snapshot: str, target: Path) -> None:
        target.write_bytes(self.call("snapshot", "export", snapshot, "--without-image").stdout)

    def import_snapshot(self, source: Path, name: str) -> str:
        return self.call("snapshot", "import", "--name", name, stdin=source.read_bytes()).stdout.decode().strip()

    def delete_snapshot(self, snapshot: str) -> None:
        self.call("snapshot", "delete", snapshot)

    def close(self) -> None:
        """Nothing is held between calls."""


class RemoteCliFace(CliFace):
    """The command line against a server of its own; it is told of no storage directory."""

    def __init__(self, storage: Path, options: Mapping[str, Any] | None = None) -> None:
        from tests.server.servers import serving

        super().__init__(storage, options)
        self._serving = serving(storage)
        self.environment["BANDSOX_URL"] = self._serving.__enter__().url
        del self.environment["BANDSOX_STORAGE"]

    def close(self) -> None:
        self._serving.__exit__(None, None, None)


class _CliMachine:
    def __init__(self, face: CliFace, vm_id: str) -> None:
        self._face, self.vm_id = face, vm_id

    def run(
        self,
        command: str | Sequence[str],
        *,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        words = ["exec"]
        words += ["-i"] if stdin is not None else []
        words += [word for name, value in (env or {}).items() for word in ("-e", f"{name}={value}")]
        words += ["-w", cwd] if cwd else []
        words += ["-u", user] if user else []
        words += ["--timeout", str(timeout)] if timeout else []
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        done = self._face.call(*words, self.vm_id, "--", *argv, stdin=stdin, check=False)
        return ExecResult(done.returncode, done.stdout, done.stderr)

    def write(self, path: str, content: bytes) -> None:
        self._face.call("cp", "-", f"{self.vm_id}:{path}", stdin=content)

    def read(self, path: str) -> bytes:
        return self._face.call("cp", f"{self.vm_id}:{path}", "-").stdout

    def upload(self, local: Path, remote: str) -> None:
        self._face.call("cp", str(local), f"{self.vm_id}:{remote}")

    def download(self, remote: str, local: Path) -> None:
        self._face.call("cp", f"{self.vm_id}:{remote}", str(local))

    upload_tree = upload
    download_tree = download

    def status(self) -> str:
        return str(json.loads(self._face.call("--json", "inspect", self.vm_id).stdout)["status"])

    def stop(self) -> None:
        self._face.call("vm", "stop", self.vm_id)

    def start(self) -> None:
        self._face.call("vm", "start", self.vm_id)

    def pause(self) -> None:
        self._face.call("vm", "pause", self.vm_id)

    def resume(self) -> None:
        self._face.call("vm", "resume", self.vm_id)

    def delete(self) -> None:
        self._face.call("vm", "delete", self.vm_id)

    def snapshot(self, name: str) -> str:
        return str(json.loads(self._face.call("--json", "vm", "save", self.vm_id, name).stdout)["snapshot_name"])

    def fork(self, count: int) -> list[Machine]:
        made = json.loads(self._face.call("--json", "vm", "fork", self.vm_id, "--count", str(count)).stdout)
        return [_CliMachine(self._face, info["id"]) for info in made]


FACES: dict[str, type[Any]] = {"sync": SyncFace, "async": AsyncFace, "cli": CliFace, "remote": RemoteFace, "remotecli": RemoteCliFace}
