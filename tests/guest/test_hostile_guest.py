"""A guest that speaks wrongly in every way: the host raises the right error, in time, and keeps nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from bandsox.errors import (
    BandSoxError,
    CommandTimeout,
    GuestError,
    LimitExceeded,
    MachineStopped,
    OutcomeUnknown,
    ProtocolError,
    StorageFull,
    Timeout,
)
from bandsox.guest import GuestClient, blocking, connection, execution, frames, localfiles
from bandsox.guest.frames import FrameType
from tests.guest.support import EXITED, PACK, STARTED, Peer, error, event, output, output_end, result, scripted

pytestmark = pytest.mark.anyio

Script = Callable[[Peer], Awaitable[None]]


def answering(*answer: bytes) -> Script:
    """A guest that answers each request so, and then waits for the host to close."""

    async def script(peer: Peer) -> None:
        await peer.welcome(*answer)
        await peer.until_closed()

    return script


def forever(data: bytes) -> Script:
    """A guest that repeats `data` after WELCOME as long as the host reads."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        while True:
            await peer.send(data)

    return script


# ── the handshake ───────────────────────────────────────────────────────────────────────────────


async def test_garbage_instead_of_welcome(short_path: Path) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.send(os.urandom(1 << 16))

    async with scripted(short_path / "s", script) as guest:
        with pytest.raises(ProtocolError, match="no WELCOME"):
            await guest.ping()


