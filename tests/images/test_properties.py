"""Random stacks of layers against a model of a few lines, and against umoci."""

from __future__ import annotations

import json
import os
import random
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bandsox.errors import BandSoxError, CorruptImage
from bandsox.images import spec
from bandsox.images.flatten import Job, LayerFile, flatten
from tests.images.tars import Tar, sha256
from tests.images.trees import content, links_of_directory, tree_of_directory, unpack_squashfs

NAMES = ("a", "b", "c")
PATHS = [*NAMES, *(f"{x}/{y}" for x in NAMES for y in NAMES), *(f"{x}/{y}/{z}" for x in NAMES[:2] for y in NAMES[:2] for z in NAMES)]


@dataclass(frozen=True)
class Step:
    """One entry of a layer."""

    kind: str
    path: str
    data: bytes = b""
    mode: int = 0o644


steps = st.builds(
    Step,
    st.sampled_from(["file", "file", "file", "directory", "directory", "symlink", "whiteout", "opaque"]),
    st.sampled_from(PATHS),
    st.sampled_from([b"", b"x", b"y" * 3000, b"z" * 140_000, bytes(270_000)]),
    st.sampled_from([0o644, 0o755, 0o4711]),
)


@st.composite
def layers(draw: st.DrawFn) -> list[list[Step]]:
    """Layers in which every path has at most one entry, and nothing lies below what is not a directory."""
    made = []
    for _ in range(draw(st.integers(1, 4))):
        layer: dict[str, Step] = {}
        for step in draw(st.lists(steps, max_size=10)):
            leaves = {path for path, known in layer.items() if known.kind in ("file", "symlink")}
            ancestors = {step.path.rsplit("/", number)[0] for number in range(1, step.path.count("/") + 1)}
            below = any(path.startswith(step.path + "/") for path in layer)
            if step.path in layer or ancestors & leaves or (below and step.kind in ("file", "symlink")):
                continue
            if step.kind in ("whiteout", "opaque") and (
                below or ancestors & {p for p, k in layer.items() if k.kind in ("whiteout", "opaque")}
            ):
                continue
            if any(layer[a].kind in ("whiteout", "opaque") for a in ancestors if a in layer):
                continue
            layer[step.path] = step
        made.append(list(layer.values()))
    return made


def model(stack: list[list[Step]]) -> dict[str, tuple[str, str, int]]:
    """Kind, content and mode of every path, by the plainest reading of layer.md."""
    tree: dict[str, tuple[str, str, int]] = {}

    def drop(path: str, *, itself: bool) -> None:
        for known in list(tree):
            if known.startswith(path + "/") or (itself and known == path):
                del tree[known]

    for layer in stack:
        for step in layer:
            if step.kind in ("whiteout", "opaque"):
                drop(step.path, itself=step.kind == "whiteout")
        for step in layer:
            parts = step.path.split("/")
            depth = len(parts) + (step.kind == "opaque")
            if step.kind != "whiteout" and step.kind != "opaque":
                for number in range(1, depth):
                    parent = "/".join(parts[:number])
                    if tree.get(parent, ("",))[0] != "directory":
                        drop(parent, itself=True)
                        tree[parent] = ("directory", "", 0o755)
            if step.kind == "file":
                drop(step.path, itself=True)
                tree[step.path] = ("file", content(step.data), step.mode)
            elif step.kind == "symlink":
                drop(step.path, itself=True)
                tree[step.path] = ("symlink", "nowhere/at/all", 0o777)
            elif step.kind == "directory":
                if tree.get(step.path, ("",))[0] != "directory":
                    drop(step.path, itself=True)
                tree[step.path] = ("directory", "", step.mode)
    return tree


def archive(layer: list[Step]) -> bytes:
    tar = Tar()
    for step in layer:
        if step.kind == "file":
            tar.file(step.path, step.data, mode=step.mode)
        elif step.kind == "directory":
            tar.directory(step.path, mode=step.mode)
        elif step.kind == "symlink":
            tar.symlink(step.path, "nowhere/at/all")
        elif step.kind == "whiteout":
            tar.whiteout(step.path)
        else:
            tar.opaque(step.path)
    return tar.bytes()


