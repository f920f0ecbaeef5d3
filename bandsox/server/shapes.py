"""What requests and answers look like: the models of the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bandsox.settings import DEFAULT_IMAGE

_ID = "9f86d081884c7d65"


class Shape(BaseModel):
    """Base of what callers send: a field that does not exist is a mistake, and said to be one."""

    model_config = ConfigDict(extra="forbid", str_max_length=1 << 20)


class Given(BaseModel):
    """Base of what they get."""

    model_config = ConfigDict(extra="allow")


Seconds = Annotated[float, Field(gt=0, lt=1e9)]
Environment = dict[str, str]


class Failure(Given):
    """Why a request failed."""

    code: str = Field(description="stable, for programs", examples=["vm_not_found"])
    message: str = Field(examples=["no VM has the id or name 'dev'"])
    cause: str | None = None
    remedy: str | None = Field(None, examples=["see `bandsox vm list`"])
    retryable: bool = Field(False, description="whether the same request may succeed later")
    detail: dict[str, Any] = Field(default_factory=dict)


class Status(Given):
    """That something was done."""

    status: str = Field(examples=["stopped"])


# ── machines ────────────────────────────────────────────────────────────────────────────────────


class NewVM(Shape):
    """A VM to be made. As the parameters of `create_vm`."""

    image: str = Field(DEFAULT_IMAGE, min_length=1, examples=["python:3-alpine"])
    name: str | None = Field(None, description="unique; made up when absent", examples=["dev"])
    vcpu: int = Field(1, ge=1, le=1024)
    mem_mib: int = Field(128, ge=1, le=1 << 24)
    disk_size_mib: int = Field(4096, ge=0, le=1 << 30, description="0 keeps what the VM writes in its memory")
    enable_networking: bool | None = None
    enable_vsock: bool = True
    force_rebuild: bool = Field(False, description="look at the registry even when the image is here")
    env_vars: Environment | None = Field(None, examples=[{"LANG": "C.UTF-8"}])
    metadata: dict[str, Any] | None = Field(None, examples=[{"team": "web"}])
    mcp: dict[str, Any] | None = None
    dns: list[str] = Field([], max_length=3, description="addresses of name servers")
    vmm: str | None = Field(None, examples=["qemu"])
    disk_bandwidth_mbps: float | None = Field(None, gt=0)
    disk_iops: int | None = Field(None, ge=1)
    network_bandwidth_mbps: float | None = Field(None, gt=0, description="in each direction; Firecracker only, as the next two")
    balloon_mib: int | None = Field(None, ge=0, le=1 << 24, description="what a balloon takes from its memory at first")
    mmds: dict[str, Any] | None = Field(None, description="what its metadata service (version 2) says")
    confinement: str | None = Field(None, examples=["namespaces"])
    ttl: Seconds | None = Field(None, description="how many seconds it may run")
    idle_timeout: Seconds | None = Field(None, description="how many seconds it may run while nothing is done in it")
    on_expiry: Literal["delete", "stop", "pause"] = Field("delete", description="what becomes of it then")
    auto_resume: bool = Field(False, description="when it is paused, it goes on at the next operation on its guest")


class CreatedVM(Given):
    """A VM that was made, and runs."""

    id: str = Field(examples=[_ID])
    status: Literal["created"] = "created"
    name: str = Field(examples=["dev"])


class Port(Given):
    """A port of the server's host that leads to one of a VM."""

    guest_port: int
    host_port: int
    host: str = Field(examples=["127.0.0.1"])
    url: str = Field(examples=["http://127.0.0.1:8080"])


