"""The files of a machine: the part of `AsyncMicroVM` that reads, writes, moves and watches them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bandsox.vm.access import GuestAccess

if TYPE_CHECKING:
    from bandsox.models import DirEntry, FileChange, FileStat, ProgressCallback


class GuestFiles(GuestAccess):
    """The methods on files."""

    async def get_file_contents(
        self,
        path: str,
        offset: int = 0,
        limit: int = 0,
        show_line_numbers: bool = False,
        show_header: bool = True,
        show_footer: bool = True,
    ) -> str:
        """A text file, or the window of `limit` lines (0: all) behind the first `offset`.

        A window that leaves lines out says so above (``... skipped N lines``) and below (``... N lines left``). Numbered lines
        are ``N<TAB>line``, counted from 1.
        """
        window = await (await self._live()).read_lines(path, offset, limit)
        text = window.data.decode(errors="replace")
        if show_line_numbers:
            lines = text.splitlines(keepends=True)
            text = "".join(f"{number}\t{line}" for number, line in enumerate(lines, window.skipped + 1))
        header = f"... skipped {window.skipped} lines\n" if show_header and window.skipped else ""
        footer = ("" if text.endswith("\n") or not text else "\n") + f"... {window.left} lines left" if show_footer and window.left else ""
        return header + text + footer

    async def read_bytes(self, path: str, max_bytes: int = 256 << 20) -> bytes:
        """A file's contents, at most `max_bytes`."""
        return await (await self._live()).read_bytes(path, max_bytes=max_bytes)

    async def list_dir(self, path: str) -> list[dict[str, Any]]:
        """The entries of a directory as ``{name, type, size, mode, mtime}``, sorted by name; ``type`` is file, directory or unknown."""
        entries = await (await self._live()).list_directory(path)
        return [_entry(entry) for entry in sorted(entries, key=lambda entry: entry.name)]

    async def scan_dir(self, path: str) -> list[DirEntry]:
        """The entries of a directory, with everything that is known of them."""
        return await (await self._live()).list_directory(path)

    async def get_file_info(self, path: str) -> dict[str, Any]:
        """A file as ``{size, mode, mtime}``; ``mode`` is an octal string such as ``0o644``."""
        found = await (await self._live()).stat(path)
        return {"size": found.size, "mode": oct(found.mode), "mtime": found.mtime}

    async def stat(self, path: str, follow_symlinks: bool = True) -> FileStat:
        """Everything that is known of a file."""
        return await (await self._live()).stat(path, follow=follow_symlinks)

    async def download_file(
        self, remote_path: str, local_path: str | os.PathLike[str], timeout: float | None = 300, progress: ProgressCallback | None = None
    ) -> None:
        """Copy a file of the guest to this host, where it appears whole or not at all."""
        await (await self._live()).download_file(remote_path, Path(local_path), timeout=timeout, progress=progress)

    async def upload_file(
        self,
        local_path: str | os.PathLike[str],
        remote_path: str,
        timeout: float | None = None,
        append: bool = False,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Copy a file of this host into the guest, where it appears whole or not at all."""
        await (await self._live()).upload_file(Path(local_path), remote_path, append=append, timeout=timeout, progress=progress)

    async def append_file(self, local_path: str | os.PathLike[str], remote_path: str, timeout: float | None = None) -> None:
        """Append a file of this host to a file of the guest."""
        await self.upload_file(local_path, remote_path, timeout, append=True)

    async def write_text(self, remote_path: str, content: str, timeout: float | None = None, append: bool = False) -> None:
        """Write text as UTF-8."""
        await self.write_bytes(remote_path, content.encode(), timeout, append)

    async def append_text(self, remote_path: str, content: str, timeout: float | None = None) -> None:
        """Append text as UTF-8."""
        await self.write_bytes(remote_path, content.encode(), timeout, append=True)

    async def write_bytes(
        self, remote_path: str, content: bytes, timeout: float | None = None, append: bool = False, mode: int | None = None
    ) -> None:
        """Write a file, which appears whole or not at all, or append to one. Missing directories are made.

        Parameters
        ----------
        mode: permission bits; None: those of the file that is there already, else 0644.
        """
        await (await self._live()).write_bytes(remote_path, content, mode=mode, append=append, timeout=timeout)

    async def upload_folder(
        self,
        local_path: str | os.PathLike[str],
        remote_path: str,
        pattern: str | None = None,
        skip_pattern: Sequence[str] | str | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Copy a directory of this host into the guest; the patterns are shell patterns against the path below it."""
        await (await self._live()).upload_tree(Path(local_path), remote_path, pattern=pattern, skip_pattern=skip_pattern, progress=progress)

    async def download_folder(self, remote_path: str, local_path: str | os.PathLike[str], progress: ProgressCallback | None = None) -> None:
        """Copy a directory of the guest to this host. Nothing is written outside `local_path`."""
        await (await self._live()).download_tree(remote_path, Path(local_path), progress=progress)

    async def make_dir(self, path: str, parents: bool = True) -> None:
        """Make a directory."""
        await (await self._live()).make_directory(path, parents=parents)

    async def remove(self, path: str, recursive: bool = False) -> None:
        """Remove a file or a directory."""
        await (await self._live()).remove(path, recursive=recursive)

    async def rename(self, path: str, to: str) -> None:
        """Give a file another name, replacing what has it."""
        await (await self._live()).rename(path, to)

    async def chmod(self, path: str, mode: int, recursive: bool = False) -> None:
        """Set a file's permission bits."""
        await (await self._live()).change_mode(path, mode, recursive=recursive)

    async def watch(self, path: str, recursive: bool = False) -> AsyncIterator[FileChange]:
        """What changes at and below `path`, as it happens, until the caller stops asking."""
        async with (await self._live()).watch(path, recursive=recursive) as changes:
            async for change in changes:
                yield change


def _entry(entry: DirEntry) -> dict[str, Any]:
    kind = entry.stat.type if entry.stat.type in {"file", "directory"} else "unknown"
    name = os.fsdecode(entry.name)
    return {"name": name, "type": kind, "size": entry.stat.size, "mode": oct(entry.stat.mode), "mtime": entry.stat.mtime}
