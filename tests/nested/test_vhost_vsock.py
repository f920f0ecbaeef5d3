"""Machines over vhost-vsock, on a host that has it: a machine whose kernel does (``make soak``, which takes minutes)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bandsox import BandSox
from bandsox.settings import Layout
from bandsox.vmm.kernel import Kernels
from tests.nested.outer import IMAGE, equip, host

pytestmark = pytest.mark.skipif("BANDSOX_TEST_ROUNDS" not in os.environ, reason="it takes minutes: make soak")

_DEADLINE_S = 3600.0

_LIFE = """
import json, os
from bandsox import BandSox
from bandsox.engine import engine
engine.BOOT_DEADLINE_S = 1800.0  # for one emulation, a thirtieth is plenty
os.environ["BANDSOX_TRANSPORT"] = "vsock"
with BandSox() as opened:
    with opened.create_vm("rootfs:/opt/guest.tar", mem_mib=128, disk_size_mib=0) as vm:
        info = vm.info()
        content = bytes(range(256)) * 8192
        vm.write_bytes("/root/content", content)
        facts = {
            "transport": info["transport"],
            "confinement": info["confinement"],
            "said": vm.run("echo hello").stdout.decode(),
            "same": vm.read_bytes("/root/content") == content,
        }
        vm.pause()
        vm.resume()
        facts["after pause"] = vm.run("echo again").stdout.decode()
        vm.stop()
        facts["stopped"] = vm.status().value
print(json.dumps(facts))
"""


def test_a_machine_lives_over_vsock(bandsox: BandSox, storage: Path) -> None:
    kernels = Kernels(Layout.open(storage))
    with host(bandsox, kernels, IMAGE, vcpu=2, mem_mib=2048, disk_size_mib=4096) as outer:
        equip(outer, kernels)
        outer.load("vhost_vsock")
        facts = json.loads(outer.python(_LIFE, timeout=_DEADLINE_S))
    assert facts == {
        "transport": "vsock",
        "confinement": "jail",
        "said": "hello\n",
        "same": True,
        "after pause": "again\n",
        "stopped": "stopped",
    }