class VM(Given):
    """All that is known of a VM."""

    id: str = Field(examples=[_ID])
    name: str = Field(examples=["dev"])
    image: str = Field(examples=["python:3-alpine"])
    vcpu: int
    mem_mib: int
    disk_size_mib: int
    rootfs_path: str
    network_config: dict[str, Any] | None
    vsock_config: dict[str, Any] | None
    created_at: float = Field(description="seconds since the epoch")
    status: Literal["creating", "running", "paused", "stopped", "dead"]
    pid: int | None
    env_vars: Environment
    mcp: dict[str, Any] | None
    metadata: dict[str, Any]
    agent_ready: bool
    restored_from: str | None
    image_id: str
    vmm: str
    vmm_version: str
    accelerator: str
    accelerator_reason: str
    isolation: str
    confinement: str
    confinement_reason: str
    transport: str
    balloon_mib: int | None
    ports: list[Port]
    expires_at: float | None
    idle_timeout: float | None
    on_expiry: str
    auto_resume: bool


class NewName(Shape):
    """Another name."""

    name: str = Field(min_length=1, examples=["dev-2"])


class Renamed(Given):
    """The name it has now."""

    status: Literal["renamed"] = "renamed"
    name: str


class NewMetadata(Shape):
    """Metadata in the place of what is there."""

    metadata: dict[str, Any] = Field(examples=[{"team": "web"}])


class WantedStatus(Shape):
    """A status to bring a VM into."""

    status: Literal["running", "paused", "stopped"]


class Console(Given):
    """What a VM has printed on its console since it was started, at most the first 256 KiB."""

    console: str


# ── commands ────────────────────────────────────────────────────────────────────────────────────


class Command(Shape):
    """A command: `command` for the image's shell, or `argv` as it is."""

    command: str | None = Field(None, examples=["echo hello"])
    argv: list[str] | None = Field(None, min_length=1, examples=[["ls", "-l", "/"]])
    timeout: Seconds | None = Field(30, description="seconds after which it is killed with all it has started; null: never")
    env: Environment | None = None
    cwd: str | None = Field(None, examples=["/srv"])
    user: str | None = Field(None, examples=["daemon"])


class Run(Command):
    """A command to be run to its end."""

    stdin: str | None = Field(None, description="what it reads, as text")


class Ran(Given):
    """How a command ended. What is not UTF-8 in its output appears as U+FFFD; MessagePack has every byte."""

    exit_code: int = Field(examples=[0], description="128 + signal where a signal ended it")
    stdout: str = Field(examples=["hello\n"])
    stderr: str = Field(examples=[""])
    signal: int | None = None
    timed_out: bool = False
    cpu_ms: int = 0
    max_rss: int = 0


class Python(Shape):
    """Python code to be run."""

    code: str = Field(examples=["print(6 * 7)"])
    cwd: str = "/tmp"  # noqa: S108 — the guest's
    packages: list[str] | None = None
    timeout: Seconds | None = 60
    cleanup_venv: bool = True


class PythonRan(Given):
    """How the code ended. `output` is both streams in the order in which they came; a timeout is the exit code 124."""

    exit_code: int = Field(examples=[0])
    stdout: str = Field(examples=["42\n"])
    stderr: str
    output: str
    success: bool
    error: str | None


class Terminal(Shape):
    """The size of a terminal in characters."""

    cols: int = Field(80, ge=1, le=65535)
    rows: int = Field(24, ge=1, le=65535)


class LiveCommand(Command):
    """A command to be run over a WebSocket: the first frame."""

    timeout: float | None = None
    tty: Terminal | None = None
    stdin: bool = False
    format: Literal["text", "binary"] = "text"


class NewSession(Command):
    """A command that goes on until it ends or is killed, whoever looks on."""

    timeout: Seconds | None = None
    id: str | None = Field(None, pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="made up when absent")
    tty: Terminal | None = None
    stdin: bool = Field(True, description="whether it reads what is sent to it")


class StartedSession(Given):
    """A session that was started."""

    id: str
    pid: int


class Session(Given):
    """A session, perhaps one that ended lately."""

    id: str
    pid: int
    argv: list[str]
    tty: bool
    started: float
    running: bool
    exit_code: int | None
    attached: int


