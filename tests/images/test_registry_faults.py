"""Registries that redirect, refuse, break off, fall silent and lie: a hostile front before a real registry."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from bandsox.errors import DigestMismatch, RegistryError, RegistryUnavailable
from bandsox.images import Images
from bandsox.settings import Layout
from tests.http.server import Answer, Request, Server, serve
from tests.images.authority import Authority
from tests.images.registry import PASSWORD, USER, Registry
from tests.images.tars import Tar, sha256
from tests.images.trees import content, tree_of_squashfs

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]

DATA = os.urandom(400_000)
LAYER = Tar().file("a", DATA).bytes()
BLOB = f"/blobs/{sha256(LAYER)}"

Front = Callable[[Request], Answer]


@pytest.fixture
def name(registry: Registry, request: pytest.FixtureRequest) -> str:
    """A repository of the test's own, with an image in it."""
    repository = request.node.name.split("[")[0].replace("_", "-").lower()
    registry.push(repository, [LAYER])
    return repository


def forward(registry: Registry, request: Request) -> Answer:
    headers = {name: value for name, value in request.headers.items() if name in ("accept", "authorization", "range")}
    said = httpx.get(f"http://{registry.host}{request.path}", headers=headers, timeout=120)
    kept = ("content-type", "docker-content-digest", "www-authenticate", "content-range")
    return Answer(said.status_code, said.content, {name: said.headers[name] for name in kept if name in said.headers})


def front(registry: Registry, *faults: Answer | Front, path: str = BLOB) -> Front:
    """Pass requests on, but answer the first ones for `path` with `faults`."""
    left = list(faults)

    def answer(request: Request) -> Answer:
        if request.path.endswith(path) and left:
            fault = left.pop(0)
            return fault if isinstance(fault, Answer) else fault(request)
        return forward(registry, request)

    return answer


def impatient(layout: Layout) -> None:
    (layout.root / "registries.toml").write_text("timeout_s = 0.3\n")


