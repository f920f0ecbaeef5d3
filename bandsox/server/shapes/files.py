"""Files."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bandsox.server.shapes.base import Given, Shape


class FileContent(Given):
    """A file as text."""

    path: str
    content: str


class NewContent(Shape):
    """Content for a file."""

    path: str = Field(examples=["/srv/hello.txt"])
    content: str = Field(examples=["hello\n"])
    encoding: Literal["utf-8", "base64"] | None = Field(None, description="of `content`; utf-8 when absent")
    append: bool = False


class Written(Given):
    """A file that was written."""

    status: str = Field(examples=["written"])
    path: str
    size: int = Field(description="how many bytes were written")


class Info(Given):
    """A file: its size in bytes, its mode in octal, its time of modification."""

    size: int
    mode: str = Field(examples=["0o644"])
    mtime: float


class FileInfo(Given):
    """What a file is."""

    path: str
    info: Info


class ListedFile(Given):
    """One entry of a directory."""

    name: str
    path: str
    size: int
    is_dir: bool
    is_file: bool
    mtime: float
    mode: str
    type: str


class Listing(Given):
    """The entries of a directory, by name."""

    path: str
    files: list[ListedFile]


class NewDirectory(Shape):
    """A directory to be made."""

    path: str
    parents: bool = True


class Move(Shape):
    """Another name for a file."""

    path: str
    to: str


class NewMode(Shape):
    """Permission bits for a file."""

    path: str
    mode: int = Field(ge=0, le=0o7777)
    recursive: bool = False


class Tree(Given):
    """A tree that was unpacked."""

    entries: int
    bytes: int
    refused: int = 0
