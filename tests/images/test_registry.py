"""Pulling from a real registry: platforms, authentication, interruptions, damage, mirrors."""

from __future__ import annotations

import base64
import gzip
import json
import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from bandsox.errors import (
    CorruptImage,
    DigestMismatch,
    ImageNotFound,
    InvalidRequest,
    MissingTool,
    RegistryError,
    RegistryUnavailable,
    StorageFull,
    Unsupported,
)
from bandsox.images import Images, Platform, spec
from bandsox.models import Progress
from bandsox.settings import Layout
from bandsox.store import Database
from tests.images.registry import PASSWORD, USER, Registry, proxy
from tests.images.tars import Tar, sha256
from tests.images.trees import content, tree_of_squashfs

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]

DATA = os.urandom(3_000_000)


@pytest.fixture
def name(registry: Registry, request: pytest.FixtureRequest) -> str:
    """A repository of the test's own."""
    return request.node.name.split("[")[0].replace("_", "-").lower()


async def test_an_image_of_several_layers_is_pulled_and_flattened(registry: Registry, images: Images, name: str) -> None:
    layers = [Tar().file("a", DATA).file("b", b"low").bytes(), Tar().file("b", b"high").whiteout("a").bytes()]
    config = {
        "Env": ["PATH=/bin", "X=a=b"], "WorkingDir": "/srv", "User": "1000:5", "Entrypoint": ["/e", "1"], "Cmd": ["c"],
        "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}}, "Labels": {"k": "v"}, "StopSignal": "SIGINT",
        "Shell": ["/bin/ash", "-c"], "OnBuild": ["RUN true"], "Healthcheck": {"Test": ["CMD", "x"], "Interval": 5},
    }  # fmt: skip
    manifest = registry.push(f"{name}:1", layers, config=config)
    image = await images.resolve(f"{registry.host}/{name}:1")
    tree = tree_of_squashfs(image.rootfs)
    assert set(tree) == {b".", b"b"}
    assert tree[b"b"].content == content(b"high")
    assert image.manifest_digest == sha256(manifest)
    assert image.id == json.loads(manifest)["config"]["digest"]
    assert image.references == (f"{registry.host}/{name}:1",)
    assert stat.S_IMODE(image.rootfs.stat().st_mode) == 0o400
    assert image.rootfs.name == f"{image.rootfs_digest.removeprefix('sha256:')}.squashfs"
    made = image.config
    assert (dict(made.env), made.workdir, made.user, made.entrypoint, made.cmd) == (
        {"PATH": "/bin", "X": "a=b"}, "/srv", "1000:5", ("/e", "1"), ("c",),
    )  # fmt: skip
    assert (made.exposed_ports, made.volumes, dict(made.labels), made.stop_signal) == (("80/tcp",), ("/data",), {"k": "v"}, "SIGINT")
    assert (made.shell, made.on_build, made.healthcheck["Test"]) == (("/bin/ash", "-c"), ("RUN true",), ["CMD", "x"])


async def test_what_is_here_is_not_asked_for_again(registry: Registry, images: Images, name: str) -> None:
    registry.push(name, [Tar().file("a").bytes()])
    first = await images.resolve(f"{registry.host}/{name}")
    asked = registry.requests("http.request.method=GET")
    assert await images.resolve(f"{registry.host}/{name}") == first
    assert await images.resolve(f"{registry.host}/{name}", pull="never") == first
    assert registry.requests("http.request.method=GET") == asked


async def test_a_moved_tag_is_followed_by_always_only(registry: Registry, images: Images, name: str) -> None:
    registry.push(name, [Tar().file("old").bytes()])
    old = await images.resolve(f"{registry.host}/{name}")
    registry.push(name, [Tar().file("new").bytes()])
    assert (await images.resolve(f"{registry.host}/{name}")).id == old.id
    new = await images.resolve(f"{registry.host}/{name}", pull="always")
    assert new.id != old.id
    assert (await images.inspect(old.id)).references == ()


