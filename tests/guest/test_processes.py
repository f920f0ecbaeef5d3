"""Commands and sessions, with the real agent."""

from __future__ import annotations

import asyncio
import secrets
import signal
from typing import Any

import pytest

from bandsox.errors import CommandNotFound, CommandTimeout, Conflict, ExecFailed, InvalidRequest, LimitExceeded, SessionNotFound
from bandsox.guest import GuestClient

pytestmark = pytest.mark.anyio


async def test_a_command(guest: GuestClient) -> None:
    result = await guest.run(argv=["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (result.exit_code, result.stdout, result.stderr, result.signal) == (3, b"out\n", b"err\n", None)


async def test_arguments_and_environment_are_bytes(guest: GuestClient) -> None:
    argument = b"\xff '\"\n$HOME;\x1b"
    result = await guest.run(shell=b'printf %s "$1$VALUE"'.replace(b"$1", b""), env={"VALUE": "ä\n'\udcff"})
    assert result.stdout == "ä\n'".encode() + b"\xff"
    assert (await guest.run(argv=["printf", "%s", argument])).stdout == argument


async def test_environment_directory_and_streams(guest: GuestClient) -> None:
    result = await guest.run(argv=["/usr/bin/env"], env={"A": "1"}, clear_env=True)
    assert b"A=1\n" in result.stdout and b"HOME" not in result.stdout
    assert (await guest.run(argv=["pwd"], cwd="/usr")).stdout == b"/usr\n"
    assert (await guest.run(shell="echo a; echo b >&2", merge_stderr=True)).stdout == b"a\nb\n"


@pytest.mark.parametrize("size", [0, 1, 256 << 10, 3_000_001])
async def test_input_goes_in_and_comes_out_again_whole(guest: GuestClient, size: int) -> None:
    data = secrets.token_bytes(size)
    result = await guest.run(argv=["cat"], stdin=data)
    assert result.stdout == data


async def test_output_on_both_streams_is_complete(guest: GuestClient) -> None:
    script = "for i in 1 2 3; do head -c 1000000 /dev/zero; head -c 1000000 /dev/zero | tr '\\0' x >&2; done"
    result = await guest.run(shell=script)
    assert result.stdout == bytes(3_000_000)
    assert result.stderr == b"x" * 3_000_000


async def test_a_command_that_ends_without_reading_its_input(guest: GuestClient) -> None:
    result = await guest.run(argv=["true"], stdin=bytes(10_000_000))
    assert result.exit_code == 0


async def test_a_command_that_a_signal_ended(guest: GuestClient) -> None:
    result = await guest.run(shell="kill -9 $$")
    assert (result.exit_code, result.signal) == (137, 9)


async def test_commands_that_cannot_be_started(guest: GuestClient) -> None:
    with pytest.raises(CommandNotFound):
        await guest.run(argv=["no-such-command"])
    with pytest.raises(ExecFailed):
        await guest.run(argv=["/etc/passwd"])
    with pytest.raises(ExecFailed):
        await guest.run(argv=["true"], cwd="/no/such/directory")
    with pytest.raises(ExecFailed):
        await guest.run(argv=["true"], user="no-such-user")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"argv": []},
        {"argv": ["a"], "shell": "b"},
        {"argv": ["a\0b"]},
        {"argv": ["a"], "cwd": "relative"},
        {"argv": ["a"], "timeout": 0},
        {"argv": ["a"], "timeout": float("nan")},
        {"argv": ["a"], "env": {"A=B": "c"}},
        {"argv": ["a" * 2_000_000]},
    ],
)
async def test_a_command_that_can_never_work(guest: GuestClient, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        await guest.run(**options)


async def test_a_timeout_kills_the_command_and_what_it_started(guest: GuestClient) -> None:
    mark = f"86{secrets.randbelow(10**6):06}"
    for timeout in (0.2, 1, 5, 25):  # until the shell had the time to begin
        with pytest.raises(CommandTimeout) as failure:
            await guest.run(shell=f"echo begun; sleep {mark} & sleep {mark}", timeout=timeout)
        if failure.value.detail["stdout"]:
            break
    assert failure.value.detail["stdout"] == "begun\n"
    assert mark.encode() not in (await guest.run(shell="cat /proc/[0-9]*/cmdline | tr '\\0' ' '", env={})).stdout.replace(b"cat", b"")


async def test_more_output_than_allowed_kills_the_command(guest: GuestClient) -> None:
    with pytest.raises(LimitExceeded):
        await guest.run(argv=["cat", "/dev/zero"], max_output=1_000_000)


async def test_cancelling_kills_the_command(guest: GuestClient) -> None:
    mark = f"87{secrets.randbelow(10**6):06}"
    execution = await guest.execute(shell=f"echo ready; exec sleep {mark}")
    async with execution:
        await execution.__anext__()
        waiting = asyncio.create_task(execution.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    gone = await guest.run(shell=f"while [ -e /proc/{execution.pid} ]; do :; done", timeout=60)
    assert gone.exit_code == 0


async def test_a_conversation(guest: GuestClient) -> None:
    async with await guest.execute(argv=["cat"], stdin=True) as cat:
        for line in (b"one\n", b"two\n"):
            await cat.write(line)
            assert await cat.__anext__() == ("stdout", line)
        await cat.close_stdin()
        assert (await cat.wait()).exit_code == 0
        with pytest.raises(StopAsyncIteration):
            await cat.__anext__()


async def test_input_and_output_at_once_in_two_tasks(guest: GuestClient) -> None:
    data = secrets.token_bytes(5_000_000)
    async with await guest.execute(argv=["cat"], stdin=True) as cat:

        async def feed() -> None:
            await cat.write(data)
            await cat.close_stdin()

        feeding = asyncio.create_task(feed())
        received = b"".join([piece async for _, piece in cat])
        await feeding
    assert received == data


async def test_a_signal(guest: GuestClient) -> None:
    async with await guest.execute(shell="trap 'echo caught; exit 5' USR1; echo ready; while :; do :; done") as running:
        assert await running.__anext__() == ("stdout", b"ready\n")
        await running.signal(signal.SIGUSR1)
        assert await running.__anext__() == ("stdout", b"caught\n")
        assert (await running.wait()).exit_code == 5


async def test_a_terminal_and_its_size(guest: GuestClient) -> None:
    async with await guest.execute(shell="stty size; read x; stty size", tty=(101, 31), stdin=True) as terminal:
        text = b""
        while b"31 101" not in text:
            text += (await terminal.__anext__())[1]
        await terminal.resize(120, 40)
        await terminal.write(b"\n")
        text = b"".join([piece async for _, piece in terminal])
        assert b"40 120" in text
        assert (await terminal.wait()).exit_code == 0


async def test_a_slow_reader_stalls_nobody_and_loses_nothing(guest: GuestClient) -> None:
    async with await guest.execute(argv=["head", "-c", "20000000", "/dev/zero"]) as unread:
        await asyncio.gather(*(guest.run(argv=["true"]) for _ in range(10)))
        assert sum([len(piece) async for _, piece in unread]) == 20_000_000


async def test_a_closed_execution_says_so(guest: GuestClient) -> None:
    execution = await guest.execute(argv=["cat"], stdin=True)
    await execution.aclose()
    with pytest.raises(Conflict):
        await execution.wait()
    with pytest.raises(Conflict):
        await execution.write(b"x")
    with pytest.raises(Conflict):
        await execution.signal(9)


async def test_many_commands_at_once(guest: GuestClient) -> None:
    results = await asyncio.gather(*(guest.run(argv=["echo", str(number)]) for number in range(100)))
    assert [result.stdout for result in results] == [b"%d\n" % number for number in range(100)]


# ── sessions ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def session() -> str:
    return f"test-{secrets.token_hex(4)}"


async def test_a_session_outlives_those_who_follow_it(guest: GuestClient, session: str) -> None:
    pid = await guest.start_session(session, shell="while read line; do echo got $line; done; exit 4")
    assert await guest.send_input(session, b"one\n") == 4
    async with await guest.attach_session(session) as first:
        assert first.pid == pid
        assert await first.__anext__() == ("stdout", b"got one\n")
        offsets = first.offsets
    await guest.send_input(session, b"two\n")
    async with await guest.attach_session(session, stdout=offsets["stdout"], stderr=offsets["stderr"]) as second:
        assert await second.__anext__() == ("stdout", b"got two\n")
        await second.write(b"three\n")
        assert await second.__anext__() == ("stdout", b"got three\n")
        await second.close_stdin()
        assert (await second.wait()).exit_code == 4
    async with await guest.attach_session(session, input=False) as replay:
        assert b"".join([piece async for _, piece in replay]) == b"got one\ngot two\ngot three\n"
    (info,) = [known for known in await guest.list_sessions() if known.id == session]
    assert (info.pid, info.running, info.exit_code, info.attached) == (pid, False, 4, 0)
    await guest.forget_session(session)
    with pytest.raises(SessionNotFound):
        await guest.attach_session(session)


async def test_sessions_are_listed_in_the_order_in_which_they_were_started(guest: GuestClient, session: str) -> None:
    wanted = [f"{session}-{name}" for name in "hgfedcba"]
    for name in wanted:
        await guest.start_session(name, shell=":")
    assert [known.id for known in await guest.list_sessions() if known.id in wanted] == wanted


async def test_much_input_to_a_session(guest: GuestClient, session: str) -> None:
    await guest.start_session(session, shell="wc -c")
    assert await guest.send_input(session, bytes(2_000_000), close=True) == 2_000_000
    async with await guest.attach_session(session) as counting:
        assert b"".join([piece async for _, piece in counting]).strip() == b"2000000"


async def test_signals_and_resizes_to_a_session(guest: GuestClient, session: str) -> None:
    await guest.start_session(session, shell="trap 'stty size' WINCH; echo ready; while :; do sleep 0.01; done", tty=(80, 24))
    async with await guest.attach_session(session) as following:
        while b"ready" not in (await following.__anext__())[1]:
            pass
        await guest.resize_session(session, 90, 25)
        assert b"25 90" in (await following.__anext__())[1]
        await guest.signal_session(session, signal.SIGKILL)
        assert (await following.wait()).signal == signal.SIGKILL


async def test_sessions_that_do_not_exist(guest: GuestClient) -> None:
    for operation in (
        guest.attach_session("none"),
        guest.send_input("none", b"x"),
        guest.signal_session("none", 9),
        guest.resize_session("none", 1, 1),
        guest.forget_session("none"),
    ):
        with pytest.raises(SessionNotFound):
            await operation
    with pytest.raises(InvalidRequest):
        await guest.start_session("../none", argv=["true"])


async def test_input_that_nobody_reads_ends_with_its_timeout(guest: GuestClient, session: str) -> None:
    await guest.start_session(session, argv=["sleep", "1000"])
    with pytest.raises(Exception, match="in time"):
        await asyncio.wait_for(guest.send_input(session, bytes(1_000_000), timeout=0.2), 60)
    await guest.signal_session(session, signal.SIGKILL)
