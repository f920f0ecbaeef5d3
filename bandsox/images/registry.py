"""The client of container registries (OCI distribution-spec 1.1, "Pull"; Docker's token authentication).

Own code on httpx, because the libraries there are do not do what is needed: `oras` and `python-dxf` are synchronous on
requests, read a manifest into untyped dicts, choose no platform and resume nothing; `docker-registry-client-async` is
no longer kept. What is used of the protocol is four requests.

What it promises: every manifest and blob is checked against its digest and size; blobs come three at a time and go on
where they broke off, in this process or an earlier one; mirrors are tried first; a credential is sent to no other
host than its own (httpx drops it when a redirect leaves the host).
"""

from __future__ import annotations

import asyncio
import random
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import httpx
import msgspec

from bandsox.errors import BandSoxError, CorruptImage, DigestMismatch, ImageNotFound, RegistryError, RegistryUnavailable
from bandsox.images import spec
from bandsox.images.auth import Credentials, find_credentials
from bandsox.images.blobs import Partial
from bandsox.images.reference import DOCKER_HUB, Reference
from bandsox.images.registries import Endpoint, Registries
from bandsox.images.transports import Context, Fetched
from bandsox.images.workers import Task, together
from bandsox.version import __version__

_ACCEPT = ", ".join((*spec.MANIFEST_TYPES, *spec.INDEX_TYPES))
_PARALLEL = 3
_ATTEMPTS = 5
_BACKOFF_S = 0.5
_MAX_BACKOFF_S = 8.0
_MAX_RETRY_AFTER_S = 60.0
_MAX_TOKEN = 1 << 20
_MAX_ERROR = 64 * 1024
_WRITE_SIZE = 1 << 20
_TIMEOUT = httpx.Timeout(60, connect=15, pool=None)
_PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))
_CHALLENGE = re.compile(r'([a-zA-Z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_MAX_INDEX_DEPTH = 3


async def fetch(reference: Reference, context: Context, registries: Registries) -> Fetched:
    """Download an image into the blob store, from a mirror or the registry itself.

    Raises
    ------
    ImageNotFound: the registry has no such image, or not for this platform.
    RegistryUnavailable: it cannot be reached, or broke off too often.
    RegistryError: it refused, or spoke nonsense.
    DigestMismatch, CorruptImage, StorageFull: as they say.
    """
    *mirrors, origin = registries.endpoints(reference.domain)
    for endpoint in mirrors:
        try:
            return await _fetch_from(endpoint, reference, context)
        except (ImageNotFound, RegistryError, RegistryUnavailable, DigestMismatch, CorruptImage):
            continue
    return await _fetch_from(origin, reference, context)


async def _fetch_from(endpoint: Endpoint, reference: Reference, context: Context) -> Fetched:
    async with _open(endpoint, reference) as session:
        return await _Pull(session, reference, context).run()


class _Pull:
    """The download of one image from one endpoint."""

    def __init__(self, session: _Session, reference: Reference, context: Context) -> None:
        self._session = session
        self._reference = reference
        self._context = context

    async def run(self) -> Fetched:
        manifest, data = await self._manifest()
        blobs = {blob.digest: blob for blob in (manifest.config, *manifest.layers)}
        missing = [blob for blob in blobs.values() if not self._context.blobs.has(blob.digest)]
        self._context.blobs.require_space(sum(blob.size for blob in missing))
        await together([self._blob(blob) for blob in missing], _PARALLEL)
        config = spec.decode_config(self._context.blobs.read(manifest.config.digest, spec.MAX_CONFIG), manifest)
        return Fetched(self._context.blobs.put(data), manifest, config)

    async def _manifest(self) -> tuple[spec.Manifest, bytes]:
        """The manifest for the wanted platform, through as many indexes as lead to it."""
        wanted = self._reference.digest or self._reference.tag or ""
        for _ in range(_MAX_INDEX_DEPTH):
            data, media_type = await self._session.manifest(wanted)
            document = spec.decode_manifest(data, media_type)
            if isinstance(document, spec.Manifest):
                return document, data
            wanted = spec.select(document, self._context.platform).digest
        raise CorruptImage(f"the indexes of {self._reference} are nested too deep")

    async def _blob(self, blob: spec.Descriptor) -> None:
        task = Task(self._context.progress, blob.digest, f"layer {blob.digest[7:19]}", blob.size)
        async with self._context.blobs.partial(blob.digest, blob.size) as partial:
            if partial is not None:
                resumed = partial.offset > 0
                try:
                    await self._complete(blob, partial, task)
                except DigestMismatch:
                    if not resumed:
                        raise
                    await self._complete(blob, partial, task)  # what an earlier process left was something else
        task.finish()

    async def _complete(self, blob: spec.Descriptor, partial: Partial, task: Task) -> None:
        await self._session.download(blob, partial, task)
        await partial.commit()


@asynccontextmanager
async def _open(endpoint: Endpoint, reference: Reference) -> AsyncIterator[_Session]:
    """A session with an endpoint: over HTTPS, or plain HTTP where that is allowed and HTTPS is not spoken."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            httpx.AsyncClient(
                verify=endpoint.tls(),
                follow_redirects=True,
                max_redirects=10,
                timeout=_TIMEOUT,
                headers={"User-Agent": f"bandsox/{__version__}", "Accept-Encoding": "identity"},
            )
        )
        scheme = "https"
        if endpoint.insecure and not await _speaks_tls(client, endpoint):
            scheme = "http"
        yield _Session(client, scheme, endpoint, reference)


async def _speaks_tls(client: httpx.AsyncClient, endpoint: Endpoint) -> bool:
    try:
        await client.get(f"https://{endpoint.host}/v2/")
    except httpx.ConnectError as error:
        return not _is_tls_error(error)
    except httpx.TransportError:
        return True
    return True


def _is_tls_error(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


class _Session:
    """Requests to one repository of one endpoint, with retries and authentication."""

    def __init__(self, client: httpx.AsyncClient, scheme: str, endpoint: Endpoint, reference: Reference) -> None:
        self._client = client
        self._endpoint = endpoint
        self._reference = reference
        self._repository = f"{endpoint.prefix}{reference.repository}"
        self._base = f"{scheme}://{endpoint.host}/v2/{self._repository}"
        self._scheme = scheme
        self._authorization: str | None = None
        self._authorizing = asyncio.Lock()

    # ── what is asked for ───────────────────────────────────────────────────────────────────────

    async def manifest(self, wanted: str) -> tuple[bytes, str]:
        """A manifest by tag or digest, checked where a digest is known, and its media type."""
        async with self._get(f"manifests/{wanted}", {"Accept": _ACCEPT}) as response:
            data = await _body(response, spec.MAX_MANIFEST, f"the manifest of {self._reference}")
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
            announced = response.headers.get("Docker-Content-Digest", "")
        for digest in (wanted, announced):
            if spec.is_digest(digest):
                spec.verify(data, digest, f"the manifest of {self._reference}")
        return data, media_type

    async def download(self, blob: spec.Descriptor, partial: Partial, task: Task) -> None:
        """Download what is missing of a blob, going on after interruptions as long as each attempt brings something."""
        failures = 0
        while partial.offset < blob.size:
            before = partial.offset
            try:
                await self._download_once(blob, partial, task)
                cause = "the connection was closed too early"
            except httpx.TransportError as error:
                cause = _reason(error)
            failures = 1 if partial.offset > before else failures + 1
            if partial.offset < blob.size:
                if failures >= _ATTEMPTS:
                    raise self._unavailable(cause)
                await asyncio.sleep(_backoff(failures - 1))

    async def _download_once(self, blob: spec.Descriptor, partial: Partial, task: Task) -> None:
        headers = {"Range": f"bytes={partial.offset}-"} if partial.offset else {}
        async with self._get(f"blobs/{blob.digest}", headers) as response:
            if partial.offset and not _continues(response, partial.offset):
                partial.restart()
            pending = bytearray()
            try:
                async for chunk in response.aiter_raw():
                    pending += chunk
                    task.update(partial.offset + len(pending))
                    if len(pending) >= _WRITE_SIZE:
                        await partial.write(bytes(pending))
                        pending.clear()
            except httpx.TransportError:
                await partial.write(bytes(pending))
                raise
            await partial.write(bytes(pending))

    # ── requests ────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def _get(self, path: str, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
        """A successful response to a GET, after retries and, where it is asked for, authentication."""
        attempt = 0
        challenged = False
        while True:
            sent = self._authorization
            request = self._client.build_request("GET", f"{self._base}/{path}", headers={**headers, **self._credentials()})
            try:
                response = await self._client.send(request, stream=True)
            except httpx.TooManyRedirects as error:
                raise RegistryError(f"{self._endpoint.host} redirects in a circle") from error
            except httpx.TransportError as error:
                attempt += 1
                if attempt >= (_ATTEMPTS if not isinstance(error, httpx.ConnectError) else 3) or _is_tls_error(error):
                    raise self._unavailable(_reason(error)) from error
                await asyncio.sleep(_backoff(attempt - 1))
                continue
            try:
                if response.status_code in (200, 206):
                    yield response
                    return
                if response.status_code == 416 and "Range" in headers:
                    headers = {name: value for name, value in headers.items() if name != "Range"}
                    continue
                if response.status_code == 401 and not (challenged and sent == self._authorization):
                    challenged = True
                    await self._authorize(response, sent)
                    continue
                attempt += 1
                if response.status_code not in _PASSING or attempt >= _ATTEMPTS:
                    raise await self._failure(response)
                delay = _retry_after(response) or _backoff(attempt - 1)
            finally:
                await response.aclose()
            await asyncio.sleep(delay)

    def _credentials(self) -> dict[str, str]:
        return {"Authorization": self._authorization} if self._authorization else {}

    async def _authorize(self, response: httpx.Response, sent: str | None) -> None:
        """Answer a challenge (RFC 7235; distribution's "Token Authentication Specification")."""
        async with self._authorizing:
            if self._authorization != sent:
                return
            scheme, _, rest = response.headers.get("WWW-Authenticate", "").partition(" ")
            credentials = await find_credentials(self._endpoint.credentials_key, self._reference.repository)
            if scheme.lower() == "basic" and credentials is not None and credentials.username:
                auth = httpx.BasicAuth(credentials.username, credentials.password)
                probe = next(auth.auth_flow(httpx.Request("GET", self._base)))
                self._authorization = probe.headers["Authorization"]
            elif scheme.lower() == "bearer":
                parameters = {name.lower(): quoted or plain for name, quoted, plain in _CHALLENGE.findall(rest)}
                self._authorization = f"Bearer {await self._token(parameters, credentials)}"
            if self._authorization == sent:
                raise self._denied(401, credentials is not None)

    async def _token(self, challenge: dict[str, str], credentials: Credentials | None) -> str:
        """Get a token from the authorization service that a challenge names."""
        if credentials is not None and credentials.registry_token:
            return credentials.registry_token
        realm = urlsplit(challenge.get("realm", ""))
        if realm.scheme not in ("https", self._scheme) or not realm.hostname:
            raise RegistryError(f"{self._endpoint.host} names an authorization service that cannot be trusted: {realm.geturl()[:200]!r}")
        parameters = {"service": challenge.get("service", ""), "scope": challenge.get("scope") or f"repository:{self._repository}:pull"}
        try:
            response = await self._ask_token(realm.geturl(), parameters, credentials)
        except httpx.TransportError as error:
            raise RegistryUnavailable(f"the authorization service {realm.hostname} cannot be reached", cause=_reason(error)) from error
        if response.status_code in (400, 401, 403):
            raise self._denied(response.status_code, credentials is not None)
        if response.status_code != 200 or len(response.content) > _MAX_TOKEN:
            raise RegistryUnavailable(f"the authorization service {realm.hostname} answered with the status {response.status_code}")
        try:
            answer = msgspec.json.decode(response.content, type=_TokenAnswer)
        except msgspec.DecodeError as error:
            raise RegistryError(f"the authorization service {realm.hostname} gave no token", cause=str(error)) from error
        return answer.token or answer.access_token

    async def _ask_token(self, realm: str, parameters: dict[str, str], credentials: Credentials | None) -> httpx.Response:
        if credentials is not None and credentials.identity_token:
            form = {**parameters, "grant_type": "refresh_token", "refresh_token": credentials.identity_token, "client_id": "bandsox"}
            return await self._client.post(realm, data=form)
        auth = httpx.BasicAuth(credentials.username, credentials.password) if credentials is not None else None
        url = httpx.URL(realm).copy_merge_params({name: value for name, value in parameters.items() if value})
        return await self._client.get(url, auth=auth)

    # ── failures ────────────────────────────────────────────────────────────────────────────────

    def _unavailable(self, cause: str) -> RegistryUnavailable:
        host = self._endpoint.host
        remedy = "check the network, the proxy settings (HTTPS_PROXY, NO_PROXY) and the registry's name"
        if "certificate" in cause.lower():
            remedy = f"name its certificate authority or `insecure = true` for {host} in registries.toml"
        elif "ssl" in cause.lower() or "tls" in cause.lower():
            remedy = f"if {host} speaks plain HTTP, set `insecure = true` for it in registries.toml, or BANDSOX_INSECURE_REGISTRIES={host}"
        return RegistryUnavailable(f"{host} could not be reached for {self._reference.familiar}", cause=cause, remedy=remedy)

    def _denied(self, status: int, had_credentials: bool) -> BandSoxError:
        domain = self._reference.domain
        known = "the credentials for it were refused" if had_credentials else "there are no credentials for it here"
        return RegistryError(
            f"{domain} refuses access to {self._reference.familiar}",
            cause=f"it does not exist, or needs a login, and {known} (status {status})",
            remedy="check the name, and log in with `docker login" + ("`" if domain == DOCKER_HUB else f" {domain}`"),
        )

    async def _failure(self, response: httpx.Response) -> BandSoxError:
        """The error for a status that is none of success."""
        status = response.status_code
        reason = _registry_reason(await _body(response, _MAX_ERROR, "the registry's answer"))
        if status in (401, 403):
            return self._denied(status, self._authorization is not None)
        if status == 404:
            return ImageNotFound(
                f"{self._reference.domain} has no image {self._reference.familiar}", cause=reason, remedy="check the name and the tag"
            )
        if status == 429:
            return RegistryUnavailable(
                f"{self._reference.domain} limits how often images may be pulled",
                cause=reason,
                remedy="try later, or log in for a higher limit",
            )
        message = f"{self._endpoint.host} answered with the status {status} for {self._reference.familiar}"
        return RegistryUnavailable(message, cause=reason) if status in _PASSING else RegistryError(message, cause=reason)


class _TokenAnswer(msgspec.Struct):
    token: str = ""
    access_token: str = ""


class _RegistryProblem(msgspec.Struct):
    code: str = ""
    message: str = ""


class _RegistryProblems(msgspec.Struct):
    errors: list[_RegistryProblem] = []


def _registry_reason(body: bytes) -> str | None:
    """What the registry says itself (distribution-spec, "Error Codes")."""
    try:
        problems = msgspec.json.decode(body, type=_RegistryProblems).errors
    except msgspec.DecodeError:
        return None
    return "; ".join(f"{problem.code}: {problem.message}"[:200] for problem in problems[:3]) or None


async def _body(response: httpx.Response, limit: int, what: str) -> bytes:
    data = bytearray()
    try:
        async for chunk in response.aiter_raw():
            data += chunk
            if len(data) > limit:
                raise CorruptImage(f"{what} is longer than {limit} bytes")
    except httpx.TransportError as error:
        raise RegistryUnavailable(f"{what} broke off", cause=_reason(error)) from error
    return bytes(data)


def _continues(response: httpx.Response, offset: int) -> bool:
    """Whether a response is the part of the blob from `offset` on (RFC 9110, section 14.4)."""
    return response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return min(float(value), _MAX_RETRY_AFTER_S) if value.isdigit() else None


def _backoff(attempt: int) -> float:
    return min(_MAX_BACKOFF_S, _BACKOFF_S * float(1 << attempt)) * random.uniform(0.5, 1)  # noqa: S311 - spreads retries, nothing more


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
