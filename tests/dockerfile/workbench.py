"""A storage directory to build in, and what came of a build as plain values."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bandsox.dockerfile import build_image
from bandsox.dockerfile.rootfs import RootFS
from bandsox.dockerfile.view import View
from bandsox.engine import Engine
from bandsox.images.tree import Kind
from bandsox.models import Image, Progress

Files = Mapping[str, "str | bytes | None"]


def write_files(directory: Path, files: Files) -> None:
    """Make files; a value of None makes a directory, one that begins with ``->`` a symbolic link."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir(exist_ok=True)
        elif isinstance(content, str) and content.startswith("->"):
            path.symlink_to(content[2:])
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


def tree_of(image: Image) -> dict[str, tuple[Any, ...]]:
    """Every file of an image: kind, mode, uid, gid, and its content or target."""
    rootfs = RootFS(image.rootfs)
    try:
        found = {}
        for path, node in View(rootfs).walk(()):
            content = b"".join(node.read()) if node.kind is Kind.FILE else node.target
            found["/" + b"/".join(path).decode()] = (node.kind.value, oct(node.mode), node.uid, node.gid, content)
        return found
    finally:
        rootfs.close()


class Workbench:
    """Builds in one storage directory; ``steps`` and ``output`` are those of the last build."""

    def __init__(self, storage: Path, context: Path) -> None:
        self.storage = storage
        self.context = context
        self.steps: list[str] = []
        self.output: list[str] = []

    def build(self, dockerfile: str, files: Files | None = None, **options: Any) -> Image:
        write_files(self.context, files or {})
        path = self.context / "Dockerfile"
        path.write_text(dockerfile)
        return asyncio.run(self.build_async(path, **options))

    async def build_async(self, path: Path, **options: Any) -> Image:
        engine = Engine(self.storage)
        self.steps, self.output = [], []
        try:
            return await build_image(engine, self.context, path, progress=self._progress, **options)
        finally:
            engine.close()

    def tree(self, dockerfile: str, files: Files | None = None, **options: Any) -> dict[str, tuple[Any, ...]]:
        return tree_of(self.build(dockerfile, files, **options))

    def paths(self, dockerfile: str, files: Files | None = None, **options: Any) -> set[str]:
        return set(self.tree(dockerfile, files, **options))

    def contents(self, dockerfile: str, files: Files | None = None, **options: Any) -> dict[str, str]:
        """The regular files and what is in them."""
        return {path: entry[4].decode() for path, entry in self.tree(dockerfile, files, **options).items() if entry[0] == "file"}

    def history(self, image: Image) -> list[tuple[str, bool]]:
        """The instructions that made an image, the first one first, and whether each made a layer."""
        engine = Engine(self.storage)
        try:
            return [(step.created_by, step.layer is not None) for step in reversed(engine.images.history(image.id))]
        finally:
            engine.close()

    def cached(self) -> list[str]:
        return [step.removesuffix("  (cached)").split()[0] for step in self.steps if step.endswith("(cached)")]

    def made(self) -> list[str]:
        """The instructions that were carried out and not found in the cache."""
        return [step.split()[0] for step in self.steps if not step.endswith("(cached)") and step.split()[0] in ("RUN", "COPY", "ADD")]

    def _progress(self, report: Progress) -> None:
        if report.task == "output":
            self.output.append(report.label)
        elif report.task.startswith("step") and report.finished:
            self.steps.append(report.label)
