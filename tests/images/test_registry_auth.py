"""Tokens and TLS: a real registry that verifies the tokens of a real token service, and certificates of an authority of the test's."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from bandsox.errors import InvalidRequest, RegistryError, RegistryUnavailable
from bandsox.images import Images
from bandsox.settings import Layout
from tests.http.server import Answer, Request, Server, serve
from tests.images.authority import REFRESH_TOKEN, Authority, TokenService, token_service
from tests.images.registry import PASSWORD, USER, Registry, run_registry
from tests.images.tars import Tar

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]

LAYERS = [Tar().file(str(number), os.urandom(50_000)).bytes() for number in range(3)]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority") / "ca")


@pytest.fixture
def tokens(authority: Authority) -> Iterator[TokenService]:
    with token_service(authority, "public") as service:
        yield service


@pytest.fixture
def guarded(tokens: TokenService, tmp_path: Path) -> Iterator[Registry]:
    """A registry that takes tokens only; it has a ``public`` and a ``private`` repository."""
    running = run_registry(tmp_path / "guarded", auth=tokens.registry_settings, authorization=tokens.push_authorization)
    with running as registry:
        for repository in ("public", "private"):
            registry.push(repository, LAYERS)
        yield registry


@pytest.fixture
def log_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Write Docker's file of credentials."""

    def write(host: str, password: str = PASSWORD, **entry: str) -> None:
        encoded = base64.b64encode(f"{USER}:{password}".encode()).decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {host: entry or {"auth": encoded}}}))
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    return write


# ── tokens ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_public_image_needs_no_login(guarded: Registry, tokens: TokenService, images: Images) -> None:
    assert await images.resolve(f"{guarded.host}/public")
    assert [request.headers.get("authorization") for request in tokens.requests] == [None]
    assert tokens.asked(0)["scope"] == "repository:public:pull"


async def test_a_private_one_says_so(guarded: Registry, images: Images, log_in: Callable[..., None]) -> None:
    with pytest.raises(RegistryError, match="refuses access") as caught:
        await images.resolve(f"{guarded.host}/private")
    assert "there are no credentials" in (caught.value.cause or "")
    log_in(guarded.host, "wrong")
    with pytest.raises(RegistryError, match="refuses access") as caught:
        await images.resolve(f"{guarded.host}/private")
    assert "were refused" in (caught.value.cause or "")


async def test_the_password_goes_to_the_token_service_and_not_to_the_registry(
    guarded: Registry, tokens: TokenService, images: Images, log_in: Callable[..., None]
) -> None:
    with serve(forward(guarded)) as front:
        log_in(front.host)
        assert await images.resolve(f"{front.host}/private")
        kinds = {request.headers.get("authorization", "none").partition(" ")[0] for request in front.requests}
    assert kinds == {"none", "Bearer"}
    assert len(tokens.requests) == 1


async def test_an_identity_token_of_a_credential_helper_is_exchanged(
    guarded: Registry, tokens: TokenService, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = tmp_path / "docker-credential-test"
    answer = json.dumps({"Username": "<token>", "Secret": REFRESH_TOKEN})
    helper.write_text(f"#!/bin/sh\n[ \"$1\" = get ] && echo '{answer}'\n")
    helper.chmod(0o755)
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {guarded.host: "test"}}))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert await images.resolve(f"{guarded.host}/private")
    assert tokens.asked(0)["grant_type"] == "refresh_token"
    assert "authorization" not in tokens.requests[0].headers


async def test_a_token_that_runs_out_in_the_middle_is_renewed(
    guarded: Registry, tokens: TokenService, images: Images, log_in: Callable[..., None]
) -> None:
    tokens.lifetimes = [3.0]
    issued = time.monotonic()
    passing = forward(guarded)

    def late(request: Request) -> Answer:
        if "/blobs/" in request.path:
            time.sleep(max(0.0, issued + 4.5 - time.monotonic()))  # until the first token is no longer valid
        return passing(request)

    with serve(late) as front:
        log_in(front.host)
        assert await images.resolve(f"{front.host}/private")
        assert len({request.headers.get("authorization") for request in front.requests}) == 3
    assert len(tokens.requests) == 2


