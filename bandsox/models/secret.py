"""Secrets that a machine uses and does not have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Secret:
    """A value that a machine's programs use without having it.

    They find a placeholder in their environment; requests to `hosts` get the value in its place, outside the machine.

    `hosts` are names: ``api.example.com``, ``*.example.org``, ``api.example.com:8443``; without a port it is 443. The placeholder is looked
    for in headers (with the name and password of ``Authorization: Basic``), with ``query`` in the URL's query too, with ``body`` in bodies.
    ``plain_http``: send it over HTTP without TLS too, at port 80 where no port is named.
    """

    value: str = field(repr=False)
    hosts: Sequence[str]
    query: bool = False
    body: bool = False
    plain_http: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.hosts, str):  # one string is refused where secrets are checked
            object.__setattr__(self, "hosts", tuple(self.hosts))


@dataclass(frozen=True, slots=True)
class SecretUse:
    """What is known of a machine's secret, but for its value; the fields as in `Secret`."""

    placeholder: str
    hosts: tuple[str, ...]
    query: bool = False
    body: bool = False
    plain_http: bool = False
