"""What `test_policy` does on the host of its lab, with a machine that has a policy and one that has none."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import queue
import signal
from pathlib import Path
from typing import Any

from bandsox import BandSoxError, MicroVM
from bandsox.engine import ownership
from bandsox.process import ProcessId
from tests.network.internet import API4, API6, DIRECT, SHARED

_HOLD = f"""
import socket
web = socket.create_connection((socket.gethostbyname("api.example.com"), 80), 60)
raw = socket.create_connection(("{API4}", 2222), 60)

def ask(sock, request, last):
    seen = b""
    try:
        sock.sendall(request)
        while not seen.endswith(last):
            piece = sock.recv(65536)
            if not piece:
                return " reset"
            seen += piece
    except OSError:
        return " reset"
    return ""

def both():
    print("http" + ask(web, b"GET / HTTP/1.1\\r\\nHost: api.example.com\\r\\n\\r\\n", b"}}\\n"), flush=True)
    print("greeting" + ask(raw, b"ping", b"ping"), flush=True)

both()
input()
both()
"""

_DOWNLOAD = f"""
import errno, http.client, json, os, socket, threading
blocks, ends = [0], {{}}

def take(name, piece):
    try:
        while piece():
            pass
        ends[name] = "complete"
    except OSError as error:
        ends[name] = errno.errorcode.get(error.errno, repr(error))

def block():
    blocks[0] += 1
    print("block", blocks[0], flush=True)
    return response.read(1 << 18)

def answer():
    while True:
        input()
        print("asked at", blocks[0], flush=True)

web = http.client.HTTPConnection("{API4}", 80)
web.request("GET", "/bytes/{256 << 20}", headers={{"Host": "api.example.com"}})
response = web.getresponse()
held = {{"over4": socket.create_connection(("{SHARED}", 2222)), "over6": socket.create_connection(("{API6}", 2222))}}
waiting = {{name: (lambda sock=sock: sock.recv(64)) for name, sock in held.items()}}
with open("/root/downloader", "w") as file:
    file.write(str(os.getpid()))
threading.Thread(target=answer, daemon=True).start()
threads = [threading.Thread(target=take, args=item) for item in {{"carried": block, **waiting}}.items()]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
with open("/root/ended", "w") as file:
    json.dump(ends, file)
os._exit(0)
"""

_ENDED = """
import os, select
with open("/root/downloader") as file:
    pid = int(file.read())
try:
    select.select([os.pidfd_open(pid)], [], [], 120)
except ProcessLookupError:
    pass
with open("/root/ended") as file:
    print(file.read())
