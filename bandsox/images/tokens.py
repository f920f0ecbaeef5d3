"""Authorization for a registry: the answer to its challenge (RFC 9110, section 11; distribution's "Token Authentication").

A registry answers 401 and names either basic authentication, or an authorization service that gives a token for one
repository. The service is asked with the user's credentials where there are some, else anonymously.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import httpx
import msgspec

from bandsox import http
from bandsox.decoding import ready
from bandsox.errors import BandSoxError, RegistryError, RegistryUnavailable
from bandsox.images.auth import Credentials

_MAX_ANSWER = 1 << 20
_CHALLENGE = re.compile(r'([a-zA-Z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


class _Answer(msgspec.Struct):
    token: str = ""
    access_token: str = ""


def basic(credentials: Credentials) -> str:
    """The ``Authorization`` header for a user's name and password."""
    auth = httpx.BasicAuth(credentials.username, credentials.password)
    return str(next(auth.auth_flow(httpx.Request("GET", "https://host.invalid"))).headers["Authorization"])


def challenges(response: httpx.Response) -> Iterator[tuple[str, dict[str, str]]]:
    """The schemes a response with status 401 offers, in small letters, each with its parameters."""
    for text in response.headers.get_list("WWW-Authenticate"):
        scheme, _, rest = text.partition(" ")
        yield scheme.lower(), {name.lower(): quoted or plain for name, quoted, plain in _CHALLENGE.findall(rest)}


class TokenService:
    """The authorization service that a registry's challenge names.

    Parameters
    ----------
    registry: the registry's host, for errors.
    challenge: the parameters of its challenge; scope: what to ask for where they do not say.
    schemes: how the service may be spoken to, ``https`` and perhaps ``http``.
    denied: makes the error for a service that refuses, from its status.

    Raises
    ------
    RegistryError: the challenge names none that could be trusted.
    """

    def __init__(
        self,
        registry: str,
        challenge: dict[str, str],
        scope: str,
        credentials: Credentials | None,
        *,
        schemes: tuple[str, ...],
        patience: http.Patience,
        denied: Callable[[int], BandSoxError],
    ) -> None:
        realm = urlsplit(challenge.get("realm", ""))
        if realm.scheme not in schemes or not realm.hostname:
            raise RegistryError(f"{registry} names an authorization service that cannot be trusted: {realm.geturl()[:200]!r}")
        self._name = realm.hostname
        self._realm = realm.geturl()
        self._parameters = {"service": challenge.get("service", ""), "scope": challenge.get("scope") or scope}
        self._credentials = credentials
        self._patience = patience
        self._denied = denied

    async def token(self, asking: httpx.AsyncClient) -> str:
        """Ask for a token.

        Raises
        ------
        RegistryError: the service refuses, or gives none. RegistryUnavailable: it cannot be reached.
        """
        known = self._credentials
        form = None
        url = httpx.URL(self._realm)
        if known is not None and known.identity_token:
            form = {**self._parameters, "grant_type": "refresh_token", "refresh_token": known.identity_token, "client_id": "bandsox"}
        else:
            url = url.copy_merge_params({name: value for name, value in self._parameters.items() if value})
        try:
            async with http.request(asking, str(url), self, form=form) as response:
                data = await http.body(response, _MAX_ANSWER)
        except httpx.TransportError as error:
            raise self.unreachable(http.reason(error)) from error
        try:
            answer = msgspec.json.decode(data or b"", type=ready(_Answer))
        except msgspec.DecodeError as error:
            raise RegistryError(f"the authorization service {self._name} gave no token", cause=str(error)) from error
        token = answer.token or answer.access_token
        if not token or not (token.isascii() and token.isprintable()):
            raise RegistryError(f"the authorization service {self._name} gave no token")
        return token

    # ── what `bandsox.http` asks ────────────────────────────────────────────────────────────────

    @property
    def patience(self) -> http.Patience:
        """How long the service is waited for."""
        return self._patience

    def headers(self) -> dict[str, str]:
        """The user's name and password, where there are some."""
        return {"Authorization": basic(self._credentials)} if self._credentials is not None and self._credentials.username else {}

    async def authorize(self, response: httpx.Response, sent: dict[str, str]) -> bool:
        """There is nothing better to send."""
        return False

    async def refusal(self, response: httpx.Response) -> BandSoxError:
        """The error for what the service answers."""
        if response.status_code in (400, 401, 403):
            return self._denied(response.status_code)
        kind = RegistryUnavailable if http.is_passing(response) else RegistryError
        return kind(f"the authorization service {self._name} answered with the status {response.status_code}")

    def unreachable(self, cause: str) -> BandSoxError:
        """The error for a service that does not answer."""
        return RegistryUnavailable(f"the authorization service {self._name} cannot be reached", cause=cause)

    def misdirected(self, cause: str) -> BandSoxError:
        """The error for a redirect that cannot be followed."""
        return RegistryError(f"the authorization service {self._name} gave no token", cause=cause)