async def test_two_images_of_the_same_layers_share_the_root_file_system(registry: Registry, images: Images, name: str) -> None:
    tar = Tar().file("a", DATA).bytes()
    registry.push(f"{name}:plain", [tar], config={"Cmd": ["one"]})
    registry.push(f"{name}:gzip", [gzip.compress(tar)], config={"Cmd": ["two"]}, diff_ids=[sha256(tar)], docker=True)
    one, two = [await images.resolve(f"{registry.host}/{name}:{tag}") for tag in ("plain", "gzip")]
    assert one.id != two.id
    assert one.rootfs == two.rootfs


async def test_by_digest(registry: Registry, images: Images, name: str) -> None:
    digest = sha256(registry.push(name, [Tar().file("a").bytes()]))
    assert (await images.resolve(f"{registry.host}/{name}@{digest}")).manifest_digest == digest
    with pytest.raises(ImageNotFound):
        await images.resolve(f"{registry.host}/{name}@sha256:{'0' * 64}")


# ── platforms ───────────────────────────────────────────────────────────────────────────────────


def push_index(registry: Registry, name: str, platforms: list[dict[str, str]], media_type: str = spec.OCI_INDEX) -> None:
    manifests = []
    for platform in platforms:
        layer = Tar().file(platform["architecture"] + platform.get("variant", "")).bytes()
        manifest = registry.push(f"{name}:part", [layer], architecture=platform["architecture"], docker=media_type == spec.DOCKER_INDEX)
        manifest_type = spec.DOCKER_MANIFEST if media_type == spec.DOCKER_INDEX else spec.OCI_MANIFEST
        entry = {"mediaType": manifest_type, "digest": sha256(manifest), "size": len(manifest), "platform": {"os": "linux", **platform}}
        manifests.append(entry)
    index = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}).encode()
    registry.push_manifest(name, "latest", index, media_type)


PLATFORMS = [
    {"architecture": "unknown", "os": "unknown"},
    {"architecture": "arm", "variant": "v5"},
    {"architecture": "arm", "variant": "v7"},
    {"architecture": "arm", "variant": "v6"},
    {"architecture": "arm64", "variant": "v8"},
    {"architecture": "amd64", "variant": "v3"},
    {"architecture": "amd64"},
    {"architecture": "amd64", "os": "windows"},
]


@pytest.mark.parametrize("media_type", [spec.OCI_INDEX, spec.DOCKER_INDEX])
async def test_the_platforms_own_manifest_is_pulled(registry: Registry, layout: Layout, name: str, media_type: str) -> None:
    push_index(registry, name, PLATFORMS[3:7], media_type)
    images = Images(layout, Database(layout.database), platform=Platform("arm64", "linux", "v8"))
    image = await images.resolve(f"{registry.host}/{name}")
    assert b"arm64v8" in tree_of_squashfs(image.rootfs)
    assert image.architecture == "arm64"


@pytest.mark.parametrize(
    ("wanted", "best"),
    [
        (Platform("amd64", "linux"), 6),
        (Platform("arm64", "linux", "v8"), 4),
        (Platform("arm", "linux", "v7"), 2),
        (Platform("arm", "linux", "v6"), 3),
        (Platform("arm", "linux", "v8"), 2),
    ],
)
async def test_the_best_variant_is_chosen(wanted: Platform, best: int) -> None:
    manifests = [
        {"digest": f"sha256:{number:064}", "size": 1, "platform": {"os": "linux", **platform}} for number, platform in enumerate(PLATFORMS)
    ]
    index = spec.decode_manifest(json.dumps({"schemaVersion": 2, "manifests": manifests}).encode())
    assert isinstance(index, spec.Index)
    assert spec.select(index, wanted).digest == f"sha256:{best:064}"


async def test_a_platform_that_is_not_offered_says_what_is(registry: Registry, layout: Layout, name: str) -> None:
    push_index(registry, name, [{"architecture": "amd64"}, {"architecture": "arm64", "variant": "v8"}])
    images = Images(layout, Database(layout.database), platform=Platform("s390x", "linux"))
    with pytest.raises(ImageNotFound, match="linux/s390x") as caught:
        await images.resolve(f"{registry.host}/{name}")
    assert caught.value.cause == "it has builds for linux/amd64, linux/arm64/v8"