class SignalNumber(Shape):
    """A signal for a session's process group."""

    signal: int = Field(ge=1, le=64, examples=[15])


# ── files ───────────────────────────────────────────────────────────────────────────────────────


class FileContent(Given):
    """A file as text."""

    path: str
    content: str


class NewContent(Shape):
    """Content for a file."""

    path: str = Field(examples=["/srv/hello.txt"])
    content: str = Field(examples=["hello\n"])
    encoding: Literal["utf-8", "base64"] | None = Field(None, description="of `content`; utf-8 when absent")
    append: bool = False


class Written(Given):
    """A file that was written."""

    status: str = Field(examples=["written"])
    path: str
    size: int = Field(description="how many bytes were written")


class Info(Given):
    """A file: its size in bytes, its mode in octal, its time of modification."""

    size: int
    mode: str = Field(examples=["0o644"])
    mtime: float


class FileInfo(Given):
    """What a file is."""

    path: str
    info: Info


class ListedFile(Given):
    """One entry of a directory."""

    name: str
    path: str
    size: int
    is_dir: bool
    is_file: bool
    mtime: float
    mode: str
    type: str


class Listing(Given):
    """The entries of a directory, by name."""

    path: str
    files: list[ListedFile]


class NewDirectory(Shape):
    """A directory to be made."""

    path: str
    parents: bool = True


class Move(Shape):
    """Another name for a file."""

    path: str
    to: str


class NewMode(Shape):
    """Permission bits for a file."""

    path: str
    mode: int = Field(ge=0, le=0o7777)
    recursive: bool = False


class Tree(Given):
    """A tree that was unpacked."""

    entries: int
    bytes: int
    refused: int = 0


# ── images ──────────────────────────────────────────────────────────────────────────────────────


class Pull(Shape):
    """An image to be fetched."""

    reference: str = Field(min_length=1, examples=["python:3-alpine"])
    policy: Literal["missing", "always", "never"] = "always"


class Tag(Shape):
    """A further name for an image."""

    reference: str = Field(min_length=1)
    name: str = Field(min_length=1)


class ImageInfo(Given):
    """An image that is here."""

    id: str
    references: list[str]
    size: int
    architecture: str
    created_at: float


# ── authentication ──────────────────────────────────────────────────────────────────────────────


class Login(Shape):
    """The password."""

    password: str = Field(max_length=1024)


class LoggedIn(Given):
    """A session's token, which is in a cookie as well."""

    status: Literal["ok"] = "ok"
    token: str


class Authenticated(Given):
    """Whether the caller is known."""

    authenticated: bool
    auth_enabled: bool


class QuotaShape(Shape):
    """How much a key's VMs may have, all together. Null: no limit."""

    vms: int | None = Field(default=None, ge=0)
    vcpu: int | None = Field(default=None, ge=0)
    mem_mib: int | None = Field(default=None, ge=0)
    disk_mib: int | None = Field(default=None, ge=0)
    creates_per_minute: int | None = Field(default=None, ge=0)


class NewKeyShape(Shape):
    """A key to be made."""

    name: str = Field(min_length=1, max_length=128, examples=["ci"])
    scopes: list[Literal["read", "exec", "admin"]] = Field(["admin"], min_length=1)
    expires_in: Seconds | None = Field(None, description="seconds")
    prefix: str = Field("", max_length=64, description="what the names of all VMs begin with that exist for it")
    quotas: QuotaShape = QuotaShape()


class CreatedKey(Given):
    """A key, which is never shown again."""

    key_id: str = Field(examples=["bsx_k_1f2e3d4c"])
    key: str = Field(examples=["bsx_…"])
    name: str


class KeyInfo(Given):
    """What is known of a key."""

    id: str
    name: str
    created_at: float
    last_used_at: float | None
    expires_at: float | None
    scopes: list[str]
    prefix: str
    quotas: QuotaShape
