"""What `test_secrets` does on the host of its lab."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bandsox import BandSox, BandSoxError, MicroVM, Secret
from bandsox.engine import ownership
from tests.network.internet import API4, API6, DIRECT, RESOLVER, SHARED
from tests.network.watching import Printed, kill

VALUE, OTHER = "value-that-no-guest-has-7f3a91", "value-for-plain-http-55d2"

_PROBE = r"""
import errno, http.client, json, os, socket, ssl, sys

def context(**where):
    return ssl.create_default_context(**where)

def ask(place, name, port=443, headers=None, host=None, trust=None):
    connection = http.client.HTTPConnection(place, port, timeout=60)
    connection.sock = socket.create_connection((place, port), 60)
    if port == 443:
        connection.sock = (trust or context()).wrap_socket(connection.sock, server_hostname=name)
    sent = headers or {"Authorization": "Bearer " + os.environ["KEY"]}
    connection.request("GET", "/", headers={"Host": host or name, **sent})
    answer = connection.getresponse()
    body = answer.read().decode()
    with_json = answer.status == 200
    return [answer.status, json.loads(body) if with_json else body, answer.headers.get("X-Echo", "")]

def careless():
    found = ssl.create_default_context()
    found.check_hostname, found.verify_mode = False, ssl.CERT_NONE
    return found

def issuer(name):
    with socket.create_connection((name, 443), 60) as plain, context().wrap_socket(plain, server_hostname=name) as secure:
        return dict(part[0] for part in secure.getpeercert()["issuer"])["commonName"]

def attempt(function, *arguments, **named):
    try:
        return function(*arguments, **named)
    except socket.gaierror as error:
        return {socket.EAI_NONAME: "EAI_NONAME", socket.EAI_AGAIN: "EAI_AGAIN"}.get(error.errno, str(error))
    except TimeoutError:
        return "timeout"
    except ssl.SSLError as error:
        return str(error)
    except OSError as error:
        name = errno.errorcode.get(error.errno, repr(error))
        return "unreachable" if name in {"ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH"} and sys.argv[1:] == ["cut"] else name

def digest(found):
    return found[1]["digests"]["authorization"] if isinstance(found, list) and found[0] == 200 else found
"""

_EVERYWHERE = f"""
socket.getaddrinfo("evil.test", 80), socket.getaddrinfo("www.example.org", 80)
seen = {{
    "placeholder": os.environ["KEY"],
    "https": attempt(ask, "api.example.com", "api.example.com", headers={{
        "Authorization": "Bearer " + os.environ["KEY"], "X-Key": os.environ["KEY"]}}),
    "https over IPv6": attempt(ask, "{API6}", "api.example.com"),
    "another host": attempt(ask, "www.example.org", "www.example.org"),
    "plain": attempt(ask, "api.example.com", "api.example.com", 80),
    "plain, asked for": attempt(ask, "other.example.com", "other.example.com", 80, headers={{"X-Key": os.environ["PLAIN"]}}),
    "another address under its name": attempt(ask, "{DIRECT}", "api.example.com"),
    "its address under another name": attempt(ask, "{API4}", "www.example.org"),
    "no question": attempt(ask, "{SHARED}", "www.example.org"),
    "issuers": {{name: attempt(issuer, name) for name in ("api.example.com", "www.example.org")}},
    "another name inside": attempt(ask, "api.example.com", "api.example.com", host="www.example.org")[0],
    "no proof": attempt(ask, "host.cdn.test", "host.cdn.test", headers={{"X-Key": os.environ["UNPROVEN"]}}),
    "rebinding": attempt(ask, "rebind.example.com", "rebind.example.com"),
}}
print(json.dumps(seen))
"""

_DIGEST = """
print(json.dumps(attempt(lambda: digest(ask("api.example.com", "api.example.com")))))
"""

_UNDER_NONE = f"""
print(json.dumps({{
    "api": attempt(ask, "api.example.com", "api.example.com")[0],
    "www": attempt(ask, "www.example.org", "www.example.org"),
    "rule": attempt(socket.create_connection, ("{DIRECT}", 80)),
}}))
"""

_SYSTEM = """
import subprocess
trusted = {"bundle": {"cafile": "/etc/ssl/certs/ca-certificates.crt"}, "directory": {"capath": "/etc/ssl/certs"}}
def status(where):
    return attempt(lambda: ask("api.example.com", "api.example.com", trust=context(**where))[0])