"""


def outcome(vm: MicroVM, other: MicroVM, scenarios: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for name, (policy, steps) in scenarios.items():
        vm.set_network_policy(policy)
        seen[name] = probe(vm, [[names.get(str(word), word) for word in step] for step in steps])
        if name == "names":
            seen["stats"] = {key: getattr(vm.network_stats(), key) for key in ("sent", "received", "refused")}
            seen["log"] = _log(vm, other)
    seen["by the kernel"] = _by_the_kernel(vm)
    seen["learned"] = _learned(other)
    seen["held"] = _held(vm)
    seen["limits"] = _limits(vm)
    seen["clones"] = _clones(vm)
    seen["later"] = _later(other)
    seen["killed filter"] = _without_filter(vm)
    seen["killed keeper"] = _without_keeper(vm)
    return seen


def probe(vm: MicroVM, steps: list[list[Any]]) -> Any:
    done = vm.run(["python3", "/root/probe.py", json.dumps(steps)], timeout=280)
    assert done.exit_code == 0, done.stderr.decode()
    return json.loads(done.text)


def _log(vm: MicroVM, other: MicroVM) -> dict[str, Any]:
    entries = [{field: getattr(entry, field) for field in entry.__slots__} for entry in vm.network_log()]

    def first(**fields: Any) -> Any:
        return next(entry for entry in entries if fields.items() <= entry.items())

    return {
        "tls": first(name="api.example.com", port=443),
        "lie": first(name="evil.test", port=443),
        "question": first(name="evil.test", protocol="dns"),
        "rebinding": first(name="rebind.example.com", protocol="dns"),
        "no policy": _error(other.network_log),
    }


def _by_the_kernel(vm: MicroVM) -> list[str]:
    """What one who follows the log reads of a connection that the kernel allows, and of one that it refuses."""
    vm.set_network_policy({"allow": [f"{API4}:2222"]})
    wanted = {f"opened tcp {API4} 2222", f"refused tcp {API4} 80"}

    def read() -> list[str]:
        found: set[str] = set()
        for event in vm.follow_network_log():
            found.add(f"{event.event} {event.protocol} {event.address} {event.port}")
            if wanted <= found:
                break
        return sorted(wanted)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        while not reading.done():  # it may have begun to read after the first of them
            probe(vm, [["greeting", API4, 2222], ["tcp", API4, 80]])
        return reading.result()


def _learned(vm: MicroVM) -> dict[str, Any]:
    """A machine that keeps to what it has learned does the same again, and nothing else."""
    steps = [
        ["tls", "api.example.com", 443, "api.example.com"],
        ["web", "www.example.org", 80, "www.example.org"],
        ["greeting", API6, 2222],
        ["udp", DIRECT, 123],
    ]
    vm.set_network_policy("learn")
    before = probe(vm, steps)
    learned = vm.learned_policy()
    vm.set_network_policy(learned)
    return {"before": before, "policy": learned.allow, "after": probe(vm, [*steps, ["udp", DIRECT, 443], ["resolve", "evil.test"]])}


def _held(vm: MicroVM) -> dict[str, list[str]]:
    """Two connections, one carried by the filter and one by the kernel, before and after the policy refuses them."""
    vm.set_network_policy({"allow": ["api.example.com:80", f"{API4}:2222"]})
    printed = Printed()
    session, _ = vm.start_session(["python3", "-c", _HOLD], on_stdout=printed.put)
    before = printed.lines(2)
    vm.set_network_policy({"allow": [f"{API6}:443"]})
    vm.send_session_input(session, "\n")
    return {"before": before, "after": printed.lines(4)[2:]}


def _limits(vm: MicroVM) -> dict[str, Any]:
    limited = {"allow": ["api.example.com:80", f"{SHARED}:80,2222"], "download_mbit": 8, "connections": 3}
    vm.set_network_policy(limited)
    slow = probe(vm, [["resolve", "api.example.com"], ["hold", SHARED, 2222, 6], ["download", API4, "api.example.com", 3 << 20]])
    slow += probe(vm, [["download", SHARED, "anybody", 3 << 20]])
    vm.set_network_policy({**limited, "download_mbit": None, "connections": None})
    return {"slow": slow[1:], "fast": probe(vm, [["hold", SHARED, 2222, 6], ["download", SHARED, "anybody", 3 << 20]])}


def _clones(vm: MicroVM) -> dict[str, Any]:
    """A machine that is forked in the middle of a download, and its clones."""
    vm.set_network_policy({"allow": ["api.example.com", f"{SHARED}:2222", f"[{API6}]:2222"], "download_mbit": 8})
    resolved = ["resolve", "api.example.com"]
    probe(vm, [resolved])
    printed = Printed()
    session, _ = vm.start_session(["python3", "-c", _DOWNLOAD], on_stdout=printed.put)
    printed.lines(2)
    clones = vm.fork(2)
    try:
        found = [probe(clone, [resolved, ["web", API4, 80, "api.example.com"], ["tcp", DIRECT, 80]])[1:] for clone in clones]
        ends = [json.loads(clone.run(["python3", "-c", _ENDED], timeout=150).text) for clone in clones]
    finally:
        for clone in clones:
            clone.delete()
    vm.send_session_input(session, "\n")
    asked = int(printed.until("asked at").split()[2])
    printed.until(f"block {asked + 2}")
    vm.kill_session(session)
    return {"clones": found, "ends": ends}


def _later(other: MicroVM) -> Any:
    other.set_network_policy({"allow": [f"{DIRECT}:80"]})
    return probe(other, [["web", DIRECT, 80, "anybody"], ["tcp", SHARED, 80]])


def _without_filter(vm: MicroVM) -> dict[str, Any]:
    steps = [["web", "api.example.com", 80, "api.example.com"]]
    vm.set_network_policy({"allow": ["api.example.com"]})
    assert probe(vm, steps) == [[[200, "api.example.com"]]]
    kill(vm, "bandsox-filter")
    found = {"reach": _reach(vm), "error": _error(vm.network_stats)}
    vm.stop()
    vm.start()
    return {**found, "restarted": probe(vm, steps)}


def _without_keeper(vm: MicroVM) -> str:
    """The keeper takes the filter with it, and has no time to take the uplink away."""
    vm.set_network_policy({"allow": [f"{API4}:80"]})
    assert probe(vm, [["tcp", API4, 80]]) == ["connected"]
    kill(vm, "bandsox-network")
    return _reach(vm)


def _reach(vm: MicroVM) -> str:
    found = probe(vm, [["tcp", API4, 80]])[0]
    return "unreachable" if found in {"ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH", "timeout"} else found


def kill(vm: MicroVM, name: str) -> None:
    """Kill a process that belongs to the machine, and wait for the end of it and of the keeper."""
    directory = vm._async._engine.layout.vms
    owned = {_name(process): process for owner, process in ownership.processes_in(directory) if owner == vm.vm_id}
    owned[name].signal(signal.SIGKILL)

    async def wait() -> None:
        await asyncio.gather(owned[name].wait(), owned["bandsox-network"].wait())

    asyncio.run(asyncio.wait_for(wait(), 120))


def _name(process: ProcessId) -> str:
    return Path(Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")[0]).name.removesuffix("-x86_64").removesuffix("-aarch64")


def _error(operation: Any) -> str:
    try:
        operation()
    except BandSoxError as error:
        return str(error.code)
    return "no error"


class Printed:
    """What a session prints, as it comes."""

    def __init__(self) -> None:
        self._pieces: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._text = ""
        self.put = self._pieces.put

    def until(self, beginning: str) -> str:
        """The first line that begins so, once it is there."""
        count = 1
        while not (line := self.lines(count)[-1]).startswith(beginning):
            count += 1
        return line

    def lines(self, count: int) -> list[str]:
        """The first so many lines, once they are there."""
        while self._text.count("\n") < count:
            self._text += self._pieces.get(timeout=120)
        return self._text.splitlines()[:count]
