"""Where time goes, told to whoever traces (OpenTelemetry). Until `begin_with` nobody does, and a span costs a look at a variable.

Spans have ids, sizes and codes of errors, and nothing of what users send: neither commands nor paths nor messages.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from bandsox.errors import BandSoxError

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

P = ParamSpec("P")
R = TypeVar("R")
_Function = Callable[P, Coroutine[Any, Any, R]]

_tracer: Tracer | None = None

_NOTHING: AbstractContextManager[None] = contextlib.nullcontext()


def begin_with(tracer: Tracer | None) -> None:
    """Tell this tracer of all spans of this process that begin from now on; None: nobody any more."""
    global _tracer  # noqa: PLW0603 — of a process, as loggers are
    _tracer = tracer


def span(name: str, **attributes: str | int) -> AbstractContextManager[None]:
    """A block that is a stage of what goes on around it.

    Parameters
    ----------
    attributes: what it is about; ``vm_id`` is told as ``bandsox.vm_id``.
    """
    return _NOTHING if _tracer is None else _spanned(_tracer, name, attributes)


def carried() -> dict[str, str]:
    """The headers that make a request a part of the trace that its caller is in (W3C Trace Context); none where nobody traces.

    Who traces has OpenTelemetry loaded, so that it is never loaded for this.
    """
    if "opentelemetry.trace" not in sys.modules:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    found: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(found)
    return found


def environment() -> dict[str, str]:
    """The variables that make a program a part of the trace (``TRACEPARENT``, ``TRACESTATE``); none unless this process tells of spans."""
    return {} if _tracer is None else {name.upper(): value for name, value in carried().items()}


def traced(name: str) -> Callable[[_Function[P, R]], _Function[P, R]]:
    """An asynchronous function whose every call is a span."""

    def decorate(function: _Function[P, R]) -> _Function[P, R]:
        @functools.wraps(function)
        def call(*arguments: P.args, **named: P.kwargs) -> Coroutine[Any, Any, R]:
            working = function(*arguments, **named)
            return working if _tracer is None else _within(name, working)

        return call

    return decorate


async def _within(name: str, working: Coroutine[Any, Any, R]) -> R:
    with span(name):
        return await working


@contextlib.contextmanager
def _spanned(tracer: Tracer, name: str, attributes: dict[str, str | int]) -> Iterator[None]:
    from opentelemetry.trace import Status, StatusCode

    given = {f"bandsox.{key}": value for key, value in attributes.items()}
    with tracer.start_as_current_span(name, attributes=given, record_exception=False, set_status_on_exception=False) as current:
        try:
            yield
        except BaseException as error:
            code = error.code if isinstance(error, BandSoxError) else type(error).__name__
            current.set_attribute("error.type", code)
            current.set_status(Status(StatusCode.ERROR, code))
            raise
