"""Every error BandSox raises, in one tree.

    BandSoxError
    ├── InvalidRequest        the caller's mistake; trying again without a change cannot help
    │   ├── InvalidReference      an image reference that cannot be read
    │   ├── InvalidDockerfile     a Dockerfile that cannot be read or built
    │   ├── Conflict              not possible in the machine's present state
    │   └── RequestTooLarge       a request to a server is larger than it takes
    ├── AccessDenied          a server does not let the caller do this
    │   ├── NotAuthenticated      it does not know who is calling
    │   ├── Forbidden             it knows, and this caller may not
    │   └── TooManyRequests       the caller has to wait (retryable)
    ├── NotFound              (a FileNotFoundError) something that was named does not exist
    │   ├── VMNotFound · ImageNotFound · SnapshotNotFound · CheckpointNotFound · TemplateNotFound · KernelNotFound
    │   ├── SessionNotFound
    │   └── PythonNotFound        the image has no Python interpreter
    ├── HostError             the host cannot do it as it stands; the remedy says what to change
    │   ├── MissingTool           a program that is needed is not installed
    │   ├── Unsupported           this host, VMM or installation has no such feature
    │   ├── RequirementNotMet     `require=` asked for more than this host can give
    │   ├── CorruptSnapshot       a snapshot's files are not what was saved
    │   ├── UntrustedSnapshot     a snapshot of elsewhere is not signed by whom it has to be
    │   ├── StorageFull           no room left on the storage directory's file system
    │   ├── ServerUnavailable     a server could not be reached (retryable)
    │   └── DownloadFailed        a file from the web could not be had
    │       └── DownloadInterrupted   …because its server was not reached or broke off (retryable)
    ├── ImageError            an image could not be fetched or is broken
    │   ├── RegistryError         the registry said no, or spoke nonsense
    │   ├── RegistryUnavailable   the registry could not be reached (retryable)
    │   ├── BuildFailed           an instruction of a Dockerfile, or a command of a template's set-up, failed
    │   ├── DigestMismatch        content does not have the digest it is named by
    │   └── CorruptImage          a manifest, layer or archive that cannot be read
    ├── MachineError          a machine did not come up, or stopped
    │   ├── BootFailed            it did not reach a working agent; carries stage and console
    │   ├── MachineStopped        it is not running (any more)
    │   └── VMMError              the hypervisor refused a request
    ├── GuestError            the guest's kernel or agent answered with an error
    │   ├── GuestFileError        …about a path; ``errno_name`` as in the guest
    │   │   └── GuestFileNotFound     (a FileNotFoundError)
    │   ├── ExecFailed            a command could not be started
    │   │   └── CommandNotFound       the image has no such command
    │   ├── GuestConnectionError  (a ConnectionError) a connection to a port of the guest failed
    │   │   ├── ConnectionRefused     (a ConnectionRefusedError) nothing listens there (retryable)
    │   │   └── ConnectionReset       (a ConnectionResetError) the guest has broken it off
    │   ├── InvalidResponse       what listens on a port of the guest answered something that is not HTTP
    │   ├── LimitExceeded         there is more data than the caller allowed
    │   └── ProtocolError         the guest sent something the protocol does not allow
    ├── Timeout               (a TimeoutError) a deadline passed, and nothing was changed
    │   └── CommandTimeout        a command ran too long and was killed with all it had started
    └── OutcomeUnknown        the connection was lost after the request was sent: it may have happened

Each class has a stable ``code`` for programs. Each instance has a ``message`` that says what happened,
a ``cause`` where it is known, a ``remedy`` where there is one, and ``retryable``: whether the same
call may succeed later without anything being changed.
"""

from __future__ import annotations

from typing import Any, ClassVar


