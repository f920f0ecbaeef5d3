"""The TypeScript SDK where a browser runs it: in a page of the server's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route

from bandsox import MicroVM

_BUILT = Path(__file__).parents[2] / "sdk/typescript/dist/esm"

_EVERY = "new Uint8Array(3 << 20).map((_, index) => (index * 31) ^ (index >> 8))"
_EXPECTED = bytes((index * 31 ^ index >> 8) & 0xFF for index in range(3 << 20))

_ECHO = """
import socket
listening = socket.create_server(("127.0.0.1", 7))
print("listening", flush=True)
while True:
    connection, _ = listening.accept()
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.close()
"""


@pytest.fixture
def there(page: Page, machine: MicroVM) -> Iterator[Page]:
    """A page of the dashboard, under its policy, with `vm`, the SDK's handle of the machine."""
    assert _BUILT.exists(), "run `make sdk`"

    def served(route: Route) -> None:
        name = route.request.url.rpartition("/tested/")[2]
        route.fulfill(status=200, content_type="text/javascript", body=(_BUILT / name).read_text())

    page.route("**/tested/**", served)
    page.goto("/settings/about")
    page.evaluate(
        "async id => { const sdk = await import('/tested/index.js'); window.sdk = sdk;"
        " window.vm = new sdk.MicroVM(id, new sdk.BandSox({ baseUrl: '/' })) }",
        machine.vm_id,
    )
    yield page


@pytest.mark.parametrize(
    "content",
    [_EVERY, f"({_EVERY}).buffer", f"new Blob([{_EVERY}])", f"new File([{_EVERY}], 'name')"],
    ids=["bytes", "buffer", "blob", "file"],
)
def test_a_file_is_sent_as_it_is_with_its_progress(there: Page, machine: MicroVM, content: str) -> None:
    seen = there.evaluate(
        f"""async () => {{
            const seen = []
            await vm.uploadFile('/srv/sent', {content}, {{ onProgress: bytes => seen.push(bytes) }})
            return seen
        }}"""
    )
    assert seen == sorted(seen)
    assert seen[-1] == len(_EXPECTED)
    assert machine.run("sha256sum /srv/sent").text.split()[0] == hashlib.sha256(_EXPECTED).hexdigest()


def test_a_stream_is_refused_before_anything_is_sent(there: Page, machine: MicroVM) -> None:
    machine.write_text("/srv/there", "as it was")
    code = there.evaluate("() => vm.uploadFile('/srv/there', new Blob(['new']).stream()).catch(error => error.code)")
    assert code == "unsupported"
    assert machine.get_file_contents("/srv/there") == "as it was"


def test_an_upload_ends_with_its_signal_and_leaves_what_was_there(there: Page, machine: MicroVM) -> None:
    machine.write_text("/srv/kept", "as it was")
    reason = there.evaluate(
        """async () => {
            const stop = new AbortController()
            const options = { onProgress: () => stop.abort(new Error('enough')) }
            const long = new Blob([new Uint8Array(64 << 20)])
            return vm.uploadFile('/srv/kept', long, options, { signal: stop.signal }).catch(error => error.message)
        }"""
    )
    assert reason == "enough"
    assert machine.get_file_contents("/srv/kept") == "as it was"


def test_a_folder_is_sent_and_comes_back(there: Page, machine: MicroVM) -> None:
    size = there.evaluate(
        """async () => {
            await vm.uploadFolder({ 'a.txt': 'a', 'below/b.bin': new Blob([new Uint8Array(70000)]) }, '/srv/tree')
            return (await new Response(await vm.downloadFolder('/srv/tree')).arrayBuffer()).byteLength
        }"""
    )
    assert size > 70_000
    assert machine.get_file_contents("/srv/tree/a.txt") == "a"


def test_a_port_and_a_program_carry_bytes_no_faster_than_they_are_read(there: Page, machine: MicroVM) -> None:
    session, _ = machine.start_session(["python3", "-c", _ECHO])
    try:
        result = there.evaluate(
            f"""async session => {{
                const listening = await vm.attachSession(session)
                await listening.next()
                listening.close()
                const socket = await vm.connect(7)
                const writer = socket.writable.getWriter()
                const written = writer.write({_EVERY}).then(() => writer.close())
                const back = new Uint8Array(await new Response(socket.readable).arrayBuffer())
                await written
                socket.close()
                let read = 0
                for await (const {{ data }} of vm.stream('head -c 3000000 /dev/zero')) read += data.length
                const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', back))
                return {{ digest: [...digest].map(byte => byte.toString(16).padStart(2, '0')).join(''), read }}
            }}""",
            session,
        )
    finally:
        machine.kill_session(session)
    assert result == {"digest": hashlib.sha256(_EXPECTED).hexdigest(), "read": 3_000_000}
