"""Measurements, each against the floor of the same run; see docs/performance.md."""
