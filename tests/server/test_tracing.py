"""Traces: what a caller asked for, in stages, as a part of its own trace; and nothing where nobody traces."""

from __future__ import annotations

import gzip
import http.server
import secrets
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from bandsox import BandSox
from bandsox.errors import Conflict
from bandsox.settings import DEFAULT_IMAGE
from bandsox.tracing import span
from tests.server.servers import serving

_CLIENTS_TRACE, _CLIENTS_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """What takes traces (OTLP over HTTP, in protobuf)."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.take(self.path, gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def take(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.services |= {each.value.string_value for each in resource.resource.attributes if each.key == "service.name"}
            self.spans += [each for scope in resource.scope_spans for each in scope.spans]

    def tree(self, parent: bytes) -> dict[str, Any]:
        """The names of the spans below one, and of those below them."""
        return {each.name: self.tree(each.span_id) for each in self.spans if each.parent_span_id == parent}


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()
    thread.join()


@pytest.fixture
def traced(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Collector:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    return collector


def test_a_machine_is_made_and_used_in_stages_of_its_callers_trace(storage: Path, bandsox: BandSox, traced: Collector) -> None:
    trace, parents = secrets.token_bytes(16), [secrets.token_bytes(8) for _ in range(4)]
    made, ran, failed, restored = ({"traceparent": f"00-{trace.hex()}-{parent.hex()}-01"} for parent in parents)
    with serving(storage, "--traces") as server, server.client() as client:
        ids = [client.post("/api/vms", json={"image": DEFAULT_IMAGE, "mem_mib": 256}, headers=made).json()["id"]]
        try:
            command = {"command": "echo a secret in a command >&2; echo $TRACEPARENT", "timeout": 120}
            inside = client.post(f"/api/vms/{ids[0]}/exec", json=command, headers=ran).json()["stdout"].strip()
            own = {**command, "env": {"TRACEPARENT": "the caller's own"}}
            assert client.post(f"/api/vms/{ids[0]}/exec", json=own).json()["stdout"] == "the caller's own\n"
            within = _told_by_the_client(server.url, ids[0])
            assert client.get("/api/vms/none", headers=failed).status_code == 404
            client.post(f"/api/vms/{ids[0]}/snapshot", json={"name": "traced"})
            ids.append(client.post("/api/snapshots/traced/restore", json={}, headers=restored).json()["id"])
        finally:
            for vm in ids:
                bandsox.delete_vm(vm)
            bandsox.delete_snapshot("traced")
        assert server.stop() == 0  # what was not sent yet is sent
    assert {each.trace_id for each in traced.spans if each.parent_span_id in parents} == {trace}
    (ran_as,) = (each.span_id for each in traced.spans if each.name == "exec" and each.trace_id == trace)
    assert inside == f"00-{trace.hex()}-{ran_as.hex()}-01"
    assert within == {_CLIENTS_TRACE}
    assert {each.trace_id.hex() for each in traced.spans if each.parent_span_id == bytes.fromhex(_CLIENTS_SPAN)} == {_CLIENTS_TRACE}
    assert traced.services == {"bandsox"}
    create = traced.tree(parents[0])["POST /api/vms"]["create"]
    assert create.keys() >= {"image", "disk", "vmm", "agent"}
    assert traced.tree(parents[1])["POST /api/vms/{vm}/exec"]["exec"].keys() == {"start", "run"}
    assert traced.tree(parents[2]) == {"GET /api/vms/{vm}": {}}
    restore = traced.tree(parents[3])["POST /api/snapshots/{snapshot}/restore"]["restore"]
    assert restore.keys() >= {"disk", "vmm", "agent"}
    assert "secret" not in str(traced.spans)
    (root,) = (each for each in traced.spans if each.parent_span_id == parents[2])
    attributes = {each.key: each.value for each in root.attributes}
    assert attributes["http.response.status_code"].int_value == 404
    assert attributes["http.route"].string_value == "/api/vms/{vm}"


def _told_by_the_client(url: str, vm_id: str) -> set[str]:
    """The traces that programs see which were started by a client that is in one: over HTTP, and over a WebSocket."""
    seen: list[str] = []
    here = SpanContext(int(_CLIENTS_TRACE, 16), int(_CLIENTS_SPAN, 16), is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    with BandSox(url) as remote, use_span(NonRecordingSpan(here)):
        machine = remote.get_vm(vm_id)
        assert machine is not None
        seen.append(machine.run("echo $TRACEPARENT").text)
        machine.exec_command("echo $TRACEPARENT", on_stdout=seen.append, timeout=120)
    return {each.split("-")[1] for each in seen}


def test_who_is_not_known_leaves_no_trace(tmp_path: Path, traced: Collector) -> None:
    from bandsox.server.auth.file import AuthFile

    with serving(tmp_path, "--traces") as server, server.client() as client:
        AuthFile(tmp_path).set_password("long enough")
        client.get("/api/vms", headers={"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"})
        server.stop()
    assert traced.spans == []


def test_a_collector_that_is_not_there_is_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with serving(tmp_path, "--traces") as server, server.client() as client:
        for _ in range(100):
            assert client.get("/api/vms", headers={"traceparent": "nonsense"}).json() == []
        assert server.stop() == 0


def test_nobody_else_traces_what_callers_ask_for() -> None:
    code = """
        import asyncio, httpx
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from bandsox.server.application import routes

        exporter, provider = InMemorySpanExporter(), TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)

        async def ask():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(routes()), base_url="http://localhost") as client:
                return (await client.get("/no/such/address?secret")).status_code

        assert asyncio.run(ask()) == 404
        assert not exporter.get_finished_spans(), exporter.get_finished_spans()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_without_traces_the_sdk_is_not_loaded() -> None:
    modules = "[each for each in sys.modules if each.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))]"
    script = f"import sys, bandsox.server.running, bandsox.guest, bandsox.engine; print({modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert span("anything") is span("else", vm_id="x"), "nothing is made"


def test_a_failure_passes_through_a_span() -> None:
    with pytest.raises(Conflict), span("anything"):
        raise Conflict("as it is")
