"""Firecracker: the VMM for hosts with KVM."""

from bandsox.vmm.firecracker.vmm import Firecracker

__all__ = ["Firecracker"]
