"""What a browser shows to reach one port of one machine: a signed cookie, got for a ticket.

A pass names the key or the session of its owner, and is worth nothing once that is over.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import math
import time

from bandsox.server.auth import keys, sessions
from bandsox.server.auth.callers import Caller
from bandsox.server.auth.file import Authority

COOKIE = "bandsox_pass"
LIFETIME_S = 12 * 3600


def new(authority: Authority, caller: Caller, vm_id: str, port: int) -> str:
    """A pass."""
    claim = f"{vm_id}.{port}.{caller.session or caller.id}.{math.floor(time.time() * 1000) / 1000:.3f}"
    return f"{claim}.{_signature(authority, claim)}"


def holder(authority: Authority, value: str, vm_id: str, port: int) -> Caller | None:
    """Whose pass for this port it is; None where it is none, or not any more."""
    claim, _, signature = value.rpartition(".")
    if not hmac.compare_digest(signature.encode(), _signature(authority, claim).encode()):
        return None
    for_vm, for_port, owner, issued_text = claim.split(".", 3)
    issued = float(issued_text)
    if (for_vm, for_port) != (vm_id, str(port)) or not issued <= time.time() < issued + LIFETIME_S:
        return None
    caller = keys.owner(authority, owner) or sessions.owner(authority, owner)
    if caller is None:
        return None
    return dataclasses.replace(caller, until=min(issued + LIFETIME_S, caller.until or math.inf))


def _signature(authority: Authority, claim: str) -> str:
    return hmac.new(bytes.fromhex(authority.secret), b"pass " + claim.encode(), hashlib.sha256).hexdigest()
