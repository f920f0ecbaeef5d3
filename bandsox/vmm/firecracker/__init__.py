"""Firecracker: the VMM for hosts with KVM."""
