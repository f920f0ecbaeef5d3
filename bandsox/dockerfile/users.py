"""Names of users and groups, looked up in the image's own ``/etc/passwd`` and ``/etc/group``, never in the host's."""

from __future__ import annotations

from bandsox.dockerfile.source import Fault
from bandsox.dockerfile.view import View

_LIMIT = 4 << 20
_MAX_ID = 0xFFFFFFFE


def owner(view: View, text: str) -> tuple[int, int]:
    """The uid and gid that ``user[:group]`` of --chown means.

    A user given by name brings its group along; one given by number has the group of the same number.

    Raises
    ------
    Fault: the image has no such user or group.
    """
    user, colon, group = text.partition(":")
    if not user and not group:
        raise Fault(f"{text!r} names no user", "write --chown=user:group")
    uid = _number(user) if user else 0
    gid = uid if uid is not None and user else 0
    if uid is None:
        fields = _find(view, (b"etc", b"passwd"), user, 4)
        if fields is None:
            raise Fault(f"the image has no user {user!r} in /etc/passwd", "create it in a RUN before, or use a number")
        uid, gid = _stored(fields[2], "user", user), _stored(fields[3], "user", user)
    if colon and group:
        number = _number(group)
        if number is None:
            fields = _find(view, (b"etc", b"group"), group, 3)
            if fields is None:
                raise Fault(f"the image has no group {group!r} in /etc/group", "create it in a RUN before, or use a number")
            number = _stored(fields[2], "group", group)
        gid = number
    return uid, gid


def _find(view: View, path: tuple[bytes, ...], name: str, least: int) -> list[str] | None:
    for line in view.read_text(path, _LIMIT).splitlines():
        fields = line.split(":")
        if fields[0] == name and len(fields) >= least:
            return fields
    return None


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()):
        return None
    if len(text) > 10 or int(text) > _MAX_ID:
        raise Fault(f"{text[:20]} is no number a user can have")
    return int(text)


def _stored(text: str, what: str, name: str) -> int:
    number = _number(text)
    if number is None:
        raise Fault(f"the {what} {name!r} of the image has no number")
    return number
