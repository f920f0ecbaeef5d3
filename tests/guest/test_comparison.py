"""What a machine that compares disks answers, rightly and wrongly: it has read what a stranger wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bandsox.errors import GuestFileError, ProtocolError
from bandsox.models import FileDifference
from tests.guest.support import error, event, result, scripted
from tests.guest.test_hostile_guest import answering, forever

pytestmark = pytest.mark.anyio

ONE: dict[str, Any] = {"change": "created", "path": b"/a\xff", "type": "file", "size": 3}


def differences(*each: dict[str, Any]) -> bytes:
    return event(differences=list(each))


async def test_differences_come_as_they_are(short_path: Path) -> None:
    removed = {**ONE, "change": "removed", "type": "directory"}
    async with scripted(short_path / "s", answering(differences(ONE), differences(removed), result(truncated=True))) as guest:
        found, more = await guest.compare("vdb", "vdc", limit=2)
    assert found == [FileDifference("created", b"/a\xff", "file", 3), FileDifference("removed", b"/a\xff", "directory", 3)]
    assert more


async def test_a_disk_that_cannot_be_read(short_path: Path) -> None:
    async with scripted(short_path / "s", answering(error("io"))) as guest:
        with pytest.raises(GuestFileError):
            await guest.compare("vdb", "vdc", limit=2)


WRONG = {
    "more than was asked for": differences(ONE, ONE, ONE),
    "too many at once": differences(*[ONE] * 513),
    "a change that is none": differences({**ONE, "change": "exploded"}),
    "a type that is none": differences({**ONE, "type": "door"}),
    "a path that has no end": differences({**ONE, "path": b"x" * 65_537}),
    "a size that cannot be": differences({**ONE, "size": -1}),
    "a text for a path": differences({**ONE, "path": "/a"}),
    "no word on whether there is more": result(),
}


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG.keys())
async def test_what_is_not_believed(short_path: Path, answer: bytes) -> None:
    async with scripted(short_path / "s", answering(answer)) as guest:
        with pytest.raises(ProtocolError):
            await guest.compare("vdb", "vdc", limit=2)


async def test_differences_without_end(short_path: Path) -> None:
    async with scripted(short_path / "s", forever(differences(ONE))) as guest:
        with pytest.raises(ProtocolError):
            await guest.compare("vdb", "vdc", limit=1000)