def log_in(server: Server, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (directory / "config.json").write_text(json.dumps({"auths": {server.host: {"auth": encoded}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(directory))


# ── redirects ───────────────────────────────────────────────────────────────────────────────────


async def test_credentials_do_not_follow_a_redirect_to_another_host(
    closed_registry: Registry, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed_registry.push("app", [LAYER])
    with serve(lambda _: Answer(body=LAYER)) as elsewhere:
        away = Answer(307, headers={"Location": f"{elsewhere.origin}/somewhere?signature=1"})
        with serve(front(closed_registry, away)) as server:
            log_in(server, tmp_path, monkeypatch)
            image = await images.resolve(f"{server.host}/app")
            assert any("authorization" in request.headers for request in server.requests if BLOB in request.path)
        assert tree_of_squashfs(image.rootfs)[b"a"].content == content(DATA)
        assert [(request.path, request.headers.get("authorization")) for request in elsewhere.requests] == [
            ("/somewhere?signature=1", None)
        ]


async def test_a_login_asked_for_by_another_host_is_not_given(
    closed_registry: Registry, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed_registry.push("app", [LAYER])
    with serve(lambda _: Answer(body=b'{"token": "x"}')) as thief:
        challenge = {"WWW-Authenticate": f'Bearer realm="{thief.origin}/token",service="x"'}
        with serve(lambda _: Answer(401, headers=challenge)) as elsewhere:
            away = Answer(307, headers={"Location": f"{elsewhere.origin}/blob"})
            with serve(front(closed_registry, *[away] * 9)) as server:
                log_in(server, tmp_path, monkeypatch)
                with pytest.raises(RegistryError):
                    await images.resolve(f"{server.host}/app")
        assert thief.requests == []


async def test_https_never_leads_to_plain_http(registry: Registry, images: Images, layout: Layout, tmp_path: Path, name: str) -> None:
    authority = Authority.make(tmp_path / "ca")
    with serve(lambda _: Answer(body=LAYER)) as plain:
        away = Answer(302, headers={"Location": f"{plain.origin}/blob"})
        with serve(front(registry, away), authority.server_context()) as server:
            (layout.root / "registries.toml").write_text(f'[[registry]]\nname = "{server.host}"\nca = "{authority.certificate}"\n')
            with pytest.raises(RegistryError) as caught:
                await images.resolve(f"{server.host}/{name}")
        assert plain.requests == []
    assert "from https to http" in (caught.value.cause or "")


async def test_plain_http_may_lead_to_https(registry: Registry, images: Images, tmp_path: Path, name: str) -> None:
    authority = Authority.make(tmp_path / "ca")
    with serve(lambda _: Answer(body=LAYER), authority.server_context()) as encrypted:
        away = Answer(302, headers={"Location": f"{encrypted.origin}/blob"})
        with serve(front(registry, away)) as server:
            assert await images.resolve(f"{server.host}/{name}")


async def test_a_circle_of_redirects_is_an_error(registry: Registry, images: Images, name: str) -> None:
    with serve(front(registry, *[Answer(302, headers={"Location": BLOB})] * 99)) as server:
        with pytest.raises(RegistryError) as caught:
            await images.resolve(f"{server.host}/{name}")
        assert len(server.requests) < 20
    assert "redirects too often" in (caught.value.cause or "")


# ── refusals that pass ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("path", [BLOB, "/manifests/latest"], ids=["blob", "manifest"])
async def test_a_passing_failure_is_tried_again(registry: Registry, images: Images, name: str, status: int, path: str) -> None:
    faults = [Answer(status, headers={"Retry-After": wait}) for wait in ("0", "Wed, 21 Oct 2015 07:28:00 GMT")]
    with serve(front(registry, *faults, path=path)) as server:
        assert await images.resolve(f"{server.host}/{name}")
        assert len([request for request in server.requests if request.path.endswith(path)]) == 3


async def test_a_limit_that_lasts_long_is_said_at_once(registry: Registry, images: Images, name: str) -> None:
    problem = json.dumps({"errors": [{"code": "TOOMANYREQUESTS", "message": "pull rate limit"}]}).encode()
    limited = front(registry, Answer(429, problem, {"Retry-After": "3600"}), path="/manifests/latest")
    with serve(limited) as server, pytest.raises(RegistryUnavailable, match="limits how often") as caught:
        await images.resolve(f"{server.host}/{name}")
    assert "pull rate limit" in (caught.value.cause or "")
    assert caught.value.retryable


async def test_a_failure_that_stays_is_an_error(registry: Registry, images: Images, name: str) -> None:
    with serve(front(registry, *[Answer(503, headers={"Retry-After": "0"})] * 99)) as server:
        with pytest.raises(RegistryUnavailable, match="503"):
            await images.resolve(f"{server.host}/{name}")
        assert len(server.requests) < 12


# ── bodies that are not what was announced ──────────────────────────────────────────────────────


async def test_a_body_shorter_than_announced_is_gone_on_with(registry: Registry, images: Images, name: str) -> None:
    with serve(front(registry, Answer(body=LAYER[:150_000], length=len(LAYER)))) as server:
        assert await images.resolve(f"{server.host}/{name}")
        assert [request.headers.get("range") for request in server.requests if BLOB in request.path] == [None, "bytes=150000-"]


async def test_a_body_announced_too_short_is_gone_on_with(registry: Registry, images: Images, name: str) -> None:
    with serve(front(registry, Answer(body=LAYER, length=100_000))) as server:
        image = await images.resolve(f"{server.host}/{name}")
    assert tree_of_squashfs(image.rootfs)[b"a"].content == content(DATA)


@pytest.mark.parametrize("body", [LAYER + b"x", b"x" * len(LAYER)], ids=["too long", "another"])
async def test_a_blob_that_is_something_else_is_refused_and_not_kept(
    registry: Registry, images: Images, layout: Layout, name: str, body: bytes
) -> None:
    with serve(front(registry, Answer(body=body))) as server:
        with pytest.raises(DigestMismatch):
            await images.resolve(f"{server.host}/{name}")
        assert not (layout.images / "blobs/sha256" / sha256(LAYER)[7:]).exists()
        assert await images.resolve(f"{server.host}/{name}")  # the next try is not spoiled by what came


async def test_the_wrong_part_of_a_blob_is_not_taken(registry: Registry, images: Images, name: str) -> None:
    def wrong_part(_: Request) -> Answer:
        return Answer(206, LAYER[1000:], {"Content-Range": f"bytes 1000-{len(LAYER) - 1}/{len(LAYER)}"})

    with serve(front(registry, Answer(body=LAYER, cut=150_000), wrong_part)) as server:
        image = await images.resolve(f"{server.host}/{name}")
    assert tree_of_squashfs(image.rootfs)[b"a"].content == content(DATA)


async def test_a_manifest_without_end_is_refused(registry: Registry, images: Images, name: str) -> None:
    endless = Answer(body=b" " * 6_000_000, headers={"Content-Type": "application/vnd.oci.image.manifest.v1+json"})
    with serve(front(registry, endless, path="/manifests/latest")) as server, pytest.raises(Exception, match="is longer than"):
        await images.resolve(f"{server.host}/{name}")


# ── silence ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("drip", [False, True], ids=["silent", "dripping"])
async def test_a_download_that_falls_silent_is_gone_on_with(
    registry: Registry, images: Images, layout: Layout, name: str, drip: bool
) -> None:
    impatient(layout)
    with serve(front(registry, Answer(body=LAYER, silent_after=150_000, drip=drip))) as server:
        assert await images.resolve(f"{server.host}/{name}")
        assert len([request for request in server.requests if "range" in request.headers]) == 1


async def test_a_registry_that_says_nothing_at_all_is_unavailable(registry: Registry, images: Images, layout: Layout, name: str) -> None:
    impatient(layout)
    silent = Answer(body=b"x", silent_after=0)
    with serve(front(registry, *[silent] * 99, path="/manifests/latest")) as server, pytest.raises(RegistryUnavailable):
        await images.resolve(f"{server.host}/{name}")


# ── mirrors ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "fault", [Answer(404), Answer(403), Answer(500), Answer(body=b"{")], ids=["absent", "forbidden", "broken", "nonsense"]
)
async def test_a_mirror_that_fails_is_passed_over(registry: Registry, images: Images, layout: Layout, name: str, fault: Answer) -> None:
    with serve(lambda _: fault) as mirror:
        (layout.root / "registries.toml").write_text(f'[[registry]]\nname = "{registry.host}"\nmirrors = ["{mirror.origin}"]\n')
        assert await images.resolve(f"{registry.host}/{name}")
        assert mirror.requests


async def test_a_mirror_that_gives_another_layer_is_passed_over(registry: Registry, images: Images, layout: Layout, name: str) -> None:
    with serve(front(registry, *[Answer(body=b"x" * len(LAYER))] * 9)) as mirror:
        (layout.root / "registries.toml").write_text(f'[[registry]]\nname = "{registry.host}"\nmirrors = ["{mirror.origin}"]\n')
        image = await images.resolve(f"{registry.host}/{name}")
    assert tree_of_squashfs(image.rootfs)[b"a"].content == content(DATA)


async def test_credentials_for_the_registry_do_not_go_to_its_mirror(
    closed_registry: Registry, images: Images, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed_registry.push("app", [LAYER])
    with serve(lambda _: Answer(401, headers={"WWW-Authenticate": 'Basic realm="x"'})) as mirror:
        (layout.root / "registries.toml").write_text(f'[[registry]]\nname = "{closed_registry.host}"\nmirrors = ["{mirror.origin}"]\n')
        log_in(Server(f"http://{closed_registry.host}", []), tmp_path, monkeypatch)
        assert await images.resolve(f"{closed_registry.host}/app")
        assert mirror.requests
        assert not any("authorization" in request.headers for request in mirror.requests)
