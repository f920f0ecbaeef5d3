"""What a guest may answer, as typed structures.

It is hostile: answers are decoded strictly into these types, every number, text and list within bounds. Keys that are not in them are
ignored, so that fields can be added (``docs/protocol.md``, "Operations").
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, field

from bandsox.decoding import ready
from bandsox.errors import ProtocolError

Count = Annotated[int, Meta(ge=0, le=2**62)]
Id = Annotated[int, Meta(ge=0, le=2**32)]
Seconds = Annotated[float, Meta(ge=-1e15, le=1e15)]
ShortText = Annotated[str, Meta(max_length=1024)]
Name = Annotated[bytes, Meta(min_length=1, max_length=255)]
PathBytes = Annotated[bytes, Meta(max_length=65536)]


class Answer(msgspec.Struct):
    """Base of the answers; by itself one without fields."""


class ErrorAnswer(Answer):
    """The payload of an ERROR frame."""

    code: Annotated[str, Meta(max_length=64)]
    message: str = ""
    errno: Annotated[str, Meta(max_length=64)] | None = None
    path: PathBytes | None = None


class InfoAnswer(Answer):
    """Of `Info`."""

    agent: ShortText
    kernel: ShortText
    boot_id: Annotated[bytes, Meta(max_length=64)]
    arch: ShortText
    uptime_ms: Count
    transport: ShortText
    capabilities: Annotated[list[ShortText], Meta(max_length=256)]
    time: Seconds


class FrozenEvent(Answer):
    """No program runs any more; without `complete` some are still in the kernel."""

    kind: Literal["frozen"]
    complete: bool
    took_us: Count


class ThawAnswer(Answer):
    """Of `Thaw`."""

    frozen: bool


class ClockEvent(Answer):
    """What time is it?"""

    kind: Literal["clock"]


class RenewStepAnswer(Answer):
    """One thing a renewal has done."""

    name: ShortText
    took_us: Count
    failure: ShortText | None = None


class HookAnswer(Answer):
    """How the guest's own program for a restore has ended."""

    exit_code: Annotated[int, Meta(ge=0, le=255)]
    timed_out: bool
    output: Annotated[bytes, Meta(max_length=16 << 10)] | None
    truncated: bool


class RenewAnswer(Answer):
    """Of `Renew`."""

    frozen: bool
    clock_step_us: Annotated[int, Meta(ge=-(2**62), le=2**62)]
    clock_error_us: Count
    closed: Id
    steps: Annotated[list[RenewStepAnswer], Meta(max_length=64)]
    hook: HookAnswer | None = None


class CpuAnswer(Answer):
    """Processor time since boot."""

    user_ms: Count
    system_ms: Count
    idle_ms: Count
    steal_ms: Count
    count: Id


class MemoryAnswer(Answer):
    """Memory in bytes."""

    total: Count
    available: Count
    free: Count
    cached: Count


class DiskAnswer(Answer):
    """The root file system, and what all disks have read and written since boot (which older agents do not say), in bytes."""

    total: Count
    free: Count
    read: Count | None = None
    written: Count | None = None


class NetworkAnswer(Answer):
    """What all network devices have received and sent since boot, in bytes."""

    received: Count | None = None
    sent: Count | None = None


class ProcessAnswer(Answer):
    """One process."""

    pid: Id
    ppid: Id
    uid: Id
    name: Annotated[bytes, Meta(max_length=4096)]
    argv: list[bytes]
    state: Annotated[str, Meta(max_length=32)]
    rss: Count
    cpu_ms: Count


class MetricsAnswer(Answer, kw_only=True):
    """Of `ReadMetrics`."""

    uptime_ms: Count
    load: tuple[Seconds, Seconds, Seconds]
    cpu: CpuAnswer
    memory: MemoryAnswer
    disk: DiskAnswer
    network: NetworkAnswer = field(default_factory=NetworkAnswer)
    processes: Count
    process_list: Annotated[list[ProcessAnswer], Meta(max_length=4096)] | None = None


