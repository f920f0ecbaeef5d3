"""Errors as answers: the one table of status codes, and the shape that every failure has.

A failure is ``{code, message, cause, remedy, retryable, detail}``, as ``--json`` prints it, whatever went wrong: our own errors, requests
that do not fit their shape, addresses that do not exist, faults of the server.
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from bandsox import errors
from bandsox.errors import BandSoxError
from bandsox.server.replies import json_reply

_log = logging.getLogger(__name__)

STATUS: dict[type[BandSoxError], int] = {
    BandSoxError: 500,
    errors.InvalidRequest: 400,
    errors.Conflict: 409,
    errors.RequestTooLarge: 413,
    errors.InvalidDockerfile: 422,
    errors.AccessDenied: 403,
    errors.NotAuthenticated: 401,
    errors.TooManyRequests: 429,
    errors.NotFound: 404,
    errors.PythonNotFound: 422,
    errors.HostError: 500,
    errors.MissingTool: 503,
    errors.Unsupported: 501,
    errors.RequirementNotMet: 501,
    errors.StorageFull: 507,
    errors.DownloadFailed: 502,
    errors.DownloadInterrupted: 503,
    errors.ServerUnavailable: 503,
    errors.ImageError: 502,
    errors.RegistryUnavailable: 503,
    errors.BuildFailed: 422,
    errors.CorruptImage: 422,
    errors.MachineError: 500,
    errors.MachineStopped: 409,
    errors.VMMError: 502,
    errors.GuestError: 422,
    errors.GuestFileNotFound: 404,
    errors.LimitExceeded: 413,
    errors.ProtocolError: 502,
    errors.Timeout: 504,
    errors.OutcomeUnknown: 502,
}
"""The status of an error; one that is not here has that of the nearest class above it."""

_CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}


def status_of(error: BandSoxError) -> int:
    """The status code with which `error` is answered."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def failure(error: BandSoxError) -> Response:
    """The answer that says what went wrong."""
    headers = {}
    if isinstance(error, errors.NotAuthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.TooManyRequests):
        headers["Retry-After"] = str(error.detail.get("retry_after", 1))
    return json_reply(error.to_dict(), status_of(error), headers)


def plain_failure(status: int, code: str, message: str, detail: dict[str, Any] | None = None) -> Response:
    """The answer for what is no error of the library."""
    return json_reply({"code": code, "message": message, "cause": None, "remedy": None, "retryable": False, "detail": detail or {}}, status)


def broken_off() -> Response:
    """The answer to a request whose client went away; nobody gets it."""
    return plain_failure(400, "invalid_request", "the request broke off")


def install(app: FastAPI) -> None:
    """Have every failure of `app` answered in this shape."""
    app.add_exception_handler(BandSoxError, _library_error)
    app.add_exception_handler(RequestValidationError, _misshapen)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _fault)


async def _library_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, BandSoxError)
    return failure(error)


async def _misshapen(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [{"where": ".".join(map(str, each["loc"])), "problem": each["msg"]} for each in error.errors()]
    message = "; ".join(f"{each['where']}: {each['problem']}" for each in problems[:3])
    return plain_failure(422, "invalid_request", message, {"problems": problems})


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, BandSoxError):  # FastAPI names what fails while it reads a body so
        return failure(error.__cause__)
    return plain_failure(error.status_code, _CODES.get(error.status_code, "invalid_request"), str(error.detail))


async def _gone(_: Request, error: Exception) -> Response:
    del error
    return broken_off()


async def _fault(request: Request, error: Exception) -> Response:
    _log.error("a fault in %s %s", request.method, request.url.path, exc_info=error)
    return plain_failure(500, "internal_error", f"this is a fault of BandSox: {type(error).__name__}; the server's log says more")
