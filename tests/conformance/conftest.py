from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bandsox.settings import DEFAULT_IMAGE
from tests.faces import FACES, Face, Machine


@pytest.fixture(scope="module", params=list(FACES))
def face(request: pytest.FixtureRequest, storage: Path) -> Iterator[Face]:
    """Each face in turn."""
    opened = FACES[request.param](storage)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def machine(face: Face) -> Iterator[Machine]:
    """One running machine for the tests of a module, none of which stops it."""
    created = face.create(DEFAULT_IMAGE, mem_mib=256, env_vars={"GREETING": "grüß dich"})
    yield created
    created.delete()
