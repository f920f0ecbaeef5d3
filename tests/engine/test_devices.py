"""Devices that only Firecracker has: a VM that was made without them says so; and the default guest kernel has their drivers, which it may
insist on being signed."""

from __future__ import annotations

import pytest

from bandsox import BandSox, MicroVM
from bandsox.errors import Conflict
from tests.cli.conftest import Cli


def test_a_machine_without_them_says_so(vm: MicroVM) -> None:
    for operation in (vm.balloon, lambda: vm.set_balloon(16)):
        with pytest.raises(Conflict, match="was made without balloon"):
            operation()
    with pytest.raises(Conflict, match="was made without mmds"):
        vm.set_mmds({})
    done = Cli(vm._async._engine.layout.root)("--json", "vm", "balloon", vm.vm_id)
    assert done.error["code"] == "conflict"


def test_the_default_kernel_has_a_driver_for_a_balloon(bandsox: BandSox, vm: MicroVM) -> None:
    """It is loaded where there is one: here the guest is only told so; with its signature, where the kernel asks for that."""
    assert "virtio_balloon" not in vm.run("cat /proc/modules").text
    arguments = "bandsox.balloon module.sig_enforce=1"
    with bandsox.create_vm(disk_size_mib=0, vmm="qemu", boot_args=arguments, enable_networking=False) as told:
        assert "virtio_balloon" in told.run("cat /proc/modules").text
        assert told.run("cat /sys/module/module/parameters/sig_enforce").text.strip() == "Y"
