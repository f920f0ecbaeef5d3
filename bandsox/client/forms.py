"""The form with which a Dockerfile and its context go to a server (RFC 7578), made while it is sent."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import anyio

from bandsox.client.streams import of_tree
from bandsox.errors import InvalidDockerfile
from bandsox.guest.progress import transferring
from bandsox.guest.tarwrite import TreeFilter

_MAX_DOCKERFILE = 1 << 20


@contextlib.asynccontextmanager
async def build(dockerfile: Path, context: Path, fields: Mapping[str, Any]) -> AsyncIterator[tuple[dict[str, str], AsyncIterator[bytes]]]:
    """The headers and the pieces of a form. Fields that are None are left out, those that are no text become JSON.

    Raises
    ------
    InvalidDockerfile: it cannot be read. InvalidRequest: the context is no directory.
    """
    boundary = secrets.token_hex(16)
    written = {"dockerfile": await _text(dockerfile), **{name: _written(value) for name, value in fields.items() if value is not None}}
    async with transferring(None, context) as task, of_tree(context, TreeFilter(None, None), 0, 0, task) as tree:

        async def pieces() -> AsyncIterator[bytes]:
            for name, value in written.items():
                yield f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            yield f'--{boundary}\r\nContent-Disposition: form-data; name="context"; filename="context.tar"\r\n\r\n'.encode()
            async for piece in tree:
                yield piece
            yield f"\r\n--{boundary}--\r\n".encode()

        yield {"Content-Type": f"multipart/form-data; boundary={boundary}"}, pieces()


async def _text(dockerfile: Path) -> str:
    try:
        data = await anyio.Path(dockerfile).read_bytes()
        if len(data) > _MAX_DOCKERFILE:
            raise InvalidDockerfile(f"{dockerfile} has more than {_MAX_DOCKERFILE} bytes")
        return data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidDockerfile(f"{dockerfile} cannot be read", cause=str(error), remedy="name a Dockerfile in UTF-8") from error


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
