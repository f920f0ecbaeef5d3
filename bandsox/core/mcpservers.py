"""MCP servers for the agent that works in a machine: what ``mcp=`` of `create_vm` asks for, as ``/workspace/.mcp.json`` and variables.

A name with its options stands for a server that is known here; ``{"spec": {command, args, env}}`` is any other. The programs are fetched in
the machine when the agent starts them (by npx or uvx, which the image has to have).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from bandsox.decoding import ready
from bandsox.errors import InvalidRequest

PLACE = "/workspace/.mcp.json"
HIDDEN = "***"

_MAX_SIZE = 64 << 10


class _Spec(msgspec.Struct, forbid_unknown_fields=True):
    """A program that speaks MCP."""

    command: str
    args: list[str] = []
    env: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class _Known:
    """A server that can be named: its program, and the variable that each of its options becomes."""

    command: str
    args: tuple[str, ...]
    options: Mapping[str, str]


_KNOWN = {
    "browserbase": _Known("npx", ("-y", "@browserbasehq/mcp"), {"api_key": "BROWSERBASE_API_KEY", "project_id": "BROWSERBASE_PROJECT_ID"}),
    "fetch": _Known("uvx", ("mcp-server-fetch",), {}),
    "filesystem": _Known("npx", ("-y", "@modelcontextprotocol/server-filesystem", "/workspace"), {}),
    "github": _Known("npx", ("-y", "@modelcontextprotocol/server-github"), {"token": "GITHUB_PERSONAL_ACCESS_TOKEN"}),
    "slack": _Known("npx", ("-y", "@modelcontextprotocol/server-slack"), {"token": "SLACK_BOT_TOKEN", "team_id": "SLACK_TEAM_ID"}),
}


@dataclass(frozen=True, slots=True)
class Servers:
    """What a machine gets: the file, variables for every command, and what may be shown of it."""

    file: bytes
    env: Mapping[str, str]
    shown: Mapping[str, Any]


def servers(wanted: Mapping[str, Any]) -> Servers:
    """The servers that ``mcp=`` asks for.

    Raises
    ------
    InvalidRequest: there is none of a name, or it does not have such options.
    """
    specs = {name: _spec(name, asked) for name, asked in wanted.items()}
    file = msgspec.json.format(msgspec.json.encode({"mcpServers": specs}))
    if len(file) > _MAX_SIZE:
        raise InvalidRequest(f"the MCP servers take more than {_MAX_SIZE} bytes")
    env = {variable: value for spec in specs.values() for variable, value in spec.env.items()}
    shown = {
        name: {"command": spec.command, "args": list(spec.args), "env": dict.fromkeys(spec.env, HIDDEN)} for name, spec in specs.items()
    }
    return Servers(file, env, shown)


def _spec(name: str, asked: Any) -> _Spec:
    options = {} if asked is None else asked
    if not isinstance(name, str) or not name or not isinstance(options, Mapping):
        raise InvalidRequest(f"an MCP server is a name with options, not {name!r}: {type(asked).__name__}")
    if "spec" in options:
        try:
            if set(options) != {"spec"}:
                raise msgspec.ValidationError("there is more than the spec")
            return msgspec.convert(options["spec"], ready(_Spec))
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"the spec of the MCP server {name!r} is not {{command, args, env}}", cause=str(error)) from error
    known = _KNOWN.get(name)
    if known is None:
        raise InvalidRequest(
            f"there is no MCP server {name!r}", remedy=f"name one of {', '.join(_KNOWN)}, or give {{'spec': {{command, args, env}}}}"
        )
    if wrong := [option for option, value in options.items() if option not in known.options or not isinstance(value, str)]:
        raise InvalidRequest(f"the MCP server {name!r} has no option {wrong[0]!r}", remedy=f"it has: {', '.join(known.options) or 'none'}")
    return _Spec(known.command, list(known.args), {known.options[option]: value for option, value in options.items()})
