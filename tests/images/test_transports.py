"""Images made and copied by other tools, compared file by file with what those tools unpack themselves."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandsox.errors import CorruptImage, DigestMismatch, ImageError, ImageNotFound, MissingTool, Unsupported
from bandsox.images import Images
from bandsox.models import Image
from tests.images.registry import Registry
from tests.images.tars import Tar, in_chunks, sha256
from tests.images.trees import content, links_of_directory, links_of_squashfs, tree_of_directory, tree_of_squashfs

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]


def run(*command: object, **options: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return str(done.stdout)


def fill(root: Path) -> None:
    """Files of every kind, as a first layer."""
    (root / "etc").mkdir(parents=True)
    (root / "usr/lib/deep").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (root / "usr/lib/big").write_bytes(os.urandom(700_001))
    (root / "usr/lib/gone").write_text("will be removed")
    (root / "usr/lib/deep/x").write_text("hidden later")
    (root / "lib").symlink_to("usr/lib")
    os.link(root / "usr/lib/big", root / "usr/hard")
    (root / "tool").write_text("#!/bin/sh\n")
    (root / "tool").chmod(0o4755)
    os.chown(root / "tool", 12, 34)
    os.setxattr(root / "tool", "user.note", b"\0odd\xff")
    os.setxattr(root / "tool", "security.capability", b"\x01\0\0\x02\0\x20\0\0" + bytes(12))
    os.mkfifo(root / "pipe")
    os.mknod(root / "null", 0o20666, os.makedev(1, 3))
    os.utime(root / "etc/passwd", (1_000_000_000, 1_000_000_000))
    Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9")).write_text("not UTF-8")
    (root / ("n" * 200)).write_text("long")


def change(root: Path) -> None:
    """What a second layer does to them."""
    (root / "usr/lib/gone").unlink()
    (root / "usr/lib/deep/x").unlink()
    (root / "usr/lib/deep").rmdir()
    (root / "usr/lib/deep").write_text("a file now")
    (root / "etc/passwd").write_text("changed\n")
    (root / "etc/new").mkdir()
    (root / "etc/new/file").write_text("new")
    (root / "tool").chmod(0o700)
    (root / "usr/hard").unlink()


@pytest.fixture
def umoci_layout(tmp_path: Path) -> Path:
    """An OCI layout of two layers made by umoci, with its own unpacking beside it in ``bundle``."""
    layout = tmp_path / "layout"
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:v1")
    run("umoci", "unpack", "--image", f"{layout}:v1", tmp_path / "first")
    fill(tmp_path / "first/rootfs")
    run("umoci", "repack", "--image", f"{layout}:v1", tmp_path / "first")
    run("umoci", "config", "--image", f"{layout}:v1", "--config.env", "A=1", "--config.cmd", "sh", "--config.workingdir", "/etc")
    run("umoci", "unpack", "--image", f"{layout}:v1", tmp_path / "second")
    change(tmp_path / "second/rootfs")
    run("umoci", "repack", "--image", f"{layout}:v2", tmp_path / "second")
    run("umoci", "unpack", "--image", f"{layout}:v2", tmp_path / "bundle")
    return layout


def assert_same(image: Image, directory: Path) -> None:
    ours, theirs = tree_of_squashfs(image.rootfs), tree_of_directory(directory)
    for tree in (ours, theirs):
        tree.pop(b".")
    assert ours == theirs
    assert links_of_squashfs(image.rootfs) == links_of_directory(directory)


async def test_umocis_layers_are_flattened_as_umoci_unpacks_them(images: Images, umoci_layout: Path, tmp_path: Path) -> None:
    image = await images.resolve(f"oci:{umoci_layout}:v2")
    assert_same(image, tmp_path / "bundle/rootfs")
    assert (dict(image.config.env), image.config.cmd, image.config.workdir) == ({"A": "1"}, ("sh",), "/etc")


async def test_skopeo_copies_to_every_transport_are_the_same_image(
    images: Images, umoci_layout: Path, tmp_path: Path, registry: Registry
) -> None:
    source = f"oci:{umoci_layout}:v2"
    first = await images.resolve(source)
    copies = {
        f"oci:{tmp_path}/copy:tag": f"oci:{tmp_path}/copy:tag",
        f"oci-archive:{tmp_path}/oci.tar:tag": f"oci-archive:{tmp_path}/oci.tar:tag",
        f"docker-archive:{tmp_path}/docker.tar:some/name:tag": f"docker-archive:{tmp_path}/docker.tar",
        f"dir:{tmp_path}/plain": f"dir:{tmp_path}/plain",
        f"docker://{registry.host}/skopeo/copy:1": f"{registry.host}/skopeo/copy:1",
    }
    for target, reference in copies.items():
        run("skopeo", "copy", "--insecure-policy", "--dest-tls-verify=false", source, target)
        image = await images.resolve(reference)
        assert image.rootfs_digest == first.rootfs_digest, target
        assert image.config == first.config, target
    run("skopeo", "copy", "--insecure-policy", "--dest-compress-format=zstd", "--dest-compress", source, f"dir:{tmp_path}/zstd")
    assert (await images.resolve(f"dir:{tmp_path}/zstd")).rootfs_digest == first.rootfs_digest


async def test_a_compressed_docker_archive_by_name(images: Images, umoci_layout: Path, tmp_path: Path) -> None:
    run("skopeo", "copy", "--insecure-policy", f"oci:{umoci_layout}:v2", f"docker-archive:{tmp_path}/d.tar:some/name:tag")
    run("gzip", tmp_path / "d.tar")
    image = await images.resolve(f"docker-archive:{tmp_path}/d.tar.gz:some/name:tag")
    assert_same(image, tmp_path / "bundle/rootfs")
    with pytest.raises(ImageNotFound) as caught:
        await images.resolve(f"docker-archive:{tmp_path}/d.tar.gz:other")
    assert "some/name:tag" in (caught.value.remedy or "")


async def test_an_image_that_buildah_made_from_scratch(images: Images, tmp_path: Path) -> None:
    fill(tmp_path / "tree")
    buildah = ["buildah", "--root", tmp_path / "b-root", "--runroot", tmp_path / "b-run", "--storage-driver", "vfs"]
    container = run(*buildah, "from", "--isolation", "chroot", "scratch").strip()
    run(*buildah, "add", container, tmp_path / "tree", "/")
    run(*buildah, "config", "--entrypoint", '["/tool"]', "--port", "80", "--user", "12", container)
    run(*buildah, "commit", "--disable-compression=false", container, f"oci:{tmp_path}/made:latest")
    mounted = Path(run(*buildah, "mount", container).strip())
    image = await images.resolve(f"oci:{tmp_path}/made")
    assert_same(image, mounted)
    assert (image.config.entrypoint, image.config.exposed_ports, image.config.user) == (("/tool",), ("80",), "12")
    run(*buildah, "rm", container)


# ── layouts ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_layout_of_several_images_wants_a_tag(images: Images, umoci_layout: Path) -> None:
    with pytest.raises(ImageNotFound) as caught:
        await images.resolve(f"oci:{umoci_layout}")
    assert caught.value.remedy == "name one of its tags: v1, v2"
    with pytest.raises(ImageNotFound, match="v9"):
        await images.resolve(f"oci:{umoci_layout}:v9")


async def test_a_layout_that_changed_is_read_again(images: Images, umoci_layout: Path) -> None:
    before = await images.resolve(f"oci:{umoci_layout}:v1")
    run("umoci", "tag", "--image", f"{umoci_layout}:v2", "v1")
    assert (await images.resolve(f"oci:{umoci_layout}:v1", pull="never")).id == before.id
    assert (await images.resolve(f"oci:{umoci_layout}:v1")).id != before.id


async def test_a_damaged_blob_of_a_layout_is_refused(images: Images, umoci_layout: Path) -> None:
    largest = max((umoci_layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[1000] ^= 1
    largest.write_bytes(data)
    with pytest.raises(DigestMismatch):
        await images.resolve(f"oci:{umoci_layout}:v2")
    largest.unlink()
    with pytest.raises(CorruptImage):
        await images.resolve(f"oci:{umoci_layout}:v2")


@pytest.mark.parametrize("reference", ["oci:/none/here", "dir:/none", "rootfs:/none.tar", "oci-archive:/none", "docker-archive:/none"])
async def test_what_is_not_there_is_not_found(images: Images, reference: str) -> None:
    with pytest.raises(ImageNotFound):
        await images.resolve(reference)


async def test_an_archive_of_something_else_is_refused(images: Images, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(Tar().file("a").bytes())
    for transport in ("oci-archive", "docker-archive"):
        with pytest.raises(CorruptImage):
            await images.resolve(f"{transport}:{tmp_path}/a.tar")


# ── docker ──────────────────────────────────────────────────────────────────────────────────────


def old_docker_save(path: Path) -> dict[str, object]:
    """An archive as Docker before 1.10 to 24 wrote it: a directory a layer, equal layers as symbolic links."""
    low, high = Tar().file("a", b"1").bytes(), Tar().file("b", b"2").bytes()
    config: dict[str, object] = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["x"]},
        "rootfs": {"type": "layers", "diff_ids": [sha256(low), sha256(high), sha256(low)]},
    }
    data = json.dumps(config).encode()
    manifest = [{"Config": f"{sha256(data)[7:]}.json", "RepoTags": ["old:1"], "Layers": ["l/layer.tar", "h/layer.tar", "x/layer.tar"]}]
    tar = Tar().directory("l").file("l/layer.tar", low).file("h/layer.tar", high).symlink("x/layer.tar", "../l/layer.tar")
    path.write_bytes(tar.file(f"{sha256(data)[7:]}.json", data).file("manifest.json", json.dumps(manifest).encode()).bytes())
    return config


async def test_an_archive_of_an_old_docker_with_linked_layers(images: Images, tmp_path: Path) -> None:
    old_docker_save(tmp_path / "old.tar")
    image = await images.resolve(f"docker-archive:{tmp_path}/old.tar")
    assert set(tree_of_squashfs(image.rootfs)) == {b".", b"a", b"b"}
    assert image.config.cmd == ("x",)


@pytest.fixture
def docker_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A socket that answers GET /images/…/get as Docker's does; there is no Docker where the tests run."""
    old_docker_save(tmp_path / "saved.tar")
    body = (tmp_path / "saved.tar").read_bytes()
    path = tmp_path / "d.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                request = connection.recv(65536)
                if b"/images/docker.io%2Flibrary%2Fold%3A1/get" in request:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                else:
                    connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield path
        listener.shutdown(socket.SHUT_RDWR)


