"""Images saved to a file and loaded again, here and by other tools."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from bandsox.errors import CorruptImage, DigestMismatch, ImageNotFound
from bandsox.images import Images
from bandsox.models import Image
from bandsox.settings import Layout
from bandsox.store import Database
from tests.images.registry import Registry
from tests.images.tars import Tar, sha256

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]

TARS = [Tar().file("a", b"first" * 9000).bytes(), Tar().file("b", b"second" * 9000).bytes()]
HISTORY = [
    {"created": "2024-01-01T00:00:00Z", "created_by": "ADD rootfs.tar /"},
    {"created": "2024-01-02T00:00:00Z", "created_by": "CMD [\"sh\"]", "empty_layer": True},
    {"created": "2024-01-03T00:00:00Z", "created_by": "COPY b /", "comment": "by hand"},
]  # fmt: skip


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def elsewhere(tmp_path: Path) -> Images:
    """The images of another storage directory."""
    layout = Layout.open(tmp_path / "elsewhere")
    return Images(layout, Database(layout.database))


@pytest.fixture(params=["oci", "docker"])
async def image(request: pytest.FixtureRequest, registry: Registry, images: Images) -> Image:
    """An image of a compressed and a plain layer, with a manifest of either kind."""
    docker = request.param == "docker"
    layers = [gzip.compress(TARS[0], mtime=0), TARS[1]]
    config = {"Env": ["A=1"], "Cmd": ["sh"]}
    registry.push(f"saved-{request.param}:1", layers, config=config, docker=docker, diff_ids=[sha256(tar) for tar in TARS])
    pulled = await images.resolve(f"{registry.host}/saved-{request.param}:1")
    await images.tag(pulled.id, "app:2")
    return await images.inspect(pulled.id)


async def save(images: Images, path: Path, *references: str) -> Path:
    with path.open("wb") as file:
        await images.save(references, file)
    return path


async def test_a_saved_image_is_the_same_elsewhere_with_all_its_names(
    image: Image, images: Images, elsewhere: Images, tmp_path: Path
) -> None:
    (loaded,) = await elsewhere.load(await save(images, tmp_path / "saved.tar", "app:2"))
    assert (loaded.id, loaded.references, loaded.config) == (image.id, image.references, image.config)
    assert loaded.rootfs.read_bytes() == image.rootfs.read_bytes()
    assert await elsewhere.resolve("app:2", pull="never") == loaded


async def test_saving_twice_gives_the_same_file(image: Image, images: Images, tmp_path: Path) -> None:
    files = [await save(images, tmp_path / name, image.id) for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
async def test_skopeo_reads_what_was_saved(image: Image, images: Images, elsewhere: Images, tmp_path: Path, transport: str) -> None:
    saved = await save(images, tmp_path / "saved.tar", image.id)
    run("skopeo", "copy", "--insecure-policy", f"{transport}:{saved}", f"oci:{tmp_path}/copy:tag")
    copied = await elsewhere.resolve(f"oci:{tmp_path}/copy:tag")
    assert copied.rootfs_digest == image.rootfs_digest
    assert copied.config == image.config


async def test_podman_loads_what_was_saved_and_saves_what_is_loaded(
    image: Image, images: Images, elsewhere: Images, tmp_path: Path
) -> None:
    saved = await save(images, tmp_path / "saved.tar", "app:2")
    with tempfile.TemporaryDirectory() as short:  # podman wants a path of at most 50 characters
        podman = ("podman", "--root", tmp_path / "podman", "--runroot", short, "--storage-driver", "vfs")
        run(*podman, "load", "-q", "-i", saved)
        (loaded,) = json.loads(run(*podman, "images", "--format", "json"))
        assert f"sha256:{loaded['Id']}" == image.id
        assert "docker.io/library/app:2" in loaded["Names"]
        run(*podman, "save", "-q", "-o", tmp_path / "again.tar", "app:2")
    (again,) = await elsewhere.load(tmp_path / "again.tar")
    assert again.rootfs_digest == image.rootfs_digest
    assert "app:2" in again.references


async def test_several_images_share_their_layers_in_a_file(images: Images, elsewhere: Images, tmp_path: Path) -> None:
    made = []
    for number in range(2):
        async with images.adding():
            layers = [await images.add_layer(iter([TARS[0]])), await images.add_layer(iter([Tar().file(str(number)).bytes()]))]
            made.append(await images.commit(layers, (await base(images)).config, references=[f"made:{number}"]))
    saved = await save(images, tmp_path / "saved.tar", "made:0", "made:1", made[0].id)
    with tarfile.open(saved) as archive:
        names = archive.getnames()
    assert len(names) == len(set(names)) == 3 + 2 * 2 + 3  # indexes; manifests and configurations; layers
    assert [loaded.references for loaded in await elsewhere.load(saved)] == [("made:0",), ("made:1",)]


async def base(images: Images) -> Image:
    return await images.import_(io.BytesIO(TARS[0]), "base")


async def test_a_damaged_layer_is_not_saved_as_if_it_were_whole(image: Image, images: Images, tmp_path: Path, layout: Layout) -> None:
    blob = layout.images / "blobs/sha256" / images.layers(image)[0].digest[7:]
    blob.chmod(0o600)
    blob.write_bytes(b"x" * blob.stat().st_size)
    with pytest.raises(DigestMismatch):
        await save(images, tmp_path / "saved.tar", image.id)


async def test_an_archive_can_only_give_names_of_registries(images: Images, elsewhere: Images, tmp_path: Path) -> None:
    await base(images)
    saved = await save(images, tmp_path / "saved.tar", "base")
    hostile = ["debootstrap:bookworm?include=python3", "../../x", "rootfs:/etc/passwd", "good:1", "UPPER", ""]
    rewritten = tmp_path / "hostile.tar"
    with tarfile.open(saved) as source, tarfile.open(rewritten, "w") as target:
        for member in source:
            content = source.extractfile(member)
            assert content is not None
            data = content.read()
            if member.name == "manifest.json":
                data = json.dumps([{**json.loads(data)[0], "RepoTags": hostile}]).encode()
                member.size = len(data)
            target.addfile(member, io.BytesIO(data))
    (loaded,) = await elsewhere.load(rewritten)
    assert loaded.references == ("good:1",)


async def test_what_is_no_archive_of_images_is_refused(images: Images, tmp_path: Path) -> None:
    (tmp_path / "rootfs.tar").write_bytes(TARS[0])
    with pytest.raises(CorruptImage) as caught:
        await images.load(tmp_path / "rootfs.tar")
    assert "image import" in (caught.value.remedy or "")
    with pytest.raises(ImageNotFound):
        await images.load(tmp_path / "none")
    with pytest.raises(ImageNotFound):
        await images.save(["none"], io.BytesIO())


async def test_a_truncated_archive_leaves_no_image(image: Image, images: Images, elsewhere: Images, tmp_path: Path) -> None:
    saved = await save(images, tmp_path / "saved.tar", image.id)
    saved.write_bytes(saved.read_bytes()[: saved.stat().st_size // 2])
    with pytest.raises(CorruptImage):
        await elsewhere.load(saved)
    assert await elsewhere.list() == []


# ── history ─────────────────────────────────────────────────────────────────────────────────────


async def test_history_says_how_an_image_was_made(registry: Registry, images: Images) -> None:
    registry.push("history", TARS, extra={"history": HISTORY})
    await images.resolve(f"{registry.host}/history")
    steps = images.history(f"{registry.host}/history")
    assert [(step.created_by, step.comment, step.size, step.layer) for step in steps] == [
        ("COPY b /", "by hand", len(TARS[1]), sha256(TARS[1])),
        ('CMD ["sh"]', "", 0, None),
        ("ADD rootfs.tar /", "", len(TARS[0]), sha256(TARS[0])),
    ]
    assert steps[0].created == "2024-01-03T00:00:00Z"


@pytest.mark.parametrize("history", [None, [], HISTORY[:1], [*HISTORY, *HISTORY]], ids=["none", "empty", "short", "long"])
async def test_a_history_that_does_not_fit_the_layers_is_no_error(registry: Registry, images: Images, history: list[object] | None) -> None:
    registry.push("odd", TARS, extra={"history": history})
    await images.pull(f"{registry.host}/odd")
    steps = images.history(f"{registry.host}/odd")
    assert sorted(step.layer for step in steps if step.layer) == sorted(map(sha256, TARS))
