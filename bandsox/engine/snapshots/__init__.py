"""Snapshots: taking them, going on from them, forking machines.

verbs      what can be done            shelf     where whole snapshots are kept
capture    a machine at one instant    fitness   whether this host can go on from one
"""

from bandsox.engine.snapshots.verbs import Snapshots

__all__ = ["Snapshots"]
