"""What the host says in frames: each operation's request, and what may follow it (``docs/protocol.md``, "Operations")."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from bandsox.guest.link import Lane

# ── requests ────────────────────────────────────────────────────────────────────────────────────


class Request(msgspec.Struct, tag_field="op", omit_defaults=True, kw_only=True):
    """Base of the requests.

    `effects`: whether it changes the guest, so that a lost answer leaves doubt. `consumes_data`: whether its RESULT
    shows that the guest has read all DATA. `records`: whether each DATA frame is a record of a stream. `lane`: which
    connections it may take. `family`: what its errors are about.
    """

    effects: ClassVar[bool] = False
    consumes_data: ClassVar[bool] = False
    records: ClassVar[bool] = False
    lane: ClassVar[Lane] = Lane.SHORT
    family: ClassVar[Literal["machine", "process", "file"]] = "machine"

    @property
    def op(self) -> str:
        """The operation's name."""
        return str(self.__struct_config__.tag)

    def encoded(self) -> bytes:
        """The request as MessagePack."""
        return encode_message(self)


_encoder = msgspec.msgpack.Encoder()


def encode_message(message: msgspec.Struct) -> bytes:
    """A structure as MessagePack."""
    return _encoder.encode(message)


class Ping(Request, tag="ping"):
    """Nothing; shows that the agent answers."""

    lane = Lane.CONTROL


class Info(Request, tag="info"):
    """What the agent and its kernel are."""

    lane = Lane.CONTROL


class Prepare(Request, tag="prepare"):
    """Makes ready to be saved a machine that was not set up."""

    lane = Lane.CONTROL


class Setup(Request, tag="setup"):
    """Gives the machine its identity."""

    effects = True
    lane = Lane.CONTROL
    token: bytes | None = None
    hostname: str | None = None
    env: dict[bytes, bytes] | None = None
    user: bytes | None = None
    workdir: bytes | None = None
    hosts: bytes | None = None
    resolv: bytes | None = None
    time: float | None = None
    ask_time: bool | None = None
    entropy: bytes | None = None
    network: dict[str, Any] | None = None
    trust: dict[str, Any] | None = None


class Freeze(Request, tag="freeze"):
    """Stop all programs until CONTROL cancel."""

    consumes_data = True
    lane = Lane.CONTROL
    grace_ms: int = 0


class Thaw(Request, tag="thaw"):
    """Let the programs go on."""

    lane = Lane.CONTROL


class Renew(Request, tag="renew"):
    """Gives a copy of a machine an identity of its own."""

    effects = True
    consumes_data = True
    lane = Lane.CONTROL
    token: bytes
    entropy: bytes
    machine_id: bytes | None = None
    trust: dict[str, Any] | None = None
    hostname: str | None = None
    env: dict[bytes, bytes] | None = None
    user: bytes | None = None
    workdir: bytes | None = None
    hosts: bytes | None = None
    resolv: bytes | None = None
    network: dict[str, Any] | None = None
    hook_timeout_ms: int | None = None


class ReadMetrics(Request, tag="metrics"):
    """The guest's load."""

    lane = Lane.CONTROL
    processes: bool = False


class Sync(Request, tag="sync"):
    """Everything written reaches the disk."""

    lane = Lane.CONTROL


class Shutdown(Request, tag="shutdown"):
    """Power off, or reboot."""

    effects = True
    lane = Lane.CONTROL
    reboot: bool = False
    timeout_ms: int | None = None


class Tty(msgspec.Struct):
    """A terminal's size in characters."""

    cols: int
    rows: int


class Exec(Request, tag="exec"):
    """Start a process."""

    effects = True
    lane = Lane.LONG
    family = "process"
    argv: list[bytes] | None = None
    shell: bytes | None = None
    env: dict[bytes, bytes] | None = None
    clear_env: bool = False
    cwd: bytes | None = None
    user: bytes | None = None
    stdin: bool = False
    tty: Tty | None = None
    timeout_ms: int | None = None
    detached: bool = False
    session: str | None = None
    merge_stderr: bool = False
    terse: bool = False


class Attach(Request, tag="attach"):
    """Follow a session."""

    lane = Lane.LONG
    family = "process"
    session: str
    stdout: int | None = None
    stderr: int | None = None
    input: bool = True


class Input(Request, tag="input"):
    """Feed a session."""

    effects = True
    consumes_data = True
    family = "process"
    session: str


