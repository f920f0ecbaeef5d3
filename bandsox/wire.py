"""What the client and the server say to each other about a program that runs, over a WebSocket.

Bytes go as binary frames, everything else as JSON in text frames. A binary frame begins with the stream it belongs to:

    0x01 stdout, 0x02 stderr    from the server          0x00 stdin    from the client

The client's first frame is what to run. The server then sends ``{"type": "started", "pid", "stdout", "stderr"}`` (the last two are
offsets in a session's output), and at the end ``{"type": "exit", "exit_code", "signal", "timed_out", "cpu_ms", "max_rss"}`` or
``{"type": "error", "error": {code, message, …}}``. ``{"type": "window", "bytes"}`` lets the client send so many bytes of input more; it
begins with `WINDOW`. The client's other frames are ``{"type": "close_stdin"}``, ``{"type": "signal", "signal"}`` and
``{"type": "resize", "cols", "rows"}``.

A client that cannot leave its connection unread, as browsers cannot, says in its first frame, or in the address of what it follows, how
large its own ``window`` is: it is sent that many bytes of output before it says ``{"type": "window", "bytes"}``, that it has taken so many.
"""

from __future__ import annotations

STDIN, STDOUT, STDERR = b"\x00", b"\x01", b"\x02"

WINDOW = 256 << 10
"""How many bytes of input may be under way."""

LARGEST_WINDOW = 64 << 20
"""How many bytes of output a client may ask for to be under way."""

CHUNK = 64 << 10
"""How many bytes one frame of input has at most."""

PROTOCOLS = ("bandsox.exec", "bandsox.terminal")
"""The subprotocols that a client may ask for."""

UNKNOWN_CALLER, NO_SUCH_VM, FAILED = 4001, 4004, 4000
"""Codes with which the server closes."""