async def test_each_repository_has_a_token_of_its_own(
    guarded: Registry, tokens: TokenService, images: Images, log_in: Callable[..., None]
) -> None:
    with serve(forward(guarded)) as front:
        log_in(front.host)
        await images.resolve(f"{front.host}/private")
        before = {request.headers.get("authorization") for request in front.requests}
        asked = len(front.requests)
        await images.resolve(f"{front.host}/public")
        after = {request.headers.get("authorization") for request in front.requests[asked:]}
    assert [tokens.asked(number)["scope"] for number in (0, 1)] == ["repository:private:pull", "repository:public:pull"]
    assert before & after == {None}


async def test_a_token_service_that_stumbles_is_asked_again(guarded: Registry, tokens: TokenService, images: Images) -> None:
    tokens.faults = [Answer(503, headers={"Retry-After": "0"}), Answer(429, headers={"Retry-After": "0"})]
    assert await images.resolve(f"{guarded.host}/public")


@pytest.mark.parametrize(
    "answer",
    [Answer(body=b"{"), Answer(body=b"{}"), Answer(body=b'{"token": "a\\r\\nb"}'), Answer(body=b" " * 2_000_000), Answer(404)],
    ids=["broken", "empty", "header injection", "endless", "nothing there"],
)
async def test_a_token_service_that_gives_no_token_is_an_error(
    guarded: Registry, tokens: TokenService, images: Images, answer: Answer
) -> None:
    tokens.faults = [answer] * 5
    with pytest.raises(RegistryError, match="authorization service"):
        await images.resolve(f"{guarded.host}/public")


async def test_a_refresh_token_does_not_follow_a_redirect_to_another_host(
    guarded: Registry, tokens: TokenService, images: Images, log_in: Callable[..., None]
) -> None:
    log_in(guarded.host, identitytoken=REFRESH_TOKEN)
    with serve(lambda _: Answer(body=b'{"token": "x"}')) as thief:
        tokens.faults = [Answer(307, headers={"Location": f"{thief.origin}/token"})] * 5
        with pytest.raises(RegistryError, match="gave no token"):
            await images.resolve(f"{guarded.host}/private")
        assert thief.requests == []


async def test_a_token_that_is_never_accepted_is_not_asked_for_without_end(tokens: TokenService, images: Images) -> None:
    challenge = f'Bearer realm="{tokens.origin}/token",service="the registry"'
    with serve(lambda _: Answer(401, headers={"WWW-Authenticate": challenge})) as registry:
        with pytest.raises(RegistryError, match="refuses access"):
            await images.resolve(f"{registry.host}/public")
        assert len(registry.requests) < 6


def forward(registry: Registry) -> Callable[[Request], Answer]:
    """Pass every request on to a registry, as a reverse proxy does."""

    def answer(request: Request) -> Answer:
        headers = {name: value for name, value in request.headers.items() if name in ("accept", "authorization", "range")}
        said = httpx.get(f"{registry.scheme}://{registry.host}{request.path}", headers=headers, verify=False, timeout=120)
        kept = ("content-type", "docker-content-digest", "www-authenticate", "content-range")
        return Answer(said.status_code, said.content, {name: said.headers[name] for name in kept if name in said.headers})

    return answer


# ── TLS ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def encrypted(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry whose certificate only the test's authority vouches for."""
    certificate, key = authority.issue("registry")
    tls = {"certificate": str(certificate), "key": str(key)}
    with run_registry(tmp_path_factory.mktemp("encrypted"), tls=tls) as registry:
        registry.push("app", LAYERS)
        yield registry


def configure(layout: Layout, registry: Registry | Server, settings: str) -> None:
    (layout.root / "registries.toml").write_text(f'[[registry]]\nname = "{registry.host}"\n{settings}\n')