class Signal(Request, tag="signal"):
    """Signal a session."""

    effects = True
    lane = Lane.CONTROL
    family = "process"
    session: str
    signal: int
    group: bool = True


class Resize(Request, tag="resize"):
    """Tell a session's terminal its size."""

    effects = True
    lane = Lane.CONTROL
    family = "process"
    session: str
    cols: int
    rows: int


class ListSessions(Request, tag="sessions"):
    """Every session the agent knows."""

    lane = Lane.CONTROL
    family = "process"


class Forget(Request, tag="forget"):
    """Drop an ended session."""

    effects = True
    lane = Lane.CONTROL
    family = "process"
    session: str


class Streams(Request, tag="streams"):
    """Connections to ports of the guest."""

    consumes_data = True
    records = True
    lane = Lane.LONG


class FileRequest(Request):
    """Base of the requests about the file `path`."""

    family = "file"
    path: bytes


class Stat(FileRequest, tag="stat"):
    """What a file is."""

    follow: bool = True


class ListDirectory(FileRequest, tag="list"):
    """A directory's entries."""


class Read(FileRequest, tag="read"):
    """A file's contents."""

    lane = Lane.LONG
    offset: int = 0
    length: int | None = None


class ReadLines(FileRequest, tag="lines"):
    """Some of a file's lines."""

    lane = Lane.LONG
    offset: int = 0
    limit: int = 0
    max_bytes: int | None = None


class Write(FileRequest, tag="write"):
    """Replace or extend a file."""

    effects = True
    consumes_data = True
    lane = Lane.LONG
    mode: int | None = None
    append: bool = False
    offset: int | None = None
    uid: int | None = None
    gid: int | None = None
    parents: bool = False
    exclusive: bool = False


class MakeDirectory(FileRequest, tag="mkdir"):
    """Make a directory."""

    effects = True
    mode: int | None = None
    parents: bool = False
    uid: int | None = None
    gid: int | None = None


class Remove(FileRequest, tag="remove"):
    """Remove a file, or a tree."""

    effects = True
    recursive: bool = False


class Rename(FileRequest, tag="rename"):
    """Give a file another name."""

    effects = True
    to: bytes


class ChangeMode(FileRequest, tag="chmod"):
    """Set permission bits."""

    effects = True
    mode: int
    recursive: bool = False
    follow: bool = True


class ChangeOwner(FileRequest, tag="chown"):
    """Set owner and group."""

    effects = True
    uid: int
    gid: int
    recursive: bool = False
    follow: bool = True


class MakeSymlink(FileRequest, tag="symlink"):
    """Make a symbolic link."""

    effects = True
    target: bytes


class Watch(FileRequest, tag="watch"):
    """Report changes."""

    lane = Lane.LONG
    recursive: bool = False


class Tar(FileRequest, tag="tar"):
    """A tree as a tar stream."""

    lane = Lane.LONG
    base: bytes | None = None
    exclude: list[bytes] | None = None


class Untar(FileRequest, tag="untar"):
    """A tree from a tar stream."""

    effects = True
    consumes_data = True
    lane = Lane.LONG
    whiteouts: bool = False
    preserve_owner: bool = True
    uid: int | None = None
    gid: int | None = None


class Layer(Request, tag="layer"):
    """The writable layer as an OCI layer."""

    lane = Lane.LONG
    since: float | None = None


class Compare(Request, tag="compare"):
    """Which files differ between the writable layers of two disks."""

    family = "file"
    lane = Lane.LONG
    before: str
    after: str
    limit: int


# ── what follows a request ──────────────────────────────────────────────────────────────────────


class EndOfData(msgspec.Struct, omit_defaults=True):
    """END: size and xxh64 of the data, both absent where nobody counted; `close` is for ``input``."""

    size: Annotated[int, Meta(ge=0)] | None = None
    xxh64: Annotated[int, Meta(ge=0)] | None = None
    close: bool = False


class SignalControl(msgspec.Struct, tag_field="kind", tag="signal"):
    """CONTROL: signal the process of this connection."""

    signal: int


class ResizeControl(msgspec.Struct, tag_field="kind", tag="resize"):
    """CONTROL: the terminal's new size."""

    cols: int
    rows: int


class ClockControl(msgspec.Struct, tag_field="kind", tag="clock"):
    """CONTROL: the time, in seconds since the epoch, in answer to the guest's question during a renewal."""

    time: float


class CancelControl(msgspec.Struct, tag_field="kind", tag="cancel"):
    """CONTROL: end a watch, a freezing or streams."""
