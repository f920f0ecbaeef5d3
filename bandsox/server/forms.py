"""Forms, parsed while they arrive: the fields in front of a file are kept, the file passes through."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from bandsox.errors import InvalidRequest, RequestTooLarge

_MAX_FIELD = 1 << 20
_MAX_FIELDS = 64
_MAX_HEADER = 8 << 10


def headers(described: Mapping[str, str]) -> dict[str, Any]:
    """The headers that a route looks at, with what they say, for its ``openapi_extra``."""
    return {
        "parameters": [
            {"name": name, "in": "header", "description": what, "schema": {"type": "string"}} for name, what in described.items()
        ]
    }


UPLOAD_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["remote_path", "file"],
                "properties": {"remote_path": {"type": "string"}, "file": {"type": "string", "format": "binary"}},
            }
        }
    },
}


BUILD_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["dockerfile"],
                "properties": {
                    **{name: {"type": "string"} for name in ("dockerfile", "tag", "name", "vmm", "confinement", "on_expiry")},
                    "network": {"type": "string", "description": "a preset's name, `cni:` and a network's, or a policy in JSON"},
                    **{name: {"type": "integer"} for name in ("vcpu", "mem_mib", "disk_size_mib", "balloon_mib", "disk_iops")},
                    **{name: {"type": "boolean"} for name in ("enable_networking", "force_rebuild", "auto_resume", "track_dirty_pages")},
                    **{name: {"type": "number"} for name in ("ttl", "idle_timeout", "disk_bandwidth_mbps", "network_bandwidth_mbps")},
                    **{
                        name: {"type": "string", "contentMediaType": "application/json"}
                        for name in ("env_vars", "metadata", "mcp", "build_args", "publish", "dns", "mmds", "secrets")
                    },
                    "context": {"type": "string", "format": "binary", "description": "a tar archive of what COPY and ADD take files from"},
                },
            }
        }
    },
}


def json_body(shape: type[BaseModel]) -> dict[str, Any]:
    """The description of a body of this shape, for a route that reads it by itself."""
    return {"required": True, "content": {"application/json": {"schema": shape.model_json_schema()}}}


def attachment(name: str) -> str:
    """The header that has a browser store an answer as a file of this name, and never show it (RFC 6266)."""
    return f"attachment; filename*=UTF-8''{quote(name.encode('utf-8', 'surrogateescape'))}"


class Form:
    """A form under way. `fields` are those before the file."""

    def __init__(self, request: Request, boundary: bytes, file: str) -> None:
        self.fields: dict[str, str] = {}
        self.file_began = False
        self._file = file
        self._source = request.stream()
        self._header: list[bytearray] = [bytearray(), bytearray()]
        self._disposition = b""
        self._name: str | None = None
        self._value = bytearray()
        self._pieces: deque[bytes] = deque()
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part,
                "on_header_field": lambda data, start, end: self._more_header(0, data[start:end]),
                "on_header_value": lambda data, start, end: self._more_header(1, data[start:end]),
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_end,
                "on_part_data": self._data,
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
        )

    async def more(self) -> bool:
        """Read on; False at the end.

        Raises
        ------
        InvalidRequest: it is no form. RequestTooLarge: a field is.
        """
        data = await anext(self._source, b"")
        if not data:
            if not self._ended:
                raise InvalidRequest("the form broke off")
            return False
        try:
            self._parser.write(data)
        except MultipartParseError as error:
            raise InvalidRequest("the body is not a form", cause=str(error)) from error
        return True

    async def pieces(self) -> AsyncIterator[bytes]:
        """The file's contents."""
        while True:
            while self._pieces:
                yield self._pieces.popleft()
            if not await self.more():
                return

    # ── what the parser finds ──

    def _part(self) -> None:
        self._disposition, self._name = b"", None
        self._value.clear()

    def _more_header(self, which: int, data: bytes) -> None:
        self._header[which] += data
        if len(self._header[which]) > _MAX_HEADER:
            raise RequestTooLarge("a header of the form is too long")

    def _header_end(self) -> None:
        if self._header[0].lower() == b"content-disposition":
            self._disposition = bytes(self._header[1])
        for each in self._header:
            each.clear()

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode(errors="replace")
        self.file_began = self.file_began or self._name == self._file

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._name == self._file:
            self._pieces.append(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > _MAX_FIELD or len(self.fields) >= _MAX_FIELDS:
            raise RequestTooLarge("a field of the form is too long, or there are too many")

    def _part_end(self) -> None:
        if self._name is not None and self._name != self._file:
            self.fields[self._name] = self._value.decode(errors="replace")

    def _end(self) -> None:
        self._ended = True


@contextlib.asynccontextmanager
async def streaming(request: Request, file: str, *, required: bool = True) -> AsyncIterator[Form]:
    """The form of a request, read as far as to the beginning of its file; where it need have none, perhaps to its end.

    Raises
    ------
    InvalidRequest: it is no form, or has no file.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidRequest("the body is not a form", remedy="send multipart/form-data")
    form = Form(request, boundary, file)
    while not form.file_began:
        if not await form.more():
            if not required:
                break
            raise InvalidRequest(f"the form has no {file}")
    yield form
