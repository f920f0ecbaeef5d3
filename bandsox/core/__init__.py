"""The front door: `BandSox`, and `AsyncBandSox` which it is made of.

Both are a library over a storage directory, as SQLite is over a file: several processes may work on one storage
directory at once, and machines outlive the process that made them.

    opening    a storage directory, opened     asynchronous, blocking   the two faces
    machines, snapshots, templates, images,    the methods, by what they are about
    events, host
"""

from bandsox.core.asynchronous import AsyncBandSox
from bandsox.core.blocking import BandSox

__all__ = ["AsyncBandSox", "BandSox"]
