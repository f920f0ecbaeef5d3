"""What happens is told, whichever process does it: the journal, the feed, and the streams made of it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from bandsox import AsyncBandSox, BandSox
from bandsox.models import Change, VMRecord, VMStatus
from bandsox.process import ProcessId
from bandsox.server.auth import keys
from bandsox.server.auth.file import AuthFile
from bandsox.settings import Layout
from bandsox.store import Changes, Database
from tests.server.servers import STOPPED, Server, serving

_IMAGE = "INSERT INTO images VALUES (?, 'a', 'b', 1, 1, '{}')"


def write(database: Path, *images: str) -> None:
    """Have another process record images."""
    script = "import sqlite3, sys\nfor each in sys.argv[2:]:\n with sqlite3.connect(sys.argv[1]) as c: c.execute({!r}, (each,))"
    subprocess.run([sys.executable, "-c", script.format(_IMAGE), str(database), *images], check=True)


def test_every_change_of_the_store_is_in_the_journal_in_order(tmp_path: Path) -> None:
    with BandSox(tmp_path) as bandsox:
        journal = Changes(Database(bandsox._async.engine.layout.database))
        with journal._database.transaction() as connection:
            connection.execute(_IMAGE, ("sha256:1",))
            connection.execute("INSERT INTO image_references VALUES ('one', 'sha256:1', NULL)")
            connection.execute("DELETE FROM images")
        with contextlib.suppress(RuntimeError), journal._database.transaction() as connection:
            connection.execute(_IMAGE, ("sha256:2",))
            raise RuntimeError  # what is not done is not told
        told = journal.after(0)
        assert [(each.id, each.kind, each.name) for each in told] == [
            (1, "image.created", ""),
            (2, "image.named", "one"),
            (3, "image.unnamed", "one"),
            (4, "image.deleted", ""),
        ]
        assert all(each.subject == "sha256:1" for each in told)


def test_the_journal_is_bounded_and_says_what_it_has_lost(tmp_path: Path) -> None:
    async def first(after: int) -> Change:
        async with AsyncBandSox(tmp_path) as bandsox, bandsox.feed.following(after) as (_, changes):
            return await anext(changes)

    with BandSox(tmp_path) as bandsox, Database(bandsox._async.engine.layout.database).transaction() as connection:
        for number in range(10_050):
            connection.execute(_IMAGE, (str(number),))
    with BandSox(tmp_path) as bandsox:
        journal = Changes(Database(bandsox._async.engine.layout.database))
        assert (journal.last(), journal.after(0)[0].id) == (10_050, 51)
    lost = asyncio.run(first(0))
    assert (lost.kind, lost.id) == ("lost", 50)
    assert asyncio.run(first(50)).id == 51
    assert asyncio.run(first(99_999)).kind == "lost", "a number of another journal"


def test_what_other_processes_do_is_told_to_all_who_follow(tmp_path: Path) -> None:
    async def follow() -> list[list[str]]:
        async with AsyncBandSox(tmp_path) as bandsox:
            async with bandsox.feed.following() as (_, one), bandsox.feed.following() as (_, other):
                await asyncio.to_thread(write, bandsox.engine.layout.database, "1", "2", "3")
                told = [[(await anext(each)).subject for _ in range(3)] for each in (one, other)]
            assert not [task for task in asyncio.all_tasks() if task.get_name() == "changes"], "nobody follows any more"
            return told

    assert asyncio.run(follow()) == [["1", "2", "3"]] * 2


def test_a_vmm_that_ends_by_itself_is_told_once_however_many_follow(tmp_path: Path) -> None:
    """The journal has one entry, and the record says it, with several feeds of one storage directory at once."""

    async def follow() -> list[str | None]:
        async with AsyncExitStack() as stack:
            one, other = [await stack.enter_async_context(AsyncBandSox(tmp_path)) for _ in range(2)]
            async with one.feed.following() as (_, changes), other.feed.following() as (_, more):
                vmm = subprocess.Popen(["sleep", "1000"])
                process = ProcessId.of(vmm.pid)
                assert process is not None
                record = of_process(process)
                one.engine.layout.vm(record.id).mkdir()
                one.engine.vms.insert(record)
                one.engine.vms.update(record.id, status=VMStatus.RUNNING)
                assert [(await anext(changes)).status for _ in range(2)] == ["creating", "running"]
                assert [(await anext(more)).status for _ in range(2)] == ["creating", "running"]
                vmm.kill()
                assert [(await anext(each)).status for each in (changes, more)] == ["dead", "dead"]
                one.engine.vms.delete(record.id)
                return [(await anext(each)).kind for each in (changes, more)]

    assert asyncio.run(follow()) == ["vm.deleted"] * 2


def of_process(process: ProcessId) -> VMRecord:
    """A machine whose VMM is this process."""
    return dataclasses.replace(STOPPED, id="0123456789abcdef", status=VMStatus.CREATING, pid=process.pid, pid_start=process.start)


def test_many_changes_in_a_burst_are_all_told_in_order(tmp_path: Path) -> None:
    async def follow() -> list[int]:
        async with AsyncBandSox(tmp_path) as bandsox, bandsox.feed.following() as (_, changes):
            names = [str(number) for number in range(1000)]
            writing = asyncio.create_task(asyncio.to_thread(write, bandsox.engine.layout.database, *names))
            told = [int((await anext(changes)).subject) for _ in names]
            await writing
            return told

    assert asyncio.run(follow()) == list(range(1000))


def test_a_writer_that_is_killed_in_the_middle_is_no_change_and_no_obstacle(tmp_path: Path) -> None:
    script = """
