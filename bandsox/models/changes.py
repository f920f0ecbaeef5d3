"""What has happened in a storage directory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happened in a storage directory: the entry `id` of its journal, at `at` (seconds since the epoch).

    ``kind`` is ``vm.created``, ``vm.status``, ``vm.renamed``, ``vm.updated`` (metadata or published ports), ``vm.deleted``,
    ``snapshot.created``, ``snapshot.updated``, ``snapshot.deleted``, ``image.created``, ``image.named``, ``image.unnamed``,
    ``image.deleted``, or ``lost``: changes up to this one are not in the journal any more. ``subject`` is the id of what it happened to,
    ``name`` its name (of an image the reference), ``owner`` the name of the machine that it is, or is of; ``status`` is a machine's.
    """

    id: int
    at: float
    kind: str
    subject: str
    name: str
    owner: str | None = None
    status: str | None = None
