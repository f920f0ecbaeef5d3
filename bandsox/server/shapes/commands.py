"""Commands and sessions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bandsox.server.shapes.base import Environment, Given, Seconds, Shape


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
    window: int | None = Field(None, description="in bytes, how much output may be under way to a client that says what it has taken")


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