def convert(work: Path, archives: list[bytes]) -> Path:
    files = []
    for number, data in enumerate(archives):
        (work / f"{number}.tar").write_bytes(data)
        files.append(LayerFile(work / f"{number}.tar", sha256(data)[7:], str(number)))
    image = work / "image"
    descriptor = os.open(image, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        flatten(files, descriptor, Job())
    finally:
        os.close(descriptor)
    return image


def has_link_on_the_way(stack: list[list[Step]]) -> bool:
    """Whether a path goes through what a lower layer has as a symbolic link: followed here, not in the plain model."""
    links = {step.path for layer in stack for step in layer if step.kind == "symlink"}
    return any(step.path.startswith(link + "/") for link in links for layer in stack for step in layer)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(layers().filter(lambda stack: not has_link_on_the_way(stack)))
def test_any_stack_of_layers_is_what_the_model_says(stack: list[list[Step]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        tree = tree_of_directory(unpack_squashfs(convert(work, [archive(layer) for layer in stack]), work / "tree"))
    tree.pop(b".")
    found = {os.fsdecode(path): (file.kind, file.content, file.mode) for path, file in tree.items()}
    assert found == model(stack)


def write_layout(directory: Path, archives: list[bytes]) -> None:
    """An OCI layout, by the book."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes) -> dict[str, object]:
        (blobs / sha256(data)[7:]).write_bytes(data)
        return {"digest": sha256(data), "size": len(data)}

    rootfs = {"type": "layers", "diff_ids": [sha256(data) for data in archives]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": spec.OCI_MANIFEST,
        "config": {"mediaType": spec.OCI_CONFIG, **put(config)},
        "layers": [{"mediaType": spec.OCI_LAYER, **put(data)} for data in archives],
    }
    entry = {"mediaType": spec.OCI_MANIFEST, **put(json.dumps(manifest).encode())}
    entry["annotations"] = {"org.opencontainers.image.ref.name": "x"}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


@pytest.mark.skipif(os.geteuid() != 0, reason="umoci keeps owners as root only")
@pytest.mark.parametrize("seed", range(12))
def test_large_random_images_are_what_umoci_unpacks(tmp_path: Path, seed: int) -> None:
    """Wider trees than the model's, with hard links, owners, times and attributes, but no whiteouts after entries."""
    chance = random.Random(seed)
    archives, known = list[bytes](), list[str]()
    for number in range(4):
        tar, mine = Tar(), list[str]()
        for path in chance.sample(known, k=min(len(known), 6)) if number else []:
            if path not in mine and not any(other.startswith(path + "/") or path.startswith(other + "/") for other in mine):
                tar.whiteout(path)
                mine.append(path)
        hidden = tuple(mine)
        for count in range(60):
            path = "/".join([*chance.choices("pqrstuv", k=chance.randint(0, 3)), f"{number}-{count}"])
            if path.startswith(tuple(f"{name}/" for name in hidden)):
                continue
            fields = {"uid": chance.randint(0, 70_000), "gid": chance.randint(0, 9), "mtime": chance.randint(0, 2**31 - 1)}
            data = chance.randbytes(chance.choice([0, 10, 5000, 200_000]))
            tar.file(
                path,
                data,
                mode=chance.choice([0o644, 0o755, 0o2755]),
                xattrs={"user.n": bytes([count])} if count % 9 == 0 else None,
                **fields,
            )
            known.append(path)
            if count % 5 == 0:
                tar.hardlink(f"{path}-link", path)
        archives.append(tar.bytes())
    write_layout(tmp_path / "layout", archives)
    subprocess.run(["umoci", "unpack", "--image", f"{tmp_path}/layout:x", tmp_path / "bundle"], check=True, capture_output=True)
    ours = unpack_squashfs(convert(tmp_path, archives), tmp_path / "ours")
    theirs = tmp_path / "bundle/rootfs"
    found, expected = tree_of_directory(ours), tree_of_directory(theirs)
    directories = {path for path, file in found.items() if file.kind == "directory"}
    assert directories == {path for path, file in expected.items() if file.kind == "directory"}
    assert {p: f for p, f in found.items() if p not in directories} == {p: f for p, f in expected.items() if p not in directories}
    assert links_of_directory(ours) == links_of_directory(theirs)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=4000), st.integers(0, 3000), st.integers(0, 255))
def test_a_damaged_archive_is_read_or_refused_never_worse(junk: bytes, position: int, byte: int) -> None:
    data = bytearray(Tar().file("a" * 150, b"x" * 700, xattrs={"user.a": b"1"}).symlink("s", "t").hardlink("h", "s").bytes())
    data[position % len(data)] = byte
    data[position : position + len(junk) // 8] = junk[: len(junk) // 8]
    with tempfile.TemporaryDirectory() as directory:
        try:
            convert(Path(directory), [bytes(data)])
        except CorruptImage as error:
            assert isinstance(error, BandSoxError)
