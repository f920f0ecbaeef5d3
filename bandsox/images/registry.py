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
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import msgspec

from bandsox import http
from bandsox.decoding import ready
from bandsox.errors import BandSoxError, CorruptImage, DigestMismatch, ImageNotFound, RegistryError, RegistryUnavailable
from bandsox.images import spec, tokens
from bandsox.images.auth import Credentials, find_credentials
from bandsox.images.blobs import BlobStore, Partial
from bandsox.images.reference import DOCKER_HUB, Reference
from bandsox.images.registries import Endpoint, Registries
from bandsox.images.transports import Context, Fetched
from bandsox.workers import Task, together

_ACCEPT = ", ".join((*spec.MANIFEST_TYPES, *spec.INDEX_TYPES))
_PARALLEL = 3
_MAX_ERROR = 64 * 1024
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
    async with open_session(endpoint, reference) as session:
        return await _Pull(session, reference, context).run()


class _Pull:
    """The download of one image from one endpoint."""

    def __init__(self, session: Session, reference: Reference, context: Context) -> None:
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
        await fetch_blob(self._session, blob, self._context.blobs, task)


async def fetch_blob(session: Session, blob: spec.Descriptor, blobs: BlobStore, task: Task) -> None:
    """Download a blob, unless it is here, and go on with what an earlier process left of it.

    Raises
    ------
    As `fetch`.
    """
    async with blobs.partial(blob.digest, blob.size) as partial:
        if partial is not None:
            resumed = partial.offset > 0
            try:
                await _complete(session, blob, partial, task)
            except DigestMismatch:
                if not resumed:
                    raise
                await _complete(session, blob, partial, task)  # what an earlier process left was something else
    task.finish()


async def _complete(session: Session, blob: spec.Descriptor, partial: Partial, task: Task) -> None:
    await session.download(blob, partial, task)
    await partial.commit()


@asynccontextmanager
async def open_session(endpoint: Endpoint, reference: Reference, actions: str = "pull") -> AsyncIterator[Session]:
    """A session with an endpoint: over HTTPS, or plain HTTP where that is allowed and HTTPS is not spoken.

    Parameters
    ----------
    actions: what is to be done with the repository (Docker's "Token Scope Documentation").
    """
    async with http.client(endpoint.patience, verify=endpoint.tls()) as client:
        scheme = "https"
        if endpoint.insecure and not await _speaks_tls(client, endpoint):
            scheme = "http"
        yield Session(client, scheme, endpoint, reference, actions)


async def _speaks_tls(client: httpx.AsyncClient, endpoint: Endpoint) -> bool:
    try:
        async with client.stream("GET", f"https://{endpoint.host}/v2/"):
            return True
    except httpx.ConnectError as error:
        return not http.is_tls_error(error)
    except httpx.TransportError:
        return True