seen = {name: status(where) for name, where in trusted.items()}
print(json.dumps(seen))
"""

_HOLD = """
trust, count = context(), 0
while sys.stdin.readline():
    count += 1
    print(json.dumps([count, attempt(lambda: digest(ask("api.example.com", "api.example.com", trust=trust)))]), flush=True)
"""


def outcome() -> dict[str, Any]:
    with BandSox() as bandsox:
        bandsox.pull_image("debootstrap:bookworm?include=python3", "missing")
        seen = {"refused": _refused(bandsox)}
        with _machine(bandsox) as vm:
            seen |= probe(vm, _EVERYWHERE)
            seen |= _forked(vm) | _changed(vm) | _places(bandsox, vm) | _saved(bandsox, vm)
            kill(vm, "bandsox-filter")
            seen["killed filter"] = probe(vm, _DIGEST, "cut")
    return seen


def _machine(bandsox: BandSox) -> MicroVM:
    secrets = {
        "KEY": Secret(VALUE, hosts=("api.example.com",)),
        "PLAIN": Secret(OTHER, hosts=("other.example.com",), plain_http=True),
        "REBOUND": Secret(VALUE, hosts=("rebind.example.com",)),
        "UNPROVEN": Secret(VALUE, hosts=("host.cdn.test",)),
    }
    return bandsox.create_vm(mem_mib=256, disk_size_mib=256, dns=[RESOLVER], secrets=secrets)


def probe(vm: MicroVM, code: str, *arguments: str) -> Any:
    done = vm.run(["python3", "-c", _PROBE + code, *arguments], timeout=280)
    assert done.exit_code == 0, done.stderr.decode()
    return json.loads(done.text)


def _refused(bandsox: BandSox) -> dict[str, Any]:
    """A machine whose proxy would trust nobody."""
    usual = os.environ["SSL_CERT_FILE"]
    os.environ["SSL_CERT_FILE"] = os.environ["NOBODY"]
    before = set(bandsox.metadata_dir.iterdir())
    cause = ""
    try:
        _machine(bandsox).delete()
    except BandSoxError as error:
        cause = str(error.cause)
    finally:
        os.environ["SSL_CERT_FILE"] = usual
    return {"cause": cause, "left": sorted(entry.name for entry in set(bandsox.metadata_dir.iterdir()) - before)}


def _changed(vm: MicroVM) -> dict[str, Any]:
    """Other policies, other values, and a new start."""
    vm.set_network_policy("none")
    under_none = probe(vm, _UNDER_NONE)
    vm.set_network_policy("internet")
    before = vm.secrets()
    vm.set_secret("KEY", "another value")
    rotated = probe(vm, _DIGEST)
    vm.set_secret("KEY", None)
    seen = {"none": under_none, "rotated": rotated, "withdrawn": probe(vm, _DIGEST), "has a value": [before, vm.secrets()["KEY"]]}
    vm.set_secret("KEY", VALUE)
    vm.run("mkdir -p /etc/ssl/certs && : > /etc/ssl/certs/ca-certificates.crt && echo '# none' > /etc/ssl/certs/ca-certificates.crt")
    vm.stop()
    vm.start()
    again, system = probe(vm, _DIGEST), probe(vm, _SYSTEM)
    vm.run("echo '# renewed' > /etc/ssl/certs/ca-certificates.crt; cat /etc/ssl/certs/*.0 >> /etc/ssl/certs/ca-certificates.crt")
    return {**seen, "started again": again, "system": {**system, "after an update": probe(vm, _SYSTEM)["bundle"]}}


def _forked(vm: MicroVM) -> dict[str, Any]:
    """Clones, and a program that has read whom it trusts before."""
    printed = Printed()
    session, _ = vm.start_session(["python3", "-c", _PROBE + _HOLD], on_stdout=printed.put)
    vm.send_session_input(session, "\n")
    _answer(printed, 1)
    clones = vm.fork(2)
    try:
        found = [probe(clone, _DIGEST) for clone in clones]
        held = []
        for clone in clones:
            again = Printed()
            clone.attach_session(session, on_stdout=again.put)
            clone.send_session_input(session, "\n")
            held.append(_answer(again, 2))
    finally:
        for clone in clones:
            clone.delete()
    vm.kill_session(session)
    return {"clones": found, "held": held}


def _answer(printed: Printed, number: int) -> Any:
    """What the program that was there before has printed the so-manyth time, whether earlier lines are seen again or not."""
    count = 1
    while (line := json.loads(printed.lines(count)[-1]))[0] != number:
        count += 1
    return line[1]


def _places(bandsox: BandSox, vm: MicroVM) -> dict[str, Any]:
    """Where the value is: files of the storage directory, processes, and what is shown."""
    root, value = bandsox.metadata_dir.parent, VALUE.encode()
    shared = {"images", "kernels", "programs", "disks", "downloads"}
    files = [file for file in root.rglob("*") if file.is_file() and file.relative_to(root).parts[0] not in shared]
    having = [file for file in files if _holds(file, value)]
    owned = [process for owner, process in ownership.processes_in(bandsox.metadata_dir) if owner == vm.vm_id]
    told = []
    for process in owned:
        for place in ("cmdline", "environ"):
            with contextlib.suppress(PermissionError):
                if value in Path(f"/proc/{process.pid}/{place}").read_bytes():
                    told.append(f"{process.pid} {place}")
    shown = {"info": vm.info(), "log": vm.network_log(), "policy": vm.network_policy(), "console": vm.console(), "list": bandsox.list_vms()}
    return {
        "files with the value": sorted({file.name for file in having}),
        "modes": sorted({stat.S_IMODE(file.stat().st_mode) for file in having}),
        "processes with the value": told,
        "shown": [name for name, text in shown.items() if VALUE in repr(text)],
    }


def _holds(file: Path, value: bytes) -> bool:
    """Whether a file has these bytes; it may be sparse, and so of any size."""
    with file.open("rb") as content:
        return any(value in data for data in _data(content.fileno()))


def _data(descriptor: int) -> Iterator[bytes]:
    """What a file has between its holes, in pieces (lseek(2), SEEK_DATA)."""
    position = 0
    with contextlib.suppress(OSError):  # ENXIO: there is no more
        while True:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
            position = os.lseek(descriptor, start, os.SEEK_HOLE)
            yield os.pread(descriptor, position - start, start)


def _saved(bandsox: BandSox, vm: MicroVM) -> dict[str, Any]:
    """A snapshot, and a machine that goes on from it."""
    placeholder = vm.run("printf %s $KEY").text
    snapshot = vm.snapshot("with-secrets")
    [saved] = [known["id"] for known in bandsox.list_snapshots() if known["snapshot_name"] == snapshot]
    files = list((bandsox.snapshots_dir / saved).iterdir())
    found = {
        "placeholder": any(_holds(file, placeholder.encode()) for file in files),
        "value": any(_holds(file, VALUE.encode()) for file in files),
    }
    with bandsox.restore_vm(snapshot) as restored:
        before = [probe(restored, _DIGEST), restored.secrets()["KEY"]]
        restored.set_secret("KEY", "a third value")
        after = [probe(restored, _DIGEST), restored.secrets()["KEY"]]
        keys = {_certificate(machine) for machine in (vm, restored)}
        failures = [step.name for step in restored.receipt.failures] if restored.receipt else ["no receipt"]
    bandsox.delete_snapshot(snapshot)
    restored_facts = {"before": before, "after": after, "failures": failures, "its own authority": len(keys) == 2}
    return {"guest memory": found, "restored": restored_facts}


def _certificate(vm: MicroVM) -> str:
    return vm.get_file_contents("/etc/bandsox/authority.pem")