async def test_a_private_authority_is_named_in_the_settings(
    encrypted: Registry, authority: Authority, images: Images, layout: Layout
) -> None:
    configure(layout, encrypted, f'ca = "{authority.certificate}"')
    assert await images.resolve(f"{encrypted.host}/app")


async def test_a_private_authority_is_found_in_certs_d(encrypted: Registry, authority: Authority, images: Images) -> None:
    directory = Path.home() / ".config/containers/certs.d" / encrypted.host
    directory.mkdir(parents=True)
    (directory / "ca.crt").write_bytes(authority.certificate.read_bytes())
    assert await images.resolve(f"{encrypted.host}/app")


async def test_an_unknown_authority_is_refused_with_the_remedy(encrypted: Registry, images: Images, layout: Layout) -> None:
    configure(layout, encrypted, "insecure = false")
    with pytest.raises(RegistryUnavailable) as caught:
        await images.resolve(f"{encrypted.host}/app")
    assert "certificate" in (caught.value.cause or "")
    assert "registries.toml" in (caught.value.remedy or "")


async def test_another_authority_is_refused(encrypted: Registry, images: Images, layout: Layout, tmp_path: Path) -> None:
    other = Authority.make(tmp_path / "other")
    configure(layout, encrypted, f'ca = "{other.certificate}"')
    with pytest.raises(RegistryUnavailable):
        await images.resolve(f"{encrypted.host}/app")


async def test_a_certificate_for_another_host_is_refused(authority: Authority, images: Images, layout: Layout) -> None:
    with serve(lambda _: Answer(), authority.server_context("DNS:other.example")) as registry:
        configure(layout, registry, f'ca = "{authority.certificate}"')
        with pytest.raises(RegistryUnavailable):
            await images.resolve(f"{registry.host}/app")
        assert registry.requests == []


async def test_an_insecure_registry_may_have_any_certificate(encrypted: Registry, images: Images, layout: Layout) -> None:
    configure(layout, encrypted, "insecure = true")
    assert await images.resolve(f"{encrypted.host}/app")


async def test_a_registry_that_wants_to_know_its_clients(authority: Authority, images: Images, tmp_path: Path) -> None:
    certificate, key = authority.issue("mutual")
    tls = {"certificate": str(certificate), "key": str(key), "clientcas": [str(authority.certificate)]}
    with run_registry(tmp_path / "mutual", tls=tls) as registry:
        directory = Path.home() / ".config/containers/certs.d" / registry.host
        directory.mkdir(parents=True)
        (directory / "ca.crt").write_bytes(authority.certificate.read_bytes())
        with pytest.raises(RegistryUnavailable):
            await images.resolve(f"{registry.host}/none")
        own, own_key = authority.issue("client", "email:client@example.com")
        (directory / "client.cert").write_bytes(own.read_bytes())
        (directory / "client.key").write_bytes(own_key.read_bytes())
        with pytest.raises(Exception, match="has no image"):
            await images.resolve(f"{registry.host}/none")


@pytest.mark.parametrize("content", [None, "nonsense"])
async def test_a_certificate_that_cannot_be_read_is_said(images: Images, layout: Layout, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    (layout.root / "registries.toml").write_text(f'[[registry]]\nname = "x.invalid"\nca = "{tmp_path / "ca.pem"}"\n')
    with pytest.raises(InvalidRequest, match=r"ca\.pem cannot be read"):
        await images.resolve("x.invalid/y")


async def test_an_encrypted_registry_cannot_have_its_tokens_from_plain_http(
    tokens: TokenService, authority: Authority, images: Images, layout: Layout
) -> None:
    challenge = f'Bearer realm="{tokens.origin}/token",service="the registry"'
    with serve(lambda _: Answer(401, headers={"WWW-Authenticate": challenge}), authority.server_context()) as registry:
        configure(layout, registry, f'ca = "{authority.certificate}"')
        with pytest.raises(RegistryError, match="cannot be trusted"):
            await images.resolve(f"{registry.host}/public")
    assert tokens.requests == []