import os, signal, sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("PRAGMA cache_size = 1"); c.execute("BEGIN IMMEDIATE")
for each in range(3000): c.execute("INSERT INTO images VALUES (?, 'a', 'b', 1, 1, '{}')", (str(each),))
os.kill(os.getpid(), signal.SIGKILL)
"""

    async def follow() -> str:
        async with AsyncBandSox(tmp_path) as bandsox, bandsox.feed.following() as (_, changes):
            database = bandsox.engine.layout.database
            killed = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(database))
            assert await killed.wait() == -signal.SIGKILL
            await asyncio.to_thread(write, database, "whole")
            return (await anext(changes)).subject

    assert asyncio.run(follow()) == "whole"


def lines(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in answer.iter_lines() if line)


def test_the_life_of_a_machine_is_told_over_http(http: httpx.Client, bandsox: BandSox) -> None:
    with http.stream("GET", "/api/events") as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        told = lines(answer)
        hello = next(told)
        assert hello["type"] == "hello"
        with bandsox.create_vm(mem_mib=256, metadata={"a": 1}) as vm:  # another process than the server
            bandsox.rename_vm(vm.vm_id, f"renamed-{vm.vm_id}")
            bandsox.update_vm_metadata(vm.vm_id, {"a": 2})
            os.kill(vm.process.pid, signal.SIGKILL)
            mine = (each for each in told if each["subject"] == vm.vm_id)
            kinds = [(each["type"], each["status"]) for each in itertools.islice(mine, 5)]
        assert kinds == [
            ("vm.created", "creating"),
            ("vm.status", "running"),
            ("vm.renamed", "running"),
            ("vm.updated", "running"),
            ("vm.status", "dead"),
        ]
        assert next(mine)["type"] == "vm.deleted"
    with http.stream("GET", "/api/events", headers={"accept": "text/event-stream", "last-event-id": str(hello["id"])}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = answer.iter_lines()
        assert [next(events), json.loads(next(events).removeprefix("data: "))["type"], next(events)] == [f"id: {hello['id']}", "hello", ""]
        assert json.loads(next(line for line in events if line.startswith("data:")).removeprefix("data: "))["id"] > hello["id"]


def test_a_machine_that_is_stopped_has_not_died(server: Server, bandsox: BandSox) -> None:
    with connect(server.url.replace("http", "ws") + "/api/events", proxy=None, open_timeout=60) as socket:
        assert json.loads(socket.recv(timeout=60))["type"] == "hello"
        with bandsox.create_vm(mem_mib=256) as vm:
            vm.stop()
            told = (json.loads(socket.recv(timeout=60)) for _ in itertools.count())
            kinds = itertools.islice((each["status"] for each in told if each["subject"] == vm.vm_id), 3)
            assert list(kinds) == ["creating", "running", "stopped"]


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[Server, AuthFile]]:
    with BandSox(tmp_path):
        file = AuthFile(tmp_path)
    file.set_password("long enough")
    with serving(tmp_path) as server:
        yield server, file


def vm_row(path: Path, name: str) -> None:
    database = Layout.open(path).database
    with sqlite3.connect(database) as connection:
        record = json.dumps({"spec": {"name": name}})
        connection.execute(
            "INSERT INTO vms VALUES (?, ?, 'stopped', 1, NULL, NULL, NULL, 'i', 'r', ?)",
            (name.ljust(16, "0").encode().hex()[:16], name, record),
        )


def test_who_may_see_some_machines_is_told_of_those(guarded: tuple[Server, AuthFile], tmp_path: Path) -> None:
    server, file = guarded
    key = keys.create(file, "ci", ["read"], prefix="ci-").key
    with server.client(key) as client, client.stream("GET", "/api/events") as answer:
        told = lines(answer)
        next(told)
        vm_row(tmp_path, "secret")
        vm_row(tmp_path, "ci-1")
        assert next(told)["name"] == "ci-1"


def test_who_is_revoked_is_told_no_more(guarded: tuple[Server, AuthFile]) -> None:
    server, file = guarded
    made = keys.create(file, "ci", ["read"])
    with server.client(made.key) as client, client.stream("GET", "/api/events") as answer:
        told = lines(answer)
        next(told)
        keys.revoke(file, made.key_id)
        assert [each["type"] for each in told] == ["error"]


def test_a_ticket_opens_one_websocket(guarded: tuple[Server, AuthFile]) -> None:
    server, file = guarded
    made = keys.create(file, "browser", ["read"])

    def first(ticket: str) -> str | None:
        with connect(f"{server.url.replace('http', 'ws')}/api/events?ticket={ticket}", proxy=None, open_timeout=60) as socket:
            try:
                return str(json.loads(socket.recv(timeout=60))["type"])
            except ConnectionClosed:
                return str(socket.close_code)

    with server.client(made.key) as client:
        ticket = client.post("/api/auth/tickets").json()["ticket"]
        assert [first(ticket), first(ticket), first("bst_0")] == ["hello", "4001", "4001"]
        later = client.post("/api/auth/tickets").json()["ticket"]
        assert client.get("/api/vms", params={"ticket": later}, headers={"authorization": ""}).status_code == 401, "for WebSockets only"
        keys.revoke(file, made.key_id)
        assert first(later) == "4001", "it is worth what the key is worth"


def test_the_library_tells_it_too(bandsox: BandSox, server: Server) -> None:
    for face in (bandsox, BandSox(server.url)):
        follow = face.events(0)
        assert next(follow).id >= 1
        follow.close()  # type: ignore[attr-defined]
