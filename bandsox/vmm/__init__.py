"""Hypervisors behind one protocol, and what they boot: guest kernel and initramfs."""
