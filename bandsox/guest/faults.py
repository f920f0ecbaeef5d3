"""What the guest's errors mean to a caller: the one place where the protocol's error codes become exceptions.

The text of an error is the guest's and may hold anything, terminal escape sequences included. It is cut and cleaned here.
"""

from __future__ import annotations

import os

from bandsox.errors import (
    BandSoxError,
    CommandNotFound,
    ConnectionRefused,
    ExecFailed,
    GuestConnectionError,
    GuestError,
    GuestFileError,
    GuestFileNotFound,
    SessionNotFound,
    Timeout,
    Unsupported,
)
from bandsox.guest.answers import ErrorAnswer
from bandsox.guest.messages import Request

_MAX_TEXT = 500

_REMEDIES = {
    "no_space": "create the machine with a larger disk (disk_size_mib), or remove files in it",
    "read_only": "this part of the guest's file system cannot be written to",
}


def printable(text: str, limit: int = _MAX_TEXT) -> str:
    """`text` from the guest, safe to print: one line, without control characters, at most `limit` characters."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in cut)


def error_from_guest(answer: ErrorAnswer, request: Request) -> BandSoxError:
    """The exception for the guest's `answer` to `request`."""
    code = printable(answer.code)
    message = printable(answer.message) or f"the guest answered {code} to {request.op}"
    if code == "unsupported":
        return Unsupported(message, cause="the guest's kernel or agent has no such feature")
    if code == "unauthorized":
        return GuestError(message, cause="the machine was set up with another token", detail={"guest_code": code})
    if code == "no_such_session":
        return SessionNotFound(message)
    if code == "exec_not_found":
        return CommandNotFound(message, detail={"guest_code": code})
    if request.family == "process" and code in {
        "exec_failed",
        "no_such_user",
        "not_found",
        "permission_denied",
        "not_a_directory",
        "invalid",
    }:
        return ExecFailed(message, detail={"guest_code": code})
    if request.family == "file":
        return _file_error(answer, code, message)
    return GuestError(message, detail={"guest_code": code, "errno": answer.errno})


def connection_refused(answer: ErrorAnswer, port: int) -> BandSoxError:
    """The exception for a stream to `port` that the guest has refused with `answer`."""
    code = printable(answer.code)
    if code == "connection_refused":
        return ConnectionRefused(f"nothing listens on port {port} in the guest", detail={"port": port})
    if code == "timed_out":
        return Timeout(f"a connection to port {port} in the guest did not come about in time", detail={"port": port})
    message = f"port {port} in the guest cannot be reached"
    return GuestConnectionError(message, cause=printable(answer.message) or code, detail={"port": port, "guest_code": code})


def _file_error(answer: ErrorAnswer, code: str, message: str) -> GuestFileError:
    kind = GuestFileNotFound if code == "not_found" else GuestFileError
    path = None if answer.path is None else os.fsdecode(answer.path)
    errno_name = None if answer.errno is None else printable(answer.errno)
    return kind(message, guest_code=code, errno_name=errno_name, path=path, remedy=_REMEDIES.get(code))