async def test_a_welcome_for_somebody_else(short_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.hello()
        await peer.send(frames.welcome(bytes(16), bytes(16)) + result())
        await peer.until_closed()

    async with scripted(short_path / "s", script) as guest:
        with pytest.raises(Timeout):
            await guest.ping(timeout=0.1)


async def test_what_an_earlier_client_left_is_skipped(short_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.hello()
        await peer.send(frames.welcome(bytes(16), bytes(16)) + result() + output(b"stale" * 50_000))
        await peer.send(frames.welcome(peer.nonce, bytes(16)) + result())

    async with scripted(short_path / "s", script) as guest:
        await guest.ping()


async def test_silence_ends_with_the_deadline(short_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.until_closed()

    async with scripted(short_path / "s", script) as guest:
        with pytest.raises(Timeout):
            await guest.ping(timeout=0.1)
        with pytest.raises(OutcomeUnknown):
            await guest.setup(hostname="x", timeout=0.1)


async def test_a_guest_that_does_not_read_ends_with_the_deadline(short_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await asyncio.sleep(1)

    async with scripted(short_path / "s", script) as guest:
        with pytest.raises(Timeout):
            await guest.setup(hosts=b"x" * 1_000_000, timeout=0.1)


async def test_a_guest_that_closes_before_the_request_arrived_changed_nothing(short_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readexactly(1)

    async with scripted(short_path / "s", script) as guest:
        with pytest.raises(MachineStopped):
            await guest.setup(hosts=b"x" * 1_000_000)


async def test_a_guest_that_closes_without_an_answer(short_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()

    async with scripted(short_path / "s", script) as guest:
        with pytest.raises(MachineStopped):
            await guest.ping()
        with pytest.raises(OutcomeUnknown):
            await guest.setup(hostname="x")
        with pytest.raises(OutcomeUnknown):
            await guest.write_bytes("/x", b"x" * 1_000_000)
        with pytest.raises(MachineStopped):
            await guest.read_bytes("/x")


async def test_a_wrong_token(short_path: Path) -> None:
    async with scripted(short_path / "s", answering(error("unauthorized"))) as guest:
        with pytest.raises(GuestError, match="unauthorized"):
            await guest.ping()


# ── frames where they are not allowed ───────────────────────────────────────────────────────────

NOT_ALLOWED = {
    "data": output(b"x"),
    "an event": event(kind="started", pid=1),
    "a window": frames.encode(FrameType.WINDOW, bytes(4)),
    "a second welcome": frames.welcome(bytes(16), bytes(16)),
    "a host's frame": frames.encode(FrameType.REQUEST, PACK({"op": "ping"})),
    "an unknown type": b"\xff",
    "too long a frame": frames.header(FrameType.RESULT, frames.MAX_PAYLOAD + 1),
    "no map": frames.encode(FrameType.RESULT, PACK([1])),
    "no MessagePack": frames.encode(FrameType.RESULT, b"\xc1"),
    "an empty result": frames.encode(FrameType.RESULT),
    "nesting without end": frames.encode(FrameType.RESULT, b"\x81\xa1x" + b"\x91" * 500_000),
    "an error without a code": frames.encode(FrameType.ERROR, PACK({})),
    "an error in bytes": frames.encode(FrameType.ERROR, PACK({"code": b"x", "message": "x"})),
}


@pytest.mark.parametrize("answer", NOT_ALLOWED.values(), ids=NOT_ALLOWED)
async def test_a_frame_that_is_not_allowed(short_path: Path, answer: bytes) -> None:
    async with scripted(short_path / "s", answering(answer)) as guest:
        for operation in (guest.ping, guest.info, lambda: guest.list_directory("/"), lambda: guest.write_bytes("/x", b"x" * 100_000)):
            with pytest.raises(ProtocolError):
                await operation()


@pytest.mark.parametrize("answer", [half for whole in (result(), error("io")) for half in (whole[:3], whole[:-1])])
async def test_half_a_frame_and_silence(short_path: Path, answer: bytes) -> None:
    async with scripted(short_path / "s", answering(answer)) as guest:
        with pytest.raises(Timeout):
            await guest.ping(timeout=0.1)


async def test_padding_without_end(short_path: Path) -> None:
    async with scripted(short_path / "s", forever(bytes(1 << 16))) as guest:
        with pytest.raises(ProtocolError, match="padding"):
            await guest.ping()


async def test_a_flood_starves_neither_the_loop_nor_the_deadline(short_path: Path) -> None:
    """The guest's bytes are always there already, in frames that carry nothing."""
    async with scripted(short_path / "s", forever(frames.encode(FrameType.OUTPUT) * 10_000)) as guest:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticking = asyncio.create_task(tick())
        with pytest.raises(BandSoxError):
            await _read_with_deadline(guest)
        ticking.cancel()
        assert ticks > 5


async def _read_with_deadline(guest: GuestClient) -> bytes:
    async with guest.read_stream("/x", timeout=0.2) as pieces:
        return b"".join([piece async for piece in pieces])


async def test_text_from_the_guest_is_made_safe_to_print(short_path: Path) -> None:
    nasty = "\x1b]0;owned\x07\x1b[2J\r\n\u202e" + "x" * 10_000
    async with scripted(short_path / "s", answering(error("io", nasty, errno="\x1b", path=b"\xff\x1b"))) as guest:
        with pytest.raises(GuestError) as failure:
            await guest.stat("/x")
    assert str(failure.value).isprintable() and len(str(failure.value)) < 600


OUT_OF_BOUNDS = {
    "a negative size": {"size": -1},
    "a size beyond all": {"size": 2**64 - 1},
    "no number": {"mtime": float("nan")},
    "an infinite time": {"mtime": float("inf")},
    "set-id bits and more": {"mode": 0o170000},
    "an unknown type": {"type": "portal"},
    "a number as text": {"uid": "0"},
}


@pytest.mark.parametrize("field", OUT_OF_BOUNDS.values(), ids=OUT_OF_BOUNDS)
async def test_a_value_out_of_bounds(short_path: Path, field: dict[str, object]) -> None:
    fields = {"type": "file", "size": 1, "mode": 0o644, "uid": 0, "gid": 0, "mtime": 1.5, "nlink": 1, "ino": 1}
    async with scripted(short_path / "s", answering(result(**{**fields, **field}))) as guest:
        with pytest.raises(ProtocolError):
            await guest.stat("/x")


async def test_a_directory_without_end(short_path: Path) -> None:
    stat = {"type": "file", "size": 1, "mode": 0o644, "uid": 0, "gid": 0, "mtime": 1.5}
    async with scripted(short_path / "s", forever(event(entries=[{"name": b"x", **stat}] * 512))) as guest:
        with pytest.raises(LimitExceeded):
            await guest.list_directory("/", max_entries=10_000)
    async with scripted(short_path / "t", forever(event(entries=[{"name": b"x", **stat}] * 513))) as guest:
        with pytest.raises(ProtocolError):
            await guest.list_directory("/")


@pytest.mark.parametrize("name", [b".", b"..", b"../x", b"/x", b"a/b", b"a\0b", b"", b"x" * 256])
async def test_a_name_that_is_no_name(short_path: Path, name: bytes) -> None:
    entry = {"name": name, "type": "file", "size": 1, "mode": 0o644, "uid": 0, "gid": 0, "mtime": 1.5}
    async with scripted(short_path / "s", answering(event(entries=[entry]) + result())) as guest:
        with pytest.raises(ProtocolError):
            await guest.list_directory("/")


async def test_links_whose_targets_have_no_end(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bandsox.guest.files._MAX_LISTING", 10 << 20)
    stat = {"type": "symlink", "size": 1, "mode": 0o777, "uid": 0, "gid": 0, "mtime": 1.5, "target": b"x" * 65536}
    async with scripted(short_path / "s", forever(event(entries=[{"name": b"x", **stat}] * 10))) as guest:
        with pytest.raises(LimitExceeded):
            await guest.list_directory("/")


# ── transfers ───────────────────────────────────────────────────────────────────────────────────

DATA = output(b"x" * 100_000)
WRONG_DATA = {
    "a wrong checksum": (DATA, output_end(size=100_000, xxh64=1), result(file_size=100_000)),
    "a wrong size": (DATA, output_end(size=99_999, xxh64=None), result(file_size=100_000)),
    "no end": (DATA, result(file_size=100_000)),
    "two ends": (DATA, output_end(), output_end(), result(file_size=1)),
    "data after the end": (DATA, output_end(), DATA, result(file_size=1)),
    "stderr": (DATA, frames.encode(FrameType.STDERR, b"x"), output_end(), result(file_size=1)),
    "no size": (DATA, output_end(), result()),
}


@pytest.mark.parametrize("answer", WRONG_DATA.values(), ids=WRONG_DATA)
async def test_wrong_data_does_not_arrive(short_path: Path, answer: tuple[bytes, ...]) -> None:
    async with scripted(short_path / "s", answering(*answer)) as guest:
        with pytest.raises(ProtocolError):
            await guest.download_file("/x", short_path / "x")
        with pytest.raises(ProtocolError):
            await guest.read_bytes("/x")
        with pytest.raises(ProtocolError):
            async with guest.read_stream("/x") as pieces:
                _ = [piece async for piece in pieces]
    assert [path.name for path in short_path.iterdir() if path.name != "s"] == []


async def test_frames_without_data_are_no_data(short_path: Path) -> None:
    """A transfer has no deadline of its own as long as data moves; this guest keeps talking, and none does."""
    async with scripted(short_path / "s", forever(frames.encode(FrameType.OUTPUT) * 10_000)) as guest:
        for operation in (guest.download_file("/x", short_path / "x"), guest.download_tree("/x", short_path / "y"), guest.read_bytes("/x")):
            with pytest.raises(ProtocolError, match="padding"):
                await operation


async def test_more_data_than_allowed(short_path: Path) -> None:
    async with scripted(short_path / "s", forever(DATA)) as guest:
        with pytest.raises(LimitExceeded):
            await guest.read_bytes("/x", max_bytes=1_000_000)
        with pytest.raises(LimitExceeded):
            await guest.read_bytes("/x", max_bytes=1_000)
        with pytest.raises(LimitExceeded):
            await guest.download_file("/x", short_path / "x", max_bytes=1_000_000)
        with pytest.raises(LimitExceeded):
            await guest.read_lines("/x", max_bytes=1_000_000)
    assert not (short_path / "x").exists()


async def test_an_endless_download_leaves_the_host_some_room(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localfiles, "SMALL", 4 << 20)
    monkeypatch.setattr(localfiles, "RESERVE", 1 << 60)
    monkeypatch.setattr(localfiles, "SHARE", 1)  # all of it: more than is ever free
    async with scripted(short_path / "s", forever(DATA)) as guest:
        for download in (guest.download_file("/x", short_path / "x"), guest.download_tar("/x", short_path / "x")):
            with pytest.raises(StorageFull, match="would fill"):
                await download
        with pytest.raises(LimitExceeded):
            await guest.download_file("/x", short_path / "x", max_bytes=8 << 20)
    assert not (short_path / "x").exists()


async def test_a_guest_that_lists_in_silence(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "STALL_TIMEOUT", 0.1)

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.until_closed()

    async with scripted(short_path / "s", script) as guest:
        for silent in (guest.list_directory("/"), guest.read_lines("/x")):
            with pytest.raises(Timeout):
                await silent


async def test_a_transfer_that_stalls(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "STALL_TIMEOUT", 0.1)
    async with scripted(short_path / "s", answering(DATA)) as guest:
        with pytest.raises(Timeout):
            await guest.download_file("/x", short_path / "x")

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await asyncio.sleep(10)

    async with scripted(short_path / "t", script) as guest:
        with pytest.raises(OutcomeUnknown):
            await guest.write_bytes("/x", b"x" * 10_000_000)


async def test_a_transfer_that_creeps_ends_with_its_deadline(short_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome(frames.header(FrameType.OUTPUT, 1 << 20))
        while True:
            await peer.send(b"x")
            await asyncio.sleep(0.01)

    async with scripted(short_path / "s", script) as guest:
        with pytest.raises(Timeout):
            await guest.download_file("/x", short_path / "x", timeout=0.2)


async def test_an_upload_stops_when_the_guest_has_refused_it(short_path: Path) -> None:
    async with scripted(short_path / "s", answering(error("no_space", "full", path=b"/x"))) as guest:
        with pytest.raises(GuestError, match="full") as failure:
            await guest.write_bytes("/x", bytes(1 << 20) * 100)
    assert failure.value.remedy


async def test_a_success_before_all_data_was_sent_is_none(short_path: Path) -> None:
    async with scripted(short_path / "s", answering(result(size=3))) as guest:
        with pytest.raises(ProtocolError, match="before it had all data"):
            await guest.write_bytes("/x", bytes(1 << 20) * 100)


async def test_cancelling_a_transfer_ends_it_at_once(short_path: Path) -> None:
    cancelled = asyncio.Event()

    async def script(peer: Peer) -> None:
        request = await peer.welcome()
        if request["op"] == "read":
            await peer.send(DATA)
        await cancelled.wait()  # else it says nothing for ever

    async with scripted(short_path / "s", script) as guest:
        for operation in (guest.download_file("/x", short_path / "x"), guest.write_bytes("/x", b"x" * 10_000_000)):
            task = asyncio.create_task(operation)
            await asyncio.wait({task}, timeout=0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        cancelled.set()
    assert not (short_path / "x").exists()


# ── commands ────────────────────────────────────────────────────────────────────────────────────

WRONG_EXECUTIONS = {
    "no start": (EXITED,),
    "output before the start": (output(b"x"), STARTED, EXITED),
    "two starts": (STARTED, STARTED, EXITED),
    "two ends": (STARTED, EXITED + EXITED),
    "output after the end": (STARTED, EXITED + output(b"x")),
    "an end of data": (STARTED, output_end(), EXITED),
    "a short window": (STARTED, frames.encode(FrameType.WINDOW, bytes(3)), EXITED),
    "an exit code beyond all": (STARTED, result(exit_code=256)),
    "no exit code": (STARTED, result()),
}


@pytest.mark.parametrize("answer", WRONG_EXECUTIONS.values(), ids=WRONG_EXECUTIONS)
async def test_a_wrong_execution(short_path: Path, answer: tuple[bytes, ...]) -> None:
    async with scripted(short_path / "s", answering(*answer)) as guest:
        with pytest.raises(ProtocolError):
            await guest.run(argv=["x"])


async def test_a_guest_that_does_not_enforce_the_timeout(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "GRACE", 0.1)
    async with scripted(short_path / "s", answering(STARTED)) as guest:
        with pytest.raises(CommandTimeout) as failure:
            await guest.run(argv=["x"], timeout=0.1)
    assert failure.value.cause
    async with scripted(short_path / "t", forever(STARTED + output(b"x" * 1000) * 100)) as guest:
        with pytest.raises((CommandTimeout, ProtocolError)):
            await guest.run(argv=["x"], timeout=0.1)


async def test_output_without_end_after_the_timeout(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "GRACE", 0.1)

    async def script(peer: Peer) -> None:
        await peer.welcome(STARTED)
        while True:
            await peer.send(output(b"x" * 60_000))

    async with scripted(short_path / "s", script) as guest:
        with pytest.raises(CommandTimeout):
            await guest.run(argv=["x"], timeout=0.1, on_output=lambda *_: None)


async def test_more_output_than_is_collected(short_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome(STARTED)
        while True:
            await peer.send(output(b"x" * 60_000))

    async with scripted(short_path / "s", script) as guest:
        with pytest.raises(LimitExceeded):
            await guest.run(argv=["x"], max_output=1_000_000)


async def test_a_guest_that_never_starts_the_command(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bandsox.guest.processes.DEFAULT_TIMEOUT", 0.1)
    async with scripted(short_path / "s", answering()) as guest:
        with pytest.raises(OutcomeUnknown):
            await guest.run(argv=["x"])


async def test_a_machine_that_stops_in_the_middle_of_a_command(short_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome(STARTED, output(b"so far"))

    async with scripted(short_path / "s", script) as guest, await guest.execute(argv=["x"]) as running:
        assert await running.__anext__() == ("stdout", b"so far")
        with pytest.raises(OutcomeUnknown):
            await running.wait()
        with pytest.raises(OutcomeUnknown):
            await running.write(b"x")


async def test_input_waits_for_the_window(short_path: Path) -> None:
    received: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.welcome(STARTED)
        for grant in (3, 4):
            await peer.send(frames.encode(FrameType.WINDOW, grant.to_bytes(4, "big")))
            kind, data = await peer.frame()
            assert kind == FrameType.DATA
            received.append(data)
        kind, _ = await peer.frame()
        assert kind == FrameType.END
        await peer.send(EXITED)
        await peer.until_closed()

    async with scripted(short_path / "s", script) as guest:
        await guest.run(argv=["x"], stdin=b"abcdefg")
    assert received == [b"abc", b"defg"]
