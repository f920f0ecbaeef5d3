"""QEMU's microvm machine: the VMM that runs on any host, with KVM or without."""

from bandsox.vmm.qemu.vmm import Qemu

__all__ = ["Qemu"]
