"""The verbs: create, start, stop, pause, resume, delete, recover, over images, hypervisors, guest link and store."""

from bandsox.engine.engine import Engine

__all__ = ["Engine"]