class Session:
    """Requests to one repository of one endpoint, with retries and authentication."""

    def __init__(self, client: httpx.AsyncClient, scheme: str, endpoint: Endpoint, reference: Reference, actions: str) -> None:
        self.client = client
        self._endpoint = endpoint
        self._reference = reference
        self._repository = f"{endpoint.prefix}{reference.repository}"
        self.base = f"{scheme}://{endpoint.host}/v2/{self._repository}"
        self._scheme = scheme
        self._actions = actions
        self._authorization: str | None = None
        self._authorizing = asyncio.Lock()

    # ── what is asked for ───────────────────────────────────────────────────────────────────────

    async def manifest(self, wanted: str) -> tuple[bytes, str]:
        """A manifest by tag or digest, checked where a digest is known, and its media type."""
        async with http.request(self.client, f"{self.base}/manifests/{wanted}", self, {"Accept": _ACCEPT}) as response:
            try:
                data = await http.body(response, spec.MAX_MANIFEST)
            except httpx.TransportError as error:
                raise self.unreachable(http.reason(error)) from error
            if data is None:
                raise CorruptImage(f"the manifest of {self._reference} is longer than {spec.MAX_MANIFEST} bytes")
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
            announced = response.headers.get("Docker-Content-Digest", "")
        for digest in (wanted, announced):
            if spec.is_digest(digest):
                spec.verify(data, digest, f"the manifest of {self._reference}")
        return data, media_type

    async def download(self, blob: spec.Descriptor, partial: Partial, task: Task) -> None:
        """Download what is missing of a blob."""
        if partial.offset < blob.size:
            url = f"{self.base}/blobs/{blob.digest}"
            await http.receive(self.client, url, self, partial, size=blob.size, verified=True, report=task.update)

    # ── what `bandsox.http` asks ────────────────────────────────────────────────────────────────

    @property
    def patience(self) -> http.Patience:
        """How long the registry is waited for."""
        return self._endpoint.patience

    def headers(self) -> dict[str, str]:
        """The credentials, once the registry has asked for some."""
        return {"Authorization": self._authorization} if self._authorization else {}

    async def authorize(self, response: httpx.Response, sent: dict[str, str]) -> bool:
        """Answer a challenge with what the user's files of credentials hold."""
        async with self._authorizing:
            if self.headers() != sent:
                return True  # another request has got a token meanwhile
            credentials = await find_credentials(self._endpoint.credentials_key, self._reference.repository)
            for scheme, parameters in tokens.challenges(response):
                if scheme == "basic" and credentials is not None and credentials.username:
                    self._authorization = tokens.basic(credentials)
                    break
                if scheme == "bearer":
                    self._authorization = f"Bearer {await self._token(parameters, credentials)}"
                    break
            if self.headers() == sent:
                raise self._denied(401, credentials is not None)
            return True

    async def _token(self, challenge: dict[str, str], credentials: Credentials | None) -> str:
        if credentials is not None and credentials.registry_token:
            return credentials.registry_token
        service = tokens.TokenService(
            self._endpoint.host,
            challenge,
            f"repository:{self._repository}:{self._actions}",
            credentials,
            schemes=("https", self._scheme),
            patience=self.patience,
            denied=lambda status: self._denied(status, credentials is not None),
        )
        return await service.token(self.client)

    async def refusal(self, response: httpx.Response) -> BandSoxError:
        """The error for what the registry answers."""
        status = response.status_code
        try:
            said = _registry_reason(await http.body(response, _MAX_ERROR))
        except httpx.TransportError as error:
            said = http.reason(error)
        if status in (401, 403):
            return self._denied(status, self._authorization is not None)
        if status == 404:
            return ImageNotFound(
                f"{self._reference.domain} has no image {self._reference.familiar}", cause=said, remedy="check the name and the tag"
            )
        if status == 429:
            return RegistryUnavailable(
                f"{self._reference.domain} limits how often images may be pulled",
                cause=said,
                remedy="try later, or log in for a higher limit",
            )
        kind = RegistryUnavailable if http.is_passing(response) else RegistryError
        return kind(f"{self._endpoint.host} answered with the status {status} for {self._reference.familiar}", cause=said)

    def misdirected(self, cause: str) -> BandSoxError:
        """The error for a redirect that cannot be followed."""
        return RegistryError(f"{self._endpoint.host} cannot give {self._reference.familiar}", cause=cause)

    # ── failures ────────────────────────────────────────────────────────────────────────────────

    def unreachable(self, cause: str) -> BandSoxError:
        """The error for a registry that does not answer."""
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


class _RegistryProblem(msgspec.Struct):
    code: str = ""
    message: str = ""


class _RegistryProblems(msgspec.Struct):
    errors: list[_RegistryProblem] = []


def _registry_reason(body: bytes | None) -> str | None:
    """What the registry says itself (distribution-spec, "Error Codes")."""
    try:
        problems = msgspec.json.decode(body or b"", type=ready(_RegistryProblems)).errors
    except msgspec.DecodeError:
        return None
    return "; ".join(f"{problem.code}: {problem.message}"[:200] for problem in problems[:3]) or None