class ExitAnswer(Answer):
    """How a process ended."""

    exit_code: Annotated[int, Meta(ge=0, le=255)]
    signal: Annotated[int, Meta(ge=0, le=128)] | None = None
    timed_out: bool = False
    cpu_ms: Count = 0
    max_rss: Count = 0


class DetachedAnswer(Answer):
    """A session that was started."""

    session: Annotated[str, Meta(max_length=64)]
    pid: Id


class StartedEvent(Answer):
    """A process runs."""

    kind: Literal["started"]
    pid: Id


class AttachedEvent(Answer):
    """A session is followed, its output from these offsets on."""

    kind: Literal["attached"]
    pid: Id
    stdout: Count = 0
    stderr: Count = 0


class InputAnswer(Answer):
    """Of `Input`."""

    written: Count


class SessionAnswer(Answer):
    """One session."""

    session: Annotated[str, Meta(max_length=64)]
    pid: Id
    argv: list[bytes]
    tty: bool
    started: Seconds
    running: bool
    attached: Id
    exit_code: Annotated[int, Meta(ge=0, le=255)] | None = None


class SessionsAnswer(Answer):
    """Of `ListSessions`."""

    sessions: Annotated[list[SessionAnswer], Meta(max_length=65536)]


FileKind = Literal["file", "directory", "symlink", "fifo", "socket", "char", "block", "unknown"]


class StatAnswer(Answer, kw_only=True):
    """Of `Stat`."""

    type: FileKind
    size: Count
    mode: Annotated[int, Meta(ge=0, le=0o7777)]
    uid: Id
    gid: Id
    mtime: Seconds
    nlink: Count = 1
    ino: Annotated[int, Meta(ge=0)] = 0
    target: PathBytes | None = None


class EntryAnswer(StatAnswer, kw_only=True):
    """One entry of a directory."""

    name: Name


class EntriesEvent(Answer):
    """Some of a directory's entries."""

    entries: Annotated[list[EntryAnswer], Meta(max_length=512)]


class DifferenceAnswer(Answer):
    """One file that two states do not have alike."""

    change: Literal["created", "modified", "removed"]
    path: PathBytes
    type: Literal["file", "directory", "symlink", "fifo", "socket", "char", "block", "unknown"]
    size: Count


class DifferencesEvent(Answer):
    """Some of the differences."""

    differences: Annotated[list[DifferenceAnswer], Meta(max_length=512)]


class CompareAnswer(Answer):
    """Of `Compare`."""

    truncated: bool


class ReadAnswer(Answer):
    """Of `Read`."""

    file_size: Count


class LinesAnswer(Answer):
    """Of `ReadLines`."""

    skipped: Count
    returned: Count
    left: Count
    truncated: bool = False


class WriteAnswer(Answer):
    """Of `Write`."""

    size: Count


class TreeAnswer(Answer):
    """Of `Tar`, `Untar` and `Layer`."""

    entries: Count
    bytes: Count


class ReadyEvent(Answer):
    """A watch sees everything from now on; streams can be opened."""

    kind: Literal["ready"]


class ChangeEvent(Answer):
    """Something changed."""

    kind: Literal["change"]
    type: Literal["created", "modified", "removed", "moved", "attributes", "overflow"]
    path: PathBytes
    to: PathBytes | None = None


AnswerT = TypeVar("AnswerT", bound=msgspec.Struct)
_decoders: dict[type, msgspec.msgpack.Decoder[msgspec.Struct]] = {}


def decode(payload: bytes | memoryview, answer: type[AnswerT]) -> AnswerT:
    """The structure `answer` in `payload`.

    Raises
    ------
    ProtocolError: it is not such a structure, or a value is out of bounds.
    """
    decoder = _decoders.get(answer)
    if decoder is None:
        decoder = _decoders[answer] = msgspec.msgpack.Decoder(ready(answer))
    try:
        return decoder.decode(payload)  # type: ignore[return-value]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise ProtocolError(f"the guest's answer is not a valid {answer.__name__}", cause=str(error)[:200]) from error
