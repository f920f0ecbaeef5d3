"""Files from the web, over real sockets: whole and verified, or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from bandsox import download as downloads
from bandsox.download import Digest, Downloaded, file_name
from bandsox.errors import DigestMismatch, DownloadFailed, DownloadInterrupted, InvalidRequest
from bandsox.http import Patience
from bandsox.models import Progress
from tests.http.server import Answer, Request, ranged, serve

pytestmark = pytest.mark.anyio

DATA = random.Random(700_000).randbytes(700_000)  # the same in every process that runs tests
DIGEST = Digest("sha256", hashlib.sha256(DATA).hexdigest())
OTHER = Digest("sha256", "0" * 64)

download = partial(downloads.download, patience=Patience(pause_s=0.01))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "file"


def in_turn(*answers: Callable[[Request], Answer] | Answer) -> Callable[[Request], Answer]:
    """Each request gets the next answer; the last one stays."""
    left = list(answers)

    def answer(request: Request) -> Answer:
        chosen = left.pop(0) if len(left) > 1 else left[0]
        return chosen if isinstance(chosen, Answer) else chosen(request)

    return answer


async def test_a_file_arrives_with_its_digest_and_time(target: Path) -> None:
    seen: list[Progress] = []
    with serve(lambda _: Answer(body=DATA, headers={"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"})) as server:
        done = await download(f"{server.origin}/a/b.bin?x=1", target, progress=seen.append)
    assert done == Downloaded(target, len(DATA), DIGEST, 1445412480)
    assert target.read_bytes() == DATA
    assert list(target.parent.iterdir()) == [target]
    assert (seen[-1].label, seen[-1].done, seen[-1].total, seen[-1].finished) == ("fetching b.bin", len(DATA), len(DATA), True)


async def test_a_file_that_is_here_is_not_fetched_again(target: Path) -> None:
    target.write_bytes(DATA)
    with serve(lambda _: Answer(500)) as server:
        assert (await download(server.origin, target, digest=DIGEST)).size == len(DATA)
        assert server.requests == []


async def test_another_content_than_was_asked_for_is_dropped(target: Path) -> None:
    with serve(lambda _: Answer(body=DATA)) as server, pytest.raises(DigestMismatch) as caught:
        await download(server.origin, target, digest=OTHER)
    assert str(DIGEST) in (caught.value.cause or "")
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("digest", [None, DIGEST])
async def test_a_broken_connection_is_taken_up_where_it_ended(target: Path, digest: Digest | None) -> None:
    answers = in_turn(lambda request: ranged(request, DATA, cut=200_000), lambda request: ranged(request, DATA, cut=300_000))
    with serve(answers) as server:
        assert (await download(server.origin, target, digest=digest)).digest == DIGEST
        assert [request.headers.get("range") for request in server.requests] == [None, "bytes=200000-", "bytes=500000-"]
        assert server.requests[1].headers["if-range"] == '"one"'


async def test_parts_of_two_versions_are_never_joined(target: Path) -> None:
    newer = os.urandom(600_000)
    answers = in_turn(lambda request: ranged(request, DATA, cut=200_000), lambda request: ranged(request, newer, tag='"two"'))
    with serve(answers) as server:
        await download(server.origin, target)
    assert target.read_bytes() == newer
    target.unlink()
    answers = in_turn(lambda request: ranged(request, DATA, tag=None, cut=200_000), lambda request: ranged(request, newer, tag=None))
    with serve(answers) as server:
        await download(server.origin, target)
        assert "range" not in server.requests[1].headers
    assert target.read_bytes() == newer


async def test_a_server_that_cannot_go_on_in_the_middle_starts_again(target: Path) -> None:
    with serve(in_turn(Answer(body=DATA, cut=200_000), Answer(body=DATA))) as server:
        assert (await download(server.origin, target, digest=DIGEST)).size == len(DATA)
        assert server.requests[1].headers["range"] == "bytes=200000-"


async def test_a_server_that_always_breaks_off_is_given_up(target: Path) -> None:
    with serve(lambda _: Answer(body=DATA, cut=100_000)) as server:
        with pytest.raises(DownloadInterrupted) as caught:
            await download(server.origin, target)
        assert len(server.requests) < 10
    assert caught.value.retryable
    assert list(target.parent.iterdir()) == []


async def test_what_an_earlier_process_got_is_used(target: Path) -> None:
    breaking = serve(lambda request: ranged(request, DATA, cut=0 if "range" in request.headers else 300_000))
    with breaking as server, pytest.raises(DownloadInterrupted):
        await download(server.origin, target, digest=DIGEST)
    assert not target.exists()
    with serve(lambda request: ranged(request, DATA)) as server:
        await download(server.origin, target, digest=DIGEST)
        assert [request.headers["range"] for request in server.requests] == ["bytes=300000-"]
    assert target.read_bytes() == DATA


async def test_damage_that_an_earlier_process_left_is_fetched_again(target: Path) -> None:
    (target.parent / f".file.{DIGEST.value[:16]}.partial").write_bytes(b"x" * 1000)
    with serve(lambda request: ranged(request, DATA)) as server:
        await download(server.origin, target, digest=DIGEST)
    assert target.read_bytes() == DATA
    assert list(target.parent.iterdir()) == [target]


async def test_two_that_want_the_same_file_fetch_it_once(target: Path) -> None:
    with serve(lambda _: Answer(body=DATA)) as server:
        await asyncio.gather(*[download(server.origin, target, digest=DIGEST) for _ in range(4)])
        assert len(server.requests) == 1
    assert list(target.parent.iterdir()) == [target]


async def test_a_passing_failure_is_tried_again_when_the_server_says(target: Path) -> None:
    answers = in_turn(Answer(503, headers={"Retry-After": "0"}), Answer(429, headers={"Retry-After": "0"}), Answer(500), Answer(body=DATA))
    with serve(answers) as server:
        await download(server.origin, target)
    assert target.read_bytes() == DATA


async def test_a_server_that_wants_to_be_left_alone_for_long_is_not_waited_for(target: Path) -> None:
    with serve(lambda _: Answer(503, headers={"Retry-After": "3600"})) as server:
        with pytest.raises(DownloadInterrupted, match="cannot be fetched"):
            await download(server.origin, target)
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
async def test_a_refusal_is_final(target: Path, status: int) -> None:
    with serve(lambda _: Answer(status)) as server:
        with pytest.raises(DownloadFailed) as caught:
            await download(server.origin, target)
        assert len(server.requests) == 1
    assert not caught.value.retryable
    assert str(status) in (caught.value.cause or "")
    assert list(target.parent.iterdir()) == []


async def test_a_file_that_is_too_long_is_refused(target: Path) -> None:
    with serve(lambda _: Answer(body=DATA)) as server, pytest.raises(DownloadFailed, match="longer than 1000 bytes"):
        await download(server.origin, target, max_size=1000)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("drip", [False, True], ids=["silent", "dripping"])
async def test_a_server_that_falls_silent_or_drips_is_given_up(target: Path, drip: bool) -> None:
    with serve(lambda _: Answer(body=DATA, silent_after=1000, drip=drip)) as server:
        with pytest.raises(DownloadInterrupted):
            await download(server.origin, target, patience=Patience(silence_s=0.2, pause_s=0.01))
        assert 1 < len(server.requests) < 10


async def test_nobody_listening(target: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(DownloadInterrupted):
            await download(f"http://127.0.0.1:{taken.getsockname()[1]}/", target)


# ── redirects ───────────────────────────────────────────────────────────────────────────────────


async def test_redirects_are_followed_to_another_host(target: Path) -> None:
    with (
        serve(lambda _: Answer(body=DATA)) as there,
        serve(lambda _: Answer(302, b"moved", headers={"Location": f"{there.origin}/there"})) as here,
    ):
        await download(here.origin, target)
    assert target.read_bytes() == DATA


async def test_a_circle_of_redirects_ends(target: Path) -> None:
    with serve(lambda _: Answer(302, headers={"Location": "/again"})) as server:
        with pytest.raises(DownloadFailed) as caught:
            await download(server.origin, target)
        assert len(server.requests) < 20
    assert "redirects too often" in (caught.value.cause or "")


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://[::1", "http://"])
async def test_a_redirect_to_what_is_no_web_address_is_refused(target: Path, location: str) -> None:
    with serve(lambda _: Answer(302, headers={"Location": location})) as server:
        with pytest.raises(DownloadFailed):
            await download(server.origin, target)
        assert len(server.requests) < 6


async def test_the_body_of_a_redirect_is_not_read_without_end(target: Path) -> None:
    def answer(request: Request) -> Answer:
        if request.path == "/there":
            return Answer(body=DATA)
        return Answer(302, b"x" * 10_000_000, headers={"Location": "/there"}, length=1 << 50)

    with serve(answer) as server:
        await download(server.origin, target)
    assert target.read_bytes() == DATA


# ── words ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("url", ["", "file", "file:///x", "http://", "ftp://host/x"])
async def test_what_is_no_address_is_refused(target: Path, url: str) -> None:
    with pytest.raises(InvalidRequest):
        await download(url, target)


@pytest.mark.parametrize("text", [DIGEST.value, str(DIGEST), f" SHA256:{DIGEST.value.upper()}\n"])
def test_a_digest_is_read(text: str) -> None:
    assert Digest.parse(text) == DIGEST


@pytest.mark.parametrize("text", ["", "sha256:", "0" * 63, "sha512:" + "0" * 64, "md5:" + "0" * 32, "sha256:" + "g" * 64])
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        Digest.parse(text)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/a/b.tar?q=/x", "b.tar"), ("http://h/a%20b", "a b"), ("http://h", ""), ("http://h/a/", ""),
        ("http://h/..", ""), ("http://h/%2e%2e", ""), ("http://h/a%2F..%2Fb", "b"), ("http://h/a%00b", ""),
    ],
)  # fmt: skip
def test_the_name_of_a_file_is_never_a_path(url: str, name: str) -> None:
    assert file_name(url) == name