async def test_an_image_of_the_docker_daemon(images: Images, docker_socket: Path) -> None:
    image = await images.resolve("docker-daemon:old:1")
    assert image.references == ("docker-daemon:docker.io/library/old:1",)
    assert b"b" in tree_of_squashfs(image.rootfs)
    with pytest.raises(ImageNotFound):
        await images.resolve("docker-daemon:other:1")


async def test_without_a_docker_daemon_it_says_so(images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(Unsupported, match="no Docker daemon"):
        await images.resolve("docker-daemon:x")


# ── root file systems ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd", "xz", "bzip2"])
async def test_a_root_file_system_as_one_archive(images: Images, tmp_path: Path, compression: str) -> None:
    fill(tmp_path / "tree")
    archive = tmp_path / "root.tar"
    run("tar", "--xattrs", "--xattrs-include=*", "-C", tmp_path / "tree", "-cf", archive, ".")
    if compression != "none":
        archive.write_bytes(subprocess.run([compression, "-c", archive], capture_output=True, check=True).stdout)
    image = await images.resolve(f"rootfs:{archive}")
    assert_same(image, tmp_path / "tree")


async def test_a_changed_archive_is_read_again(images: Images, tmp_path: Path) -> None:
    archive = tmp_path / "root.tar"
    archive.write_bytes(Tar().file("a").bytes())
    first = await images.resolve(f"rootfs:{archive}")
    assert await images.resolve(f"rootfs:{archive}") == first
    archive.write_bytes(Tar().file("b").bytes())
    assert b"b" in tree_of_squashfs((await images.resolve(f"rootfs:{archive}")).rootfs)


@pytest.mark.parametrize("data", [b"", b"no archive", Tar().file("a", b"x" * 5000).bytes()[:3000], bytes(Tar().file("a").data)])
async def test_a_truncated_or_foreign_archive_is_refused(images: Images, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "root.tar").write_bytes(data)
    with pytest.raises(CorruptImage):
        await images.resolve(f"rootfs:{tmp_path}/root.tar")
    assert await images.list() == []


async def test_importing_a_stream_under_a_name(images: Images, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    archive = gzip.compress(Tar().file("a", data).bytes())
    image = await images.import_(in_chunks(archive, 7777), "mine:1")
    assert image.references == ("mine:1",)
    assert tree_of_squashfs(image.rootfs)[b"a"].content == content(data)
    (tmp_path / "a.tar.gz").write_bytes(archive)
    with (tmp_path / "a.tar.gz").open("rb") as stream:
        assert (await images.import_(stream, "other")).rootfs == image.rootfs
    assert (await images.import_(tmp_path / "a.tar.gz", "third")).id == image.id


# ── debootstrap ─────────────────────────────────────────────────────────────────────────────────


async def test_mmdebstrap_that_is_missing_or_fails_says_so(images: Images, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "mmdebstrap"
    program.write_text("#!/bin/sh\necho 'E: no such suite' >&2\nexit 25\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ImageError, match="mmdebstrap could not build") as caught:
        await images.resolve("debootstrap:nosuch")
    assert caught.value.cause == "E: no such suite"
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(MissingTool) as missing:
        await images.resolve("debootstrap:bookworm")
    assert missing.value.remedy == "apt-get install mmdebstrap"


CACHE = Path(os.environ.get("BANDSOX_TEST_CACHE", Path("~").expanduser() / ".cache/bandsox-tests"))


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_debian_made_of_packages(images: Images) -> None:
    """Built for real by mmdebstrap once a machine; later runs take the archive it made from the cache."""
    from bandsox.images.reference import parse_reference
    from bandsox.images.transports.debootstrap import command

    made = command(parse_reference("debootstrap:bookworm?include=python3-minimal"))
    cached = CACHE / f"debootstrap-{sha256(' '.join(made).encode())[7:23]}.tar"
    if not cached.exists():
        image = await images.resolve("debootstrap:bookworm?include=python3-minimal")
        (layer,) = images.layers(image)
        cached.parent.mkdir(parents=True, exist_ok=True)
        blob = image.rootfs.parent.parent / "blobs/sha256" / layer.digest[7:]
        partial = cached.with_suffix(f".{os.getpid()}")
        partial.write_bytes(subprocess.run(["zstd", "-dc", blob], capture_output=True, check=True).stdout)
        partial.rename(cached)
    else:
        image = await images.resolve(f"rootfs:{cached}")
    tree = tree_of_squashfs(image.rootfs)
    assert tree[b"usr/bin/python3"].kind == "symlink"
    assert tree[b"etc/debian_version"].kind == "file"
    with tarfile.open(cached) as archive:
        assert {os.path.normpath(name) for name in archive.getnames()} == {os.fsdecode(name) for name in tree}
