"""The tables of images: the images, the references that name them, and the blobs they consist of."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from bandsox.decoding import ready
from bandsox.models import Image, ImageConfig
from bandsox.store.database import Database

_SELECT = (
    "SELECT images.*, (SELECT json_group_array(reference) FROM"
    " (SELECT reference FROM image_references WHERE image_id = images.id ORDER BY reference)) AS names FROM images"
)


class _Record(msgspec.Struct):
    """What no query needs of an image."""

    architecture: str
    source: str
    config: ImageConfig


class ImageTable:
    """Images by id and by reference.

    References are canonical texts (`bandsox.images.Reference`). An image may have many, or none once another image
    took the last of them.

    Parameters
    ----------
    rootfs: the directory of the root file systems, which the database names by digest only.
    """

    def __init__(self, database: Database, rootfs: Path) -> None:
        self._database = database
        self._rootfs = rootfs

    # ── reading ─────────────────────────────────────────────────────────────────────────────────

    def get(self, image_id: str) -> Image | None:
        """The image with this id (``sha256:…`` in full)."""
        return self._one(f"{_SELECT} WHERE id = ?", (image_id,))

    def find(self, reference: str) -> Image | None:
        """The image that `reference` names."""
        return self._one(f"{_SELECT} WHERE id = (SELECT image_id FROM image_references WHERE reference = ?)", (reference,))  # noqa: S608 — no values in it

    def starting_with(self, prefix: str) -> Sequence[Image]:
        """The images whose id begins with ``sha256:`` and these hexadecimal digits, two of them at most."""
        return self._many(f"{_SELECT} WHERE id GLOB 'sha256:' || ? || '*' LIMIT 2", (prefix,))

    def list(self) -> Sequence[Image]:
        """All images, newest first."""
        return self._many(f"{_SELECT} ORDER BY created_at DESC, id", ())

    def fingerprint(self, reference: str) -> str | None:
        """The state of a local source when the image of `reference` was made from it."""
        row = self._execute("SELECT fingerprint FROM image_references WHERE reference = ?", (reference,)).fetchone()
        return row["fingerprint"] if row else None

    def users(self, image: Image) -> Sequence[str]:
        """The names of the machines, and snapshots of such, that were made of an image or run on its root file system."""
        machines, snapshots = (
            self._execute(f"SELECT name FROM {table} WHERE image_id = ? OR rootfs = ? ORDER BY name", (image.id, str(image.rootfs)))  # noqa: S608 — no values in it
            for table in ("vms", "snapshots")
        )
        return [*(row["name"] for row in machines), *(f"the snapshot {row['name']}" for row in snapshots)]

    def live_blobs(self) -> set[str]:
        """The digests of all blobs that an image consists of."""
        return {row["digest"] for row in self._execute("SELECT DISTINCT digest FROM image_blobs", ())}

    def live_rootfs(self) -> set[Path]:
        """The root file systems that an image, a machine or a snapshot needs."""
        images = {self._path(row["rootfs_digest"]) for row in self._execute("SELECT rootfs_digest FROM images", ())}
        machines = {Path(row["rootfs"]) for row in self._execute("SELECT rootfs FROM vms", ())}
        snapshots = {Path(row["rootfs"]) for row in self._execute("SELECT rootfs FROM snapshots", ())}
        return images | machines | snapshots

    # ── writing ─────────────────────────────────────────────────────────────────────────────────

    def save(self, image: Image, blobs: Iterable[str], fingerprint: str | None = None) -> None:
        """Record an image with its blobs, and let its references name it, whatever they named before."""
        record = msgspec.json.encode(_Record(image.architecture, image.source, image.config)).decode()
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO images (id, manifest_digest, rootfs_digest, size, created_at, record) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET manifest_digest = excluded.manifest_digest,"
                " rootfs_digest = excluded.rootfs_digest, size = excluded.size, record = excluded.record",
                (image.id, image.manifest_digest, image.rootfs_digest, image.size, image.created_at, record),
            )
            connection.execute("DELETE FROM image_blobs WHERE image_id = ?", (image.id,))
            connection.executemany("INSERT INTO image_blobs (image_id, digest) VALUES (?, ?)", [(image.id, blob) for blob in blobs])
            for reference in image.references:
                _name(connection, reference, image.id, fingerprint)

    def name(self, reference: str, image_id: str) -> None:
        """Let `reference` name an image that is recorded."""
        with self._database.transaction() as connection:
            _name(connection, reference, image_id, None)

    def remove_name(self, reference: str) -> None:
        """Forget a reference; the image it named stays."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM image_references WHERE reference = ?", (reference,))

    def remove(self, image_id: str) -> None:
        """Forget an image, with its references and its hold on blobs."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM images WHERE id = ?", (image_id,))

    # ── rows ────────────────────────────────────────────────────────────────────────────────────

    def _execute(self, statement: str, values: tuple[str, ...]) -> sqlite3.Cursor:
        return self._database.connection().execute(statement, values)

    def _one(self, statement: str, values: tuple[str, ...]) -> Image | None:
        row = self._execute(statement, values).fetchone()
        return self._image(row) if row else None

    def _many(self, statement: str, values: tuple[str, ...]) -> Sequence[Image]:
        return [self._image(row) for row in self._execute(statement, values)]

    def _path(self, rootfs_digest: str) -> Path:
        return self._rootfs / f"{rootfs_digest.removeprefix('sha256:')}.squashfs"

    def _image(self, row: sqlite3.Row) -> Image:
        record = msgspec.json.decode(row["record"], type=ready(_Record))
        return Image(
            id=row["id"],
            references=tuple(msgspec.json.decode(row["names"], type=list[str])),
            manifest_digest=row["manifest_digest"],
            rootfs_digest=row["rootfs_digest"],
            rootfs=self._path(row["rootfs_digest"]),
            size=row["size"],
            architecture=record.architecture,
            created_at=row["created_at"],
            config=record.config,
            source=record.source,
        )


def _name(connection: sqlite3.Connection, reference: str, image_id: str, fingerprint: str | None) -> None:
    connection.execute(
        "INSERT INTO image_references (reference, image_id, fingerprint) VALUES (?, ?, ?)"
        " ON CONFLICT (reference) DO UPDATE SET image_id = excluded.image_id, fingerprint = excluded.fingerprint",
        (reference, image_id, fingerprint),
    )