class BandSoxError(Exception):
    """Base of every error of this package.

    Parameters
    ----------
    message: what happened, in one sentence.
    cause: the likely reason, in one sentence.
    remedy: what the reader can do about it: a command where there is one.
    detail: further facts for programs, JSON-representable.
    """

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False
    exit_status: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        cause: str | None = None,
        remedy: str | None = None,
        detail: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.cause = cause
        self.remedy = remedy
        self.detail: dict[str, Any] = detail or {}

    def __str__(self) -> str:
        lines = [self.message]
        if self.cause:
            lines.append(f"cause: {self.cause}")
        if self.remedy:
            lines.append(f"remedy: {self.remedy}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The error as ``{code, message, cause, remedy, retryable, detail}``, as ``--json`` and REST give it."""
        return {
            "code": self.code,
            "message": self.message,
            "cause": self.cause,
            "remedy": self.remedy,
            "retryable": self.retryable,
            "detail": self.detail,
        }


# ── the caller's mistake ────────────────────────────────────────────────────────────────────────


class InvalidRequest(BandSoxError, ValueError):
    """A parameter has a value that can never work."""

    code = "invalid_request"
    exit_status = 2


class InvalidReference(InvalidRequest):
    """An image reference that cannot be read."""

    code = "invalid_reference"


class InvalidDockerfile(InvalidRequest):
    """A Dockerfile that cannot be read, or uses an instruction that cannot be honoured."""

    code = "invalid_dockerfile"


class Conflict(InvalidRequest):
    """The operation does not fit the present state, such as ``pause`` of a stopped machine."""

    code = "conflict"
    exit_status = 1


class RequestTooLarge(InvalidRequest):
    """A request to a server is larger than it takes."""

    code = "request_too_large"


# ── access to a server ──────────────────────────────────────────────────────────────────────────


class AccessDenied(BandSoxError):
    """A server does not let the caller do what was asked."""

    code = "access_denied"


class NotAuthenticated(AccessDenied):
    """The server does not know who is calling: no key, or one that is wrong, expired or revoked."""

    code = "not_authenticated"


class Forbidden(AccessDenied):
    """The server knows who is calling, and that caller may not do this."""

    code = "forbidden"


class TooManyRequests(AccessDenied):
    """The caller has asked too often, and has to wait; ``detail`` says how many seconds (``retry_after``)."""

    code = "too_many_requests"
    retryable = True


# ── something that is not there ─────────────────────────────────────────────────────────────────


class NotFound(BandSoxError, FileNotFoundError):
    """Something that was named does not exist."""

    code = "not_found"
    exit_status = 1


class VMNotFound(NotFound):
    """No machine has this id or name."""

    code = "vm_not_found"


class ImageNotFound(NotFound):
    """Neither this storage directory nor the registry has the image."""

    code = "image_not_found"


class SnapshotNotFound(NotFound):
    """No snapshot has this id or name."""

    code = "snapshot_not_found"


class CheckpointNotFound(NotFound):
    """The machine has no checkpoint with this label."""

    code = "checkpoint_not_found"


class TemplateNotFound(NotFound):
    """No template has this id."""

    code = "template_not_found"


class KernelNotFound(NotFound):
    """The guest kernel that was asked for does not exist."""

    code = "kernel_not_found"


class SessionNotFound(NotFound):
    """The guest has no session with this id."""

    code = "session_not_found"


class PythonNotFound(NotFound):
    """The image has no Python interpreter on its PATH."""

    code = "python_not_found"


# ── the host ────────────────────────────────────────────────────────────────────────────────────


class HostError(BandSoxError):
    """The host cannot do it as it stands."""

    code = "host_error"


class MissingTool(HostError):
    """A program BandSox needs is not installed; the remedy is the command that installs it."""

    code = "missing_tool"


class Unsupported(HostError):
    """This host, VMM or installation has no such feature."""

    code = "unsupported"


class RequirementNotMet(HostError):
    """``require=`` asks for more than this host can give."""

    code = "requirement_not_met"


class CorruptSnapshot(HostError):
    """A file of a snapshot is missing, or does not have the content that was saved."""

    code = "corrupt_snapshot"


class UntrustedSnapshot(HostError):
    """A snapshot of elsewhere is not signed by anybody from whom one is taken here."""

    code = "untrusted_snapshot"


class StorageFull(HostError):
    """There is no room left on the storage directory's file system."""

    code = "storage_full"


class ServerUnavailable(HostError):
    """A BandSox server could not be reached, and the request was not sent."""

    code = "server_unavailable"
    retryable = True


class DownloadFailed(HostError):
    """A file from the web could not be had: its server refuses, or it is not what it should be."""

    code = "download_failed"


class DownloadInterrupted(DownloadFailed):
    """The server of a file could not be reached, or broke off too often."""

    code = "download_interrupted"
    retryable = True


# ── images ──────────────────────────────────────────────────────────────────────────────────────


class ImageError(BandSoxError):
    """An image could not be fetched or is broken."""

    code = "image_error"


class RegistryError(ImageError):
    """The registry refused the request or answered outside its specification."""

    code = "registry_error"


class RegistryUnavailable(ImageError):
    """The registry could not be reached, or broke off too often."""

    code = "registry_unavailable"
    retryable = True


class BuildFailed(ImageError):
    """An instruction of a Dockerfile, or a command of a template's set-up, failed; the end of what it printed is told."""

    code = "build_failed"


class DigestMismatch(ImageError):
    """Content does not have the digest it is named by."""

    code = "digest_mismatch"


class CorruptImage(ImageError):
    """A manifest, layer, archive or root file system that cannot be read."""

    code = "corrupt_image"


# ── machines ────────────────────────────────────────────────────────────────────────────────────


class MachineError(BandSoxError):
    """A machine did not come up, or stopped."""

    code = "machine_error"


class BootFailed(MachineError):
    """A machine did not reach a working agent.

    ``stage`` is the last stage it entered (``spawn``, ``kernel``, ``modules``, ``root``, ``overlay``, ``switch``,
    ``link``, ``setup``; ``resume`` for one that was to go on from a snapshot); ``console`` the tail of what it printed.
    """

    code = "boot_failed"

    def __init__(self, message: str, *, stage: str, console: str, cause: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message, cause=cause, remedy=remedy, detail={"stage": stage, "console": console})
        self.stage = stage
        self.console = console

    def __str__(self) -> str:
        text = super().__str__()
        if self.console.strip():
            tail = "\n".join("  | " + line for line in self.console.splitlines()[-15:])
            text += f"\nconsole:\n{tail}"
        return text


class MachineStopped(MachineError):
    """The machine is not running, or stopped in the middle of the operation."""

    code = "machine_stopped"


class VMMError(MachineError):
    """The hypervisor refused a request; the message is the hypervisor's own."""

    code = "vmm_error"


# ── the guest ───────────────────────────────────────────────────────────────────────────────────


class GuestError(BandSoxError):
    """The guest's kernel or agent answered with an error."""

    code = "guest_error"


class GuestFileError(GuestError, OSError):
    """An operation on a guest's file failed; ``guest_code`` is the protocol's code, such as ``not_found``."""

    code = "guest_file_error"

    def __init__(self, message: str, *, guest_code: str, errno_name: str | None, path: str | None, remedy: str | None = None) -> None:
        detail = {"guest_code": guest_code, "errno": errno_name, "path": path}
        super().__init__(message, remedy=remedy, detail=detail)
        self.guest_code = guest_code
        self.errno_name = errno_name
        self.path = path


class GuestFileNotFound(GuestFileError, FileNotFoundError):
    """The guest has no such file or directory."""

    code = "guest_file_not_found"


class ExecFailed(GuestError):
    """A command could not be started in the guest."""

    code = "exec_failed"
    exit_status = 126


class CommandNotFound(ExecFailed):
    """The image has no such command."""

    code = "command_not_found"
    exit_status = 127


class GuestConnectionError(GuestError, ConnectionError):
    """A connection to a port of the guest did not come about, or failed."""

    code = "connection_failed"


class ConnectionRefused(GuestConnectionError, ConnectionRefusedError):
    """Nothing listens on this port of the guest."""

    code = "connection_refused"
    retryable = True


class ConnectionReset(GuestConnectionError, ConnectionResetError):
    """The program in the guest has broken the connection off."""

    code = "connection_reset"


class InvalidResponse(GuestError):
    """What listens on a port of the guest answered something that is not HTTP, or broke off in the middle of it."""

    code = "invalid_response"


class LimitExceeded(GuestError):
    """The guest has more data than the caller's bound allows; it was not taken."""

    code = "limit_exceeded"


class ProtocolError(GuestError):
    """The guest sent something the protocol does not allow; its connection was closed."""

    code = "protocol_error"


# ── time and doubt ──────────────────────────────────────────────────────────────────────────────


class Timeout(BandSoxError, TimeoutError):
    """A deadline passed, and nothing was changed."""

    code = "timeout"
    retryable = True
    exit_status = 124


class CommandTimeout(Timeout):
    """A command ran longer than its ``timeout`` and was killed with all it had started."""

    code = "command_timeout"
    retryable = False


class OutcomeUnknown(BandSoxError):
    """The connection was lost after the request was sent: the operation may or may not have happened."""

    code = "outcome_unknown"
