"""Where VMs may go in their network, and where they went."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from bandsox.server.shapes.base import Given, Shape

Preset = Literal["internet", "none", "registry-only", "learn"]
Rules = Annotated[list[Annotated[str, Field(max_length=512)]], Field(max_length=512)]


class NewPolicy(Shape):
    """Where a VM may go: what `allow` has and `deny` has not. Without `allow` it is the Internet.

    A rule is `internet`, an address, a network or a name, with `:PORTS` and `/PROTOCOL` where it is not for all.
    """

    allow: Rules = Field(["internet"], examples=[["api.example.com", "*.example.org:443", "203.0.113.0/24:22/tcp"]])
    deny: Rules = Field([], examples=[["198.51.100.7"]])
    learn: bool = Field(False, description="look for the names of all connections, for `learned`")
    upload_mbit: float | None = Field(None, ge=0.1, le=1e6, description="10^6 bits a second; so the next")
    download_mbit: float | None = Field(None, ge=0.1, le=1e6)
    connections: int | None = Field(None, ge=1, le=1 << 16, description="how many may be open at a time")


NetworkDemand = NewPolicy | Preset
CniNetwork = Annotated[str, Field(pattern=r"^cni:[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")]
Value = Annotated[SecretStr, Field(min_length=8, max_length=4096)]
"""Of a secret. It is written down nowhere, and shows in no message and no digest of a request."""


class NewSecret(Shape):
    """A value that a VM's programs use without having it: requests to `hosts` get it in the place of what the VM has.

    It is looked for in headers, with `query` in the query of addresses too, with `body` in bodies.
    """

    value: Value = Field(description="printable ASCII, which no answer ever has", examples=["sk-0123456789abcdef"])
    hosts: list[Annotated[str, Field(max_length=512)]] = Field(min_length=1, max_length=16, examples=[["api.example.com"]])
    query: bool = False
    body: bool = False
    plain_http: bool = Field(False, description="send it over HTTP without TLS too")


class SecretValue(Shape):
    """Another value of a secret."""

    value: Value = Field(examples=["sk-0123456789abcdef"])


class SecretInfo(Given):
    """What is known of a VM's secret, which is never its value."""

    name: str = Field(examples=["OPENAI_API_KEY"])
    hosts: list[str] = Field(examples=[["api.example.com"]])
    query: bool
    body: bool
    plain_http: bool
    has_value: bool = Field(description="false after a restore, until it is given one")


class WantedPolicy(Shape):
    """A policy, or the name of a preset, to be put in force."""

    policy: NetworkDemand = Field(examples=[{"allow": ["api.example.com"]}, "registry-only"])


class PolicyInfo(Given):
    """A policy, whole."""

    allow: list[str]
    deny: list[str]
    learn: bool
    upload_mbit: float | None
    download_mbit: float | None
    connections: int | None


class PolicyInForce(Given):
    """A VM's policy; null: it may go wherever the Internet is, and nothing is written down."""

    policy: PolicyInfo | None


class Presets(Given):
    """The policies that have names."""

    presets: dict[str, PolicyInfo]


class NetworkConnection(Given):
    """What a VM connected to, or tried to. `protocol` is `dns` for the question for a name; bytes are known once it has ended."""

    time: float = Field(description="seconds since the epoch, as `ended`")
    protocol: str
    name: str
    address: str
    port: int
    verdict: Literal["allowed", "refused"]
    reason: str = Field(description="why it was refused")
    sent: int
    received: int
    ended: float | None


class NetworkUse(Given):
    """How much a VM has used its network since its start: bytes, headers included, and connections."""

    sent: int
    received: int
    open: int
    opened: int
    refused: int
