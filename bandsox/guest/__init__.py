"""The host's side of the guest agent: the way to a guest, the protocol, and a client for every operation.

`GuestClient` is all that most callers need, with a `PortLink`, a `VsockLink` or a `HostVsockLink`. The protocol is that of
``docs/protocol.md``. The guest is hostile: whatever it sends is bounded, typed and verified here, and nothing it names is used on
this host.
"""

from bandsox.guest.client import GuestClient
from bandsox.guest.doorbell import Doorbell, HostVsockDoorbell, UnixDoorbell
from bandsox.guest.execution import Execution, Stream
from bandsox.guest.link import AGENT_PORT, Channel, HostVsockLink, Lane, Link, VsockLink
from bandsox.guest.paths import GuestText
from bandsox.guest.ports import PortLink, at_boundary, recall_frames
from bandsox.guest.processes import CommandOptions
from bandsox.guest.streams import CONNECT_TIMEOUT, GuestStream
from bandsox.guest.text import TextCallback, TextDecoder

__all__ = [
    "AGENT_PORT",
    "CONNECT_TIMEOUT",
    "Channel",
    "CommandOptions",
    "Doorbell",
    "Execution",
    "GuestClient",
    "GuestStream",
    "GuestText",
    "HostVsockDoorbell",
    "HostVsockLink",
    "Lane",
    "Link",
    "PortLink",
    "Stream",
    "TextCallback",
    "TextDecoder",
    "UnixDoorbell",
    "VsockLink",
    "at_boundary",
    "recall_frames",
]
