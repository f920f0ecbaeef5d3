"""Traces of what callers ask for, sent to a collector (OTLP over HTTP). The SDK's own variables say where to and how much: ``OTEL_…``.

A request is a span of the caller's own trace where it brings one (W3C ``traceparent``); only callers who are known can have spans.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import Message, Scope, Send

from bandsox import tracing
from bandsox.errors import MissingTool
from bandsox.version import __version__

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "WEBSOCKET"})


@contextlib.contextmanager
def exported() -> Iterator[Traces]:
    """What traces requests, for the time of the block; at its end what was not sent yet is sent.

    Raises
    ------
    MissingTool: the SDK is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        remedy = "pip install 'bandsox[telemetry]'"
        raise MissingTool("OpenTelemetry's Python packages are not installed", cause=str(error), remedy=remedy) from error
    ours = Resource.create({"service.name": "bandsox", "service.version": __version__})
    provider = TracerProvider(resource=ours, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer = provider.get_tracer("bandsox", __version__)
    tracing.begin_with(tracer)
    try:
        yield Traces(tracer)
    finally:
        tracing.begin_with(None)
        provider.shutdown()


class Traces:
    """The spans of a server's requests."""

    def __init__(self, tracer: Tracer) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = tracer
        self._propagator = TraceContextTextMapPropagator()

    @contextlib.contextmanager
    def request(self, scope: Scope, send: Send) -> Iterator[Send]:
        """A block in which a request is served; the value sends its answer, whose status is noted."""
        from opentelemetry.trace import SpanKind, Status, StatusCode

        headers = Headers(scope=scope)
        before = self._propagator.extract({name: headers[name] for name in ("traceparent", "tracestate") if name in headers})
        asked = scope.get("method", "WEBSOCKET")
        method = asked if asked in _METHODS else "_OTHER"
        with self._tracer.start_as_current_span(
            method, before, SpanKind.SERVER, {"http.request.method": method}, record_exception=False, set_status_on_exception=False
        ) as span:

            async def noting(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(Status(StatusCode.ERROR))
                await send(message)

            try:
                yield noting
            finally:
                if (route := getattr(scope.get("route"), "path", None)) is not None:
                    span.update_name(f"{method} {route}")
                    span.set_attribute("http.route", route)
