"""The test vectors that the guest's agent runs as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bandsox.errors import ProtocolError
from bandsox.guest import answers, frames, messages
from bandsox.guest.frames import FROM_GUEST, Decoder, FrameType, WelcomeScanner
from tests.guest.test_frames import Decoded, decode

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/protocol.json").read_bytes())
TO_GUEST = frozenset(FrameType) - FROM_GUEST
FIRST_NONCE = VECTORS["handshakes"][0]["nonce"]


def vectors(section: str, **having: object) -> Any:
    """The vectors of a section that have these values, each as a test of its own."""
    chosen = [vector for vector in VECTORS[section] if all(vector.get(key) == value for key, value in having.items())]
    assert chosen
    return pytest.mark.parametrize("vector", chosen, ids=lambda vector: vector["name"])


def read_stream(data: bytes, nonce: bytes) -> tuple[int, Decoded]:
    """What a host finds: the number of bytes before WELCOME, and the frames after it."""
    scanner = WelcomeScanner(nonce)
    rest = scanner.feed(data)
    assert rest is not None and scanner.boot_id is not None
    welcome = frames.welcome(nonce, scanner.boot_id)
    return len(data) - len(rest) - len(welcome), decode([rest])


@vectors("frames")
def test_frames(vector: dict[str, Any]) -> None:
    kind, payload, whole = FrameType(vector["type"]), bytes.fromhex(vector["payload"]), bytes.fromhex(vector["hex"])
    assert frames.encode(kind, payload) == whole
    decoder = Decoder(FROM_GUEST | TO_GUEST)
    assert decode([bytes([byte]) for byte in whole], decoder) == [(kind, payload)]
    assert decoder.at_boundary


@vectors("handshakes")
def test_handshakes(vector: dict[str, Any]) -> None:
    nonce, token, boot_id = (bytes.fromhex(vector[field]) for field in ("nonce", "token", "boot_id"))
    assert frames.hello(nonce, token).hex() == vector["hello"]
    assert frames.welcome(nonce, boot_id).hex() == vector["welcome"]
    scanner = WelcomeScanner(nonce)
    assert scanner.feed(bytes.fromhex(vector["welcome"])) == b""
    assert scanner.boot_id == boot_id


@vectors("streams", reader="host")
def test_streams(vector: dict[str, Any]) -> None:
    discarded, found = read_stream(bytes.fromhex(vector["hex"]), bytes.fromhex(vector["nonce"]))
    expected = [(frame["type"], bytes.fromhex(frame["payload"])) for frame in vector["frames"]]
    assert discarded == vector["discarded"]
    assert found == [frame for frame in expected if frame[0] != FrameType.WELCOME]


ANSWERS: dict[int, type[msgspec.Struct]] = {
    FrameType.RESULT: answers.Answer,
    FrameType.ERROR: answers.ErrorAnswer,
    FrameType.EVENT: answers.StartedEvent,
}


@vectors("invalid", reader="host")
def test_invalid_streams(vector: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        for kind, payload in read_stream(bytes.fromhex(vector["hex"]), bytes.fromhex(FIRST_NONCE))[1]:
            if kind == FrameType.WINDOW:
                frames.window(payload)
            elif kind in ANSWERS:
                answers.decode(payload, ANSWERS[kind])


def plain(value: Any) -> Any:
    """A vector's value, with ``{"bin": hex}`` as bytes and ``{"map": pairs}`` as a map."""
    if isinstance(value, dict) and set(value) == {"bin"}:
        return bytes.fromhex(value["bin"])
    if isinstance(value, dict) and set(value) == {"map"}:
        return {plain(key): plain(item) for key, item in value["map"]}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


# The same messages as this side makes them or takes them.
SENT: dict[str, msgspec.Struct] = {
    "ping": messages.Ping(),
    "exec argv": messages.Exec(
        argv=[b"/bin/echo", b"a b", b"\xff\xfe"],
        env={b"A": b"1"},
        clear_env=True,
        cwd=b"/tmp",
        user=b"1000:1000",
        stdin=True,
        timeout_ms=2500,
    ),
    "exec shell on a terminal, detached": messages.Exec(shell=b"exec bash -l", tty=messages.Tty(120, 40), detached=True, session="term-1"),
    "attach": messages.Attach(session="s1", stdout=5_000_000_000, input=False),
    "read": messages.Read(path=b"/var/log/\xe4\xf6", offset=4096, length=10),
    "write": messages.Write(path=b"/root/a", mode=0o755, parents=True, uid=0, gid=0),
    "chown that leaves the group": messages.ChangeOwner(path=b"/a", uid=1000, gid=-1, recursive=True),
    "tar": messages.Tar(path=b"/srv", base=b"data", exclude=[b"*.tmp", b"cache"]),
    "END": messages.EndOfData(6, 16483616436137068627),
    "END of input that closes it": messages.EndOfData(close=True),
    "END with the greatest checksum": messages.EndOfData(0, 2**64 - 1),
    "CONTROL signal": messages.SignalControl(2),
    "CONTROL resize": messages.ResizeControl(200, 50),
    "CONTROL cancel": messages.CancelControl(),
    "freeze": messages.Freeze(grace_ms=10_000),
    "renew": messages.Renew(
        token=bytes(range(0x80, 0xA0)),
        machine_id=bytes(range(16)),
        entropy=bytes(32),
        hostname="clone-1",
        env={b"A": b"\xff"},
        hosts=b"127.0.0.1 localhost\n",
        hook_timeout_ms=5000,
    ),
    "CONTROL clock": messages.ClockControl(1_700_000_000.25),
}
RECEIVED: dict[str, type[msgspec.Struct]] = {
    "RESULT of exec": answers.ExitAnswer,
    "RESULT of a killed exec": answers.ExitAnswer,
    "RESULT of stat": answers.StatAnswer,
    "RESULT of info": answers.InfoAnswer,
    "RESULT of sessions": answers.SessionsAnswer,
    "ERROR with errno and path": answers.ErrorAnswer,
    "ERROR without": answers.ErrorAnswer,
    "EVENT started": answers.StartedEvent,
    "EVENT of a listing": answers.EntriesEvent,
    "EVENT of a move": answers.ChangeEvent,
    "EVENT frozen": answers.FrozenEvent,
    "EVENT clock": answers.ClockEvent,
    "RESULT of thaw": answers.ThawAnswer,
    "RESULT of renew": answers.RenewAnswer,
}


@vectors("messages")
def test_messages(vector: dict[str, Any]) -> None:
    payload, fields = bytes.fromhex(vector["hex"]), plain(vector["fields"])
    assert msgspec.msgpack.decode(payload) == fields
    if message := SENT.get(vector["name"]):
        assert msgspec.msgpack.decode(messages.encode_message(message)) == fields
    if vector["type"] in FROM_GUEST:
        answer = msgspec.to_builtins(answers.decode(payload, RECEIVED[vector["name"]]), builtin_types=(bytes,))
        assert_has(answer, fields)


def assert_has(found: Any, expected: Any) -> None:
    """That `found` has everything `expected` has; absent and nil are the same."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert_has(found.get(key), value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_has(one, other)
    else:
        assert found == expected


def test_every_name_is_that_of_a_vector() -> None:
    assert {*SENT, *RECEIVED} <= {vector["name"] for vector in VECTORS["messages"]}