# ── what is not there, or not allowed ───────────────────────────────────────────────────────────


async def test_an_unknown_image_is_not_found(registry: Registry, images: Images, name: str) -> None:
    with pytest.raises(ImageNotFound, match=name):
        await images.resolve(f"{registry.host}/{name}:none")
    with pytest.raises(ImageNotFound):
        await images.resolve(f"{registry.host}/{name}:none", pull="never")


async def test_nobody_listening_is_unavailable(images: Images) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(RegistryUnavailable) as caught:
            await images.resolve(f"127.0.0.1:{taken.getsockname()[1]}/x")
    assert caught.value.retryable


async def test_a_password_from_dockers_configuration(
    closed_registry: Registry, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed_registry.push("app", [Tar().file("a").bytes()])
    reference = f"{closed_registry.host}/app"
    with pytest.raises(RegistryError, match="refuses access") as caught:
        await images.resolve(reference)
    assert f"docker login {closed_registry.host}" in (caught.value.remedy or "")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    write_auth(tmp_path / "config.json", closed_registry.host, USER, "wrong")
    with pytest.raises(RegistryError, match="refuses access") as caught:
        await images.resolve(reference)
    assert "were refused" in (caught.value.cause or "")
    write_auth(tmp_path / "config.json", closed_registry.host, USER, PASSWORD)
    assert (await images.resolve(reference)).references == (f"{reference}:latest",)


def write_auth(path: Path, key: str, user: str, password: str) -> None:
    encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
    path.write_text(json.dumps({"auths": {key: {"auth": encoded}}}))


async def test_credentials_of_podman_are_found_by_repository(
    closed_registry: Registry, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed_registry.push("team/app", [Tar().file("a").bytes()])
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    write_auth(tmp_path / "auth.json", f"{closed_registry.host}/team", USER, PASSWORD)
    assert await images.resolve(f"{closed_registry.host}/team/app")


def write_helper(directory: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = directory / "docker-credential-test"
    helper.write_text(f"#!/bin/sh\n{script}\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_CONFIG", str(directory))


@pytest.mark.parametrize("key", ["credsStore", "credHelpers"])
async def test_a_credential_helper_is_asked(
    closed_registry: Registry, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    closed_registry.push("app", [Tar().file("a").bytes()])
    answer = json.dumps({"Username": USER, "Secret": PASSWORD})
    write_helper(tmp_path, f"""[ "$1" = get ] && [ "$(cat)" = {closed_registry.host} ] && echo '{answer}'""", monkeypatch)
    value = "test" if key == "credsStore" else {closed_registry.host: "test"}
    (tmp_path / "config.json").write_text(json.dumps({key: value}))
    assert await images.resolve(f"{closed_registry.host}/app")


async def test_a_helper_that_fails_is_absent_or_knows_nothing(
    closed_registry: Registry, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_helper(tmp_path, "echo 'credentials not found in native keychain'; exit 1", monkeypatch)
    (tmp_path / "config.json").write_text('{"credsStore": "test"}')
    with pytest.raises(RegistryError, match="refuses access"):
        await images.resolve(f"{closed_registry.host}/app")
    write_helper(tmp_path, "echo 'keychain locked' >&2; exit 1", monkeypatch)
    with pytest.raises(RegistryError, match="docker-credential-test failed"):
        await images.resolve(f"{closed_registry.host}/app")
    (tmp_path / "config.json").write_text('{"credsStore": "is-not-here"}')
    with pytest.raises(MissingTool, match="docker-credential-is-not-here"):
        await images.resolve(f"{closed_registry.host}/app")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InvalidRequest, match="cannot be read"):
        await images.resolve(f"{closed_registry.host}/app")


# ── mirrors ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_mirror_is_tried_first_and_the_registry_after_it(registry: Registry, images: Images, layout: Layout, name: str) -> None:
    registry.push(name, [Tar().file("a").bytes()])
    settings = layout.root / "registries.toml"
    settings.write_text(f'[[registry]]\nname = "no.such.registry.invalid"\nmirrors = ["http://{registry.host}"]\n')
    assert (await images.resolve(f"no.such.registry.invalid/{name}")).references == (f"no.such.registry.invalid/{name}:latest",)
    settings.write_text(f'[[registry]]\nname = "{registry.host}"\nmirrors = ["http://{registry.host}/no-such-prefix"]\n')
    assert await images.resolve(f"{registry.host}/{name}")


async def test_settings_with_a_mistake_are_refused(images: Images, layout: Layout) -> None:
    (layout.root / "registries.toml").write_text('[[registry]]\nname = "x"\ninsecur = true\n')
    with pytest.raises(InvalidRequest, match=r"registries\.toml"):
        await images.resolve("x.invalid/y")


# ── interruptions ───────────────────────────────────────────────────────────────────────────────


async def test_a_download_that_breaks_off_goes_on_where_it_stopped(registry: Registry, images: Images, name: str) -> None:
    layer = Tar().file("a", DATA).bytes()
    registry.push(name, [layer])
    seen: list[Progress] = []
    with proxy(registry, cuts=[None, 1_000_000, 1_500_000]) as between:
        image = await images.resolve(f"{between.host}/{name}", progress=seen.append)
        assert tree_of_squashfs(image.rootfs)[b"a"].content == content(DATA)
        assert len([request for request in between.requests if "[bytes=" in request]) >= 2
        assert between.delivered < len(layer) + 200_000
    last = [report for report in seen if report.task == sha256(layer)][-1]
    assert (last.finished, last.done, last.total) == (True, len(layer), len(layer))


async def test_a_download_that_always_breaks_off_gives_up(registry: Registry, images: Images, name: str, layout: Layout) -> None:
    registry.push(name, [Tar().file("a", DATA).bytes()])
    with proxy(registry, cuts=[0] * 100) as between:
        with pytest.raises(RegistryUnavailable):
            await images.resolve(f"{between.host}/{name}")
        assert len(between.requests) < 40
    assert not list((layout.images / "rootfs").iterdir())
    assert await images.list() == []


async def test_layers_come_in_parallel_and_all_of_them(registry: Registry, images: Images, name: str) -> None:
    layers = [Tar().file(str(number), os.urandom(200_000)).bytes() for number in range(12)]
    registry.push(name, layers)
    image = await images.resolve(f"{registry.host}/{name}")
    assert len(tree_of_squashfs(image.rootfs)) == 13
    assert len(images.layers(image)) == 12


# ── damage ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_blob_that_was_changed_in_the_registry_is_refused(registry: Registry, images: Images, layout: Layout, name: str) -> None:
    layer = Tar().file("a", DATA).bytes()
    registry.push(name, [layer])
    damaged = bytearray(layer)
    damaged[1_000_000] ^= 1
    registry.blob_file(sha256(layer)).write_bytes(damaged)
    with pytest.raises(DigestMismatch):
        await images.resolve(f"{registry.host}/{name}")
    assert not (layout.images / "blobs" / "sha256" / sha256(layer)[7:]).exists()
    registry.blob_file(sha256(layer)).write_bytes(layer)
    assert await images.resolve(f"{registry.host}/{name}")


async def test_a_blob_that_is_too_long_or_too_short_is_refused(registry: Registry, images: Images, name: str) -> None:
    layer = Tar().file("a", DATA).bytes()
    registry.push(name, [layer])
    registry.blob_file(sha256(layer)).write_bytes(layer + b"more")
    with pytest.raises(DigestMismatch, match="longer"):
        await images.resolve(f"{registry.host}/{name}")


async def test_a_manifest_by_digest_that_was_changed_is_refused(registry: Registry, images: Images, name: str) -> None:
    manifest = registry.push(name, [Tar().file("a").bytes()])
    registry.blob_file(sha256(manifest)).write_bytes(manifest + b" ")
    with pytest.raises((DigestMismatch, RegistryUnavailable, RegistryError, ImageNotFound)):
        await images.resolve(f"{registry.host}/{name}@{sha256(manifest)}")


@pytest.mark.parametrize(
    ("config", "error"),
    [
        (b"{", CorruptImage),
        (b'{"rootfs": {"diff_ids": []}}', CorruptImage),
        (b'{"os": "linux"}', CorruptImage),
        (b'{"os": "windows", "rootfs": {"diff_ids": ["sha256:%s"]}}' % (b"0" * 64), Unsupported),
        (b'{"rootfs": {"diff_ids": ["sha256:%s"]}}' % (b"0" * 64), DigestMismatch),
        (b'{"rootfs": {"diff_ids": ["../../etc/passwd"]}}', CorruptImage),
        (b'{"config": {"Env": "PATH=x"}, "rootfs": {"diff_ids": ["sha256:%s"]}}' % (b"0" * 64), CorruptImage),
        (b'{"config": {"Env": ["=x"]}, "rootfs": {"diff_ids": ["sha256:%s"]}}' % (b"0" * 64), CorruptImage),
        (b"[" * 100_000, CorruptImage),
    ],
)
async def test_a_configuration_that_lies_is_refused(
    registry: Registry, images: Images, name: str, config: bytes, error: type[Exception]
) -> None:
    layer = Tar().file("a").bytes()
    manifest = {
        "schemaVersion": 2,
        "mediaType": spec.OCI_MANIFEST,
        "config": {"mediaType": spec.OCI_CONFIG, "digest": registry.push_blob(name, config), "size": len(config)},
        "layers": [{"mediaType": spec.OCI_LAYER, "digest": registry.push_blob(name, layer), "size": len(layer)}],
    }
    registry.push_manifest(name, "latest", json.dumps(manifest).encode(), spec.OCI_MANIFEST)
    with pytest.raises(error):
        await images.resolve(f"{registry.host}/{name}")
    assert await images.list() == []


async def test_an_artifact_that_is_no_image_is_refused(registry: Registry, images: Images, name: str) -> None:
    blob = b"a helm chart"
    manifest = {
        "schemaVersion": 2,
        "mediaType": spec.OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": registry.push_blob(name, b"{}"), "size": 2},
        "layers": [{"mediaType": "application/x", "digest": registry.push_blob(name, blob), "size": len(blob)}],
    }
    registry.push_manifest(name, "latest", json.dumps(manifest).encode(), spec.OCI_MANIFEST)
    with pytest.raises(CorruptImage, match="another artifact"):
        await images.resolve(f"{registry.host}/{name}")


@pytest.mark.parametrize("broken", ["truncated", "garbage"])
async def test_a_layer_that_cannot_be_read_is_refused_and_leaves_nothing(
    registry: Registry, images: Images, layout: Layout, name: str, broken: str
) -> None:
    tar = Tar().file("a", DATA).bytes()
    layer = gzip.compress(tar)[:-20_000] if broken == "truncated" else b"this is no archive" * 100
    registry.push(name, [layer], diff_ids=[sha256(tar)])
    with pytest.raises(CorruptImage):
        await images.resolve(f"{registry.host}/{name}")
    assert not list((layout.images / "rootfs").iterdir())
    assert (await images.prune()).freed > 0
    assert not list((layout.images / "blobs" / "sha256").iterdir())


# ── room ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
async def test_a_full_disk_is_said_before_and_during(registry: Registry, tmp_path: Path, name: str) -> None:
    layer = Tar().file("a", os.urandom(12_000_000)).bytes()
    registry.push(f"{name}:large", [layer])
    packed = gzip.compress(Tar().file("a", os.urandom(100_000) * 90).bytes())
    registry.push(f"{name}:grows", [packed], diff_ids=[sha256(gzip.decompress(packed))])
    root = tmp_path / "small"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m,mode=700", "tmpfs", root], check=True)
    try:
        layout = Layout.open(root)
        database = Database(layout.database)
        images = Images(layout, database)
        with pytest.raises(StorageFull):
            await images.resolve(f"{registry.host}/{name}:large")
        with pytest.raises(StorageFull):
            await images.import_(Path("/dev/urandom"), "endless")
        assert list(layout.temporary.iterdir()) == []
        assert await images.list() == []
        registry.push(f"{name}:small", [Tar().file("a", b"x").bytes()])
        assert await images.resolve(f"{registry.host}/{name}:small")
        database.close()
    finally:
        subprocess.run(["umount", "-l", root], check=True)
