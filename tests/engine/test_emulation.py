"""What emulated guests are spared, and how a VM takes it back."""

from __future__ import annotations

import re

from bandsox import BandSox, MicroVM

_RANDOMIZED = "/proc/sys/kernel/randomize_va_space"


def test_programs_of_an_emulated_guest_start_where_their_code_was_translated(vm: MicroVM) -> None:
    emulated = vm.info()["accelerator"] == "tcg"
    assert vm.run(["cat", _RANDOMIZED]).text == ("0\n" if emulated else "2\n")
    stacks = {vm.run(["grep", "-F", "[stack]", "/proc/self/maps"]).text for _ in range(3)}
    assert (len(stacks) == 1) is emulated


def test_a_vm_may_have_random_addresses_all_the_same(bandsox: BandSox) -> None:
    asked = "sysctl.kernel.randomize_va_space=2"
    with bandsox.create_vm(disk_size_mib=0, boot_args=asked, enable_networking=False) as vm:
        assert vm.run(["cat", _RANDOMIZED]).text == "2\n"


def test_an_emulated_cpu_does_not_claim_that_moving_bytes_one_by_one_is_fast(vm: MicroVM) -> None:
    if vm.info()["accelerator"] == "tcg":
        assert not re.search(r"\berms\b", vm.run(["cat", "/proc/cpuinfo"]).text)
