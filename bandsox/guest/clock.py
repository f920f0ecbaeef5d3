"""Telling the guest what time it is: an operation asks while it runs, since its request may have waited long for the machine."""

from __future__ import annotations

import time

from bandsox.errors import ProtocolError
from bandsox.guest import frames
from bandsox.guest.answers import AnswerT, ClockEvent, decode
from bandsox.guest.connection import Connection
from bandsox.guest.frames import FrameType
from bandsox.guest.messages import ClockControl, encode_message

_QUESTIONS = 16
"""More than the agent asks (``docs/protocol.md``, "Copies")."""


async def tell_the_time(connection: Connection, answer: type[AnswerT]) -> AnswerT:
    """Answer at once whenever the guest asks what time it is, until it is done; its RESULT."""
    for _ in range(_QUESTIONS):
        kind, payload = await connection.next_frame()
        if kind == FrameType.RESULT:
            return decode(payload, answer)
        if kind != FrameType.EVENT:
            raise connection.unexpected(kind)
        decode(payload, ClockEvent)
        await connection.send(frames.encode(FrameType.CONTROL, encode_message(ClockControl(time.time()))))
    raise ProtocolError("the guest asks what time it is without end")
