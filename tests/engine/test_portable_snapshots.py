"""Snapshots carried to another storage directory, as to another host: whole, only what differs, and never what was tampered with."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bandsox import BandSox, MicroVM
from bandsox.errors import (
    BandSoxError,
    Conflict,
    CorruptImage,
    CorruptSnapshot,
    DigestMismatch,
    InvalidReference,
    InvalidRequest,
    RegistryError,
    RegistryUnavailable,
    SnapshotNotFound,
    UntrustedSnapshot,
)
from bandsox.models import Progress
from bandsox.settings import Layout
from tests.engine.leaks import Traces
from tests.engine.test_snapshot_signing import make_key
from tests.images.registry import PASSWORD, USER, Registry, proxy, run_registry


@pytest.fixture(scope="module")
def source(bandsox: BandSox) -> Iterator[MicroVM]:
    with bandsox.create_vm(mem_mib=128, vmm="qemu", disk_size_mib=256) as machine:
        machine.run("echo in memory > /dev/shm/kept; echo on disk > /root/kept; sync")
        yield machine


@pytest.fixture(scope="module")
def saved(bandsox: BandSox, source: MicroVM) -> Iterator[str]:
    name = source.snapshot(f"portable-{os.urandom(4).hex()}", {"purpose": "travel"})
    yield name
    bandsox.delete_snapshot(name)


@pytest.fixture(scope="module")
def later(bandsox: BandSox, saved: str) -> Iterator[str]:
    """A snapshot of a clone that has done something more."""
    with bandsox.restore_vm(saved) as clone:
        clone.run("echo later > /dev/shm/later; echo later > /root/later; sync")
        name = clone.snapshot()
    yield name
    bandsox.delete_snapshot(name)


@pytest.fixture(scope="module")
def archive(bandsox: BandSox, saved: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "snapshot.tar"
    bandsox.export_snapshot(saved, path)
    return path


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[BandSox]:
    """A storage directory in which there is nothing at all."""
    with BandSox(tmp_path / "elsewhere") as other:
        yield other
        for info in other.list_vms():
            other.delete_vm(info["id"])


def _goes_on(bandsox: BandSox, name: str, words: str = "in memory\non disk\n") -> None:
    with bandsox.restore_vm(name) as clone:
        assert clone.run("cat /dev/shm/kept /root/kept").text == words


def test_a_snapshot_goes_on_where_there_was_nothing(bandsox: BandSox, saved: str, archive: Path, elsewhere: BandSox) -> None:
    seen: list[Progress] = []
    assert elsewhere.import_snapshot(archive, progress=seen.append) == saved
    assert max(report.done for report in seen) == max(report.total or 0 for report in seen) > 0
    there, here = elsewhere.get_snapshot_info(saved), bandsox.get_snapshot_info(saved)
    for key in ("id", "metadata", "env_vars", "vcpu", "mem_mib", "image", "created_at"):
        assert there[key] == here[key]
    assert archive.stat().st_mode & 0o077 == 0
    _goes_on(elsewhere, saved)
    with elsewhere.restore_vm(saved, cold=True) as cold:
        assert cold.run("cat /root/kept; ls /dev/shm").text == "on disk\n"
    elsewhere.delete_snapshot(saved)


def test_a_kernel_that_came_with_a_snapshot_goes_when_nothing_needs_it(saved: str, archive: Path, elsewhere: BandSox) -> None:
    kernels = Layout.open(elsewhere.storage_dir).kernels
    elsewhere.import_snapshot(archive)
    brought = set(kernels.glob("imported-*"))
    assert brought
    with elsewhere.restore_vm(saved) as clone:
        elsewhere.delete_snapshot(saved)
        elsewhere.cleanup()
        assert set(kernels.glob("imported-*")) == brought, "the clone needs it to start again"
        (other,) = clone.fork()
    elsewhere.cleanup()
    assert set(kernels.glob("imported-*")) == brought
    other.delete()
    elsewhere.cleanup()
    assert set(kernels.glob("imported-*")) == set()


def test_what_is_here_is_not_taken_twice(bandsox: BandSox, saved: str, archive: Path) -> None:
    layout = Layout.open(bandsox.storage_dir)
    before = {path: path.stat().st_ino for root in (layout.kernels, layout.images) for path in root.rglob("*") if path.is_file()}
    shelf = set(layout.snapshots.iterdir())
    assert bandsox.import_snapshot(archive) == saved
    assert set(layout.snapshots.iterdir()) == shelf
    name = bandsox.import_snapshot(archive, f"{saved} again")
    assert bandsox.get_snapshot_info(name)["id"] != bandsox.get_snapshot_info(saved)["id"]
    after = {path: path.stat().st_ino for root in (layout.kernels, layout.images) for path in root.rglob("*") if path.is_file()}
    assert after == before
    _goes_on(bandsox, name)
    bandsox.delete_snapshot(name)


def test_a_name_that_is_taken_is_refused(bandsox: BandSox, source: MicroVM, saved: str, archive: Path, elsewhere: BandSox) -> None:
    elsewhere.import_snapshot(archive)
    first = elsewhere.get_snapshot_info(saved)["id"]
    elsewhere.rename_snapshot(saved, "other")
    assert elsewhere.import_snapshot(archive) == "other"
    other = source.snapshot()
    with pytest.raises(Conflict):
        bandsox.import_snapshot(archive, other)
    bandsox.delete_snapshot(other)
    elsewhere.delete_snapshot(first)


def test_only_what_differs_travels_on_a_base(
    bandsox: BandSox, saved: str, later: str, archive: Path, elsewhere: BandSox, tmp_path: Path
) -> None:
    bandsox.export_snapshot(later, tmp_path / "whole.tar", image=False)
    bandsox.export_snapshot(later, tmp_path / "later.tar", base=saved, image=False)
    assert (tmp_path / "later.tar").stat().st_size < 0.7 * (tmp_path / "whole.tar").stat().st_size
    with pytest.raises(SnapshotNotFound, match="base"):
        elsewhere.import_snapshot(tmp_path / "later.tar")
    elsewhere.import_snapshot(archive, "base")
    name = elsewhere.import_snapshot(tmp_path / "later.tar")
    elsewhere.delete_snapshot("base")
    with elsewhere.restore_vm(name) as clone:
        assert clone.run("cat /dev/shm/kept /dev/shm/later /root/later").text == "in memory\nlater\nlater\n"
    elsewhere.delete_snapshot(name)


def test_without_its_image_it_needs_the_image(bandsox: BandSox, saved: str, archive: Path, elsewhere: BandSox, tmp_path: Path) -> None:
    bandsox.export_snapshot(saved, tmp_path / "small.tar", image=False)
    assert (tmp_path / "small.tar").stat().st_size < archive.stat().st_size
    with pytest.raises(CorruptSnapshot, match="rootfs") as refusal:
        elsewhere.import_snapshot(tmp_path / "small.tar")
    assert "pull" in str(refusal.value.remedy)
    assert elsewhere.list_snapshots() == []


def test_a_layout_holds_several_and_an_archive_is_a_layout(bandsox: BandSox, saved: str, later: str, archive: Path, tmp_path: Path) -> None:
    target = f"oci:{tmp_path / 'layout'}"
    first, second = bandsox.export_snapshot(saved, target, image=False), bandsox.export_snapshot(later, target, image=False)
    assert bandsox.export_snapshot(saved, target, image=False) == first
    with pytest.raises(SnapshotNotFound, match="several"):
        bandsox.import_snapshot(target)
    name = bandsox.import_snapshot(f"{target}@{second}", "of the layout")
    bandsox.delete_snapshot(name)
    for blob in (tmp_path / "layout" / "blobs" / "sha256").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    name = bandsox.import_snapshot(f"oci:{tmp_path / 'unpacked'}", "of the archive")
    bandsox.delete_snapshot(name)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with run_registry(tmp_path_factory.mktemp("registry"), password=True) as running:
        yield running


@pytest.fixture
def credentials(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `docker login` leaves, which is needed to push and to pull."""
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": login}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


@pytest.mark.usefixtures("credentials")
def test_a_registry_keeps_it(bandsox: BandSox, saved: str, registry: Registry, elsewhere: BandSox) -> None:
    place = f"registry:{registry.host}/team/{saved}:1"
    digest = bandsox.export_snapshot(saved, place)
    sent = registry.requests(r"PUT /v2/.*/blobs/uploads/")
    assert bandsox.export_snapshot(saved, place) == digest
    assert registry.requests(r"PUT /v2/.*/blobs/uploads/") == sent, "what the registry has is not sent again"
    assert elsewhere.import_snapshot(f"registry:{registry.host}/team/{saved}@{digest}") == saved
    assert not (Path(elsewhere.storage_dir) / "downloads" / "snapshots").exists()
    _goes_on(elsewhere, saved)
    elsewhere.delete_snapshot(saved)
    fetched = registry.requests(r"GET /v2/.*/blobs/")
    assert elsewhere.import_snapshot(place) == saved
    assert registry.requests(r"GET /v2/.*/blobs/") == fetched + 4, "configuration, memory, state and disk"
    elsewhere.delete_snapshot(saved)


@pytest.mark.usefixtures("credentials")
def test_a_transfer_goes_on_where_it_broke_off(bandsox: BandSox, saved: str, registry: Registry, tmp_path: Path) -> None:
    login = json.loads((tmp_path / "config.json").read_text())
    bandsox.export_snapshot(saved, f"registry:{registry.host}/broken:1", image=False)
    with proxy(registry, [None, None, 1_000_000, None, 500_000]) as between:
        login["auths"][between.host] = login["auths"][registry.host]
        (tmp_path / "config.json").write_text(json.dumps(login))
        name = bandsox.import_snapshot(f"registry:{between.host}/broken:1", "broken off")
        assert any("[bytes=" in request for request in between.requests)
    bandsox.delete_snapshot(name)


def test_a_registry_that_refuses_is_named(bandsox: BandSox, saved: str, registry: Registry, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for operation in (bandsox.export_snapshot, lambda _, place: bandsox.import_snapshot(place)):
        with pytest.raises(RegistryError):
            operation(saved, f"registry:{registry.host}/team/secret:1")
    with pytest.raises(RegistryUnavailable):
        bandsox.import_snapshot("registry:127.0.0.1:1/nobody/there:1")
    with pytest.raises(InvalidReference):
        bandsox.import_snapshot("registry:oci-archive:file")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_key(tmp_path_factory.mktemp("keys"), "own")


def test_where_signatures_are_wanted_only_what_is_signed_is_taken(
    bandsox: BandSox, saved: str, archive: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: Any
) -> None:
    private, public = keys
    stranger = make_key(tmp_path, "stranger")[1]
    kept = _kept(Layout.open(bandsox.storage_dir))
    monkeypatch.setenv("BANDSOX_VERIFY_KEY", str(public))
    layout, signed = f"oci:{tmp_path / 'layout'}", tmp_path / "signed.tar"
    digest = bandsox.export_snapshot(saved, layout, image=False)
    for unsigned in (archive, layout):
        with pytest.raises(UntrustedSnapshot, match="not signed"):
            bandsox.import_snapshot(unsigned, "unsigned")
    assert bandsox.export_snapshot(saved, signed, image=False, sign_key=private) == digest, "a signature changes nothing of it"
    with pytest.raises(UntrustedSnapshot):
        bandsox.import_snapshot(signed, "signed", verify_key=stranger)
    assert _kept(Layout.open(bandsox.storage_dir)) == kept
    bandsox.export_snapshot(saved, layout, image=False, sign_key=private)
    for source in (signed, layout):
        bandsox.delete_snapshot(bandsox.import_snapshot(source, "signed"))


def test_another_snapshot_under_a_signature_is_refused(tampering: Tampering, bandsox: BandSox, saved: str, keys: tuple[Path, Path]) -> None:
    bandsox.export_snapshot(saved, f"oci:{tampering.path}", image=False, sign_key=keys[0])
    signature = json.loads((tampering.path / "index.json").read_text())["manifests"][-1]
    source = tampering.change(_set("snapshot.spec.env_vars", {"PATH": "/tmp/evil"}))
    index = json.loads((tampering.path / "index.json").read_text())
    tampering.put(tampering.path / "index.json", json.dumps({"manifests": [*index["manifests"], signature]}).encode())
    with pytest.raises(UntrustedSnapshot):
        bandsox.import_snapshot(source, "tampered with", verify_key=keys[1])


@pytest.mark.usefixtures("credentials")
def test_a_registry_keeps_a_signature_beside_it(bandsox: BandSox, saved: str, registry: Registry, keys: tuple[Path, Path]) -> None:
    place = f"registry:{registry.host}/team/signed-{saved}:1"
    bandsox.export_snapshot(saved, place, image=False)
    with pytest.raises(UntrustedSnapshot, match="not signed"):
        bandsox.import_snapshot(place, "from the registry", verify_key=keys[1])
    bandsox.export_snapshot(saved, place, image=False, sign_key=keys[0])
    name = bandsox.import_snapshot(place, "from the registry", verify_key=keys[1])
    bandsox.delete_snapshot(name)


def test_a_stream_is_written_as_a_file_is(bandsox: BandSox, saved: str, tmp_path: Path) -> None:
    out = io.BytesIO()
    bandsox.export_snapshot(saved, out, image=False)
    bandsox.export_snapshot(saved, tmp_path / "same.tar", image=False)
    assert out.getvalue() == (tmp_path / "same.tar").read_bytes()


@pytest.mark.parametrize("target", ["", "oci:", "missing/directory/file.tar", "oci:{}"])
def test_a_target_that_cannot_be_is_refused(bandsox: BandSox, saved: str, tmp_path: Path, target: str) -> None:
    (tmp_path / "own").write_text("mine")
    with pytest.raises(InvalidRequest):
        bandsox.export_snapshot(saved, target.format(tmp_path), image=False)
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


# ── what comes from elsewhere ───────────────────────────────────────────────────────────────────


@dataclass
class Tampering:
    """A layout whose documents can be changed, with all digests made to fit again. Its files may be other layouts' as well: each that
    changes is another file."""

    path: Path

    def _read(self, digest: str) -> Any:
        return json.loads(self.blob(digest).read_bytes())

    def blob(self, digest: str) -> Path:
        return self.path / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def put(self, path: Path, content: bytes) -> None:
        path.unlink(missing_ok=True)
        path.write_bytes(content)

    def _write(self, document: Any) -> dict[str, Any]:
        content = json.dumps(document).encode()
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        self.put(self.blob(digest), content)
        return {"digest": digest, "size": len(content)}

    def change(self, what: Callable[[dict[str, Any], dict[str, Any]], object]) -> str:
        """Change configuration and manifest, and return where the result can be imported from."""
        index = json.loads((self.path / "index.json").read_text())
        manifest = self._read(index["manifests"][0]["digest"])
        config = self._read(manifest["config"]["digest"])
        config, manifest = copy.deepcopy(config), copy.deepcopy(manifest)
        what(config, manifest)
        manifest["config"].update(self._write(config))
        changed = {"manifests": [{**index["manifests"][0], **self._write(manifest)}]}
        self.put(self.path / "index.json", json.dumps(changed).encode())
        return f"oci:{self.path}"


@pytest.fixture(scope="module")
def exported(bandsox: BandSox, saved: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout with the snapshot, without the image's root file system."""
    path = tmp_path_factory.mktemp("exported") / "layout"
    bandsox.export_snapshot(saved, f"oci:{path}", image=False)
    return path


@pytest.fixture
def tampering(exported: Path, tmp_path: Path) -> Tampering:
    return Tampering(Path(shutil.copytree(exported, tmp_path / "layout", copy_function=os.link)))


def _set(path: str, value: object) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    def change(config: dict[str, Any], _: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        inner = config
        for part in parents:
            inner = inner[part.replace("disk-img", "disk.img")]
        inner[last] = value

    return change


IMPOSSIBLE = {
    "an id that is a path": _set("snapshot.id", "../../../../etc"),
    "a name with control characters": _set("snapshot.name", "a\x1b[2Jb"),
    "no token": _set("snapshot.token", ""),
    "a file that is a path": _set("snapshot.files", {"../memory": {"size": 1, "digest": "xxh3:" + "0" * 32}}),
    "a further file": _set("snapshot.files.manifest", {"size": 1, "digest": "xxh3:" + "0" * 32}),
    "a memory of another size": _set("snapshot.files.memory.size", 1 << 40),
    "a memory larger than the machine's": _set("snapshot.shape.ram_bytes", 1 << 40),
    "a disk of another size": _set("snapshot.files.disk-img.size", 1 << 45),
    "a state without end": _set("snapshot.files.state.size", 1 << 40),
    "a thousand ports": _set("snapshot.shape.ports", 1000),
    "a disk beyond all bounds": _set("snapshot.spec.disk_size_mib", 1 << 40),
    "a thousand processors": _set("snapshot.spec.vcpu", 1000),
    "two lines of kernel arguments": _set("snapshot.spec.boot_args", "a\nb"),
    "an unknown accelerator": _set("snapshot.accelerator", "none -monitor stdio"),
    "an unknown transport": _set("snapshot.transport", "pigeons"),
    "an address that no machine has": _set("snapshot.network.guest_ip", "127.0.0.1"),
    "an address that is none": _set("snapshot.network.guest_ip", "; reboot"),
    "name servers that are none": _set("snapshot.spec.dns", ["; reboot"]),
    "a variable with a NUL": _set("snapshot.spec.env_vars", {"A": "b\0c"}),
    "another type of value": _set("snapshot.spec.mem_mib", "128"),
    "no snapshot at all": _set("snapshot", None),
    "a kernel without a digest": _set("artefacts.kernel.digest", "md5:00"),
    "a kernel of a tebibyte": _set("artefacts.kernel.size", 1 << 40),
    "a rootfs that is not with it": _set("artefacts.rootfs.digest", "sha256:" + "0" * 64),
    "another content of its memory": _set("snapshot.files.memory.digest", "xxh3:" + "0" * 32),
    "another configuration's type": lambda _, manifest: manifest["config"].update(mediaType="application/json"),
    "no layer of its memory": lambda _, manifest: manifest.update(
        layers=[layer for layer in manifest["layers"] if layer["annotations"]["org.opencontainers.image.title"] != "memory"]
    ),
    "another size of a layer": lambda _, manifest: manifest["layers"][-1].update(size=17),
    "a layer that is a path": lambda _, manifest: manifest["layers"][-1].update(digest="sha256:../../../../etc/passwd"),
    "a thousand layers": lambda _, manifest: manifest.update(layers=manifest["layers"] * 1000),
}


@pytest.mark.parametrize("change", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_what_cannot_be_is_refused_and_leaves_nothing(bandsox: BandSox, tampering: Tampering, change: Any) -> None:
    layout = Layout.open(bandsox.storage_dir)
    before, kept = Traces.of(layout), _kept(layout)
    source = tampering.change(change)
    with pytest.raises((CorruptSnapshot, CorruptImage, DigestMismatch)):
        bandsox.import_snapshot(source, "tampered with")
    assert _kept(layout) == kept
    assert Traces.of(layout).changes_since(before) == {}


def _kept(layout: Layout) -> set[Path]:
    return {path for root in (layout.snapshots, layout.kernels, layout.images) for path in root.rglob("*")}


def test_what_is_this_hosts_to_decide_is_decided_here(bandsox: BandSox, tampering: Tampering) -> None:
    def change(config: dict[str, Any], _: dict[str, Any]) -> None:
        snapshot = config["snapshot"]
        snapshot.update(rootfs="/etc/passwd", kernel="../../kernel", initramfs="/dev/zero", isolation=2, parent="../..")
        snapshot["spec"].update(confinement="none", kernel_path="/etc/shadow", ttl=0.001, on_expiry="stop", auto_resume=True)
        snapshot["spec"].update(publish=[{"guest_port": 22, "host_port": 1, "host": "0.0.0.0"}])

    name = bandsox.import_snapshot(tampering.change(change), "tampered with")
    layout = Layout.open(bandsox.storage_dir)
    manifest = json.loads((Path(bandsox.get_snapshot_info(name)["path"]) / "manifest.json").read_text())
    spec = manifest["spec"]
    assert (spec["confinement"], spec["kernel_path"], spec["publish"], spec["ttl"], spec["auto_resume"]) == ("auto", None, [], None, False)
    assert manifest["isolation"] == 1 and manifest["parent"] is None
    for what in ("rootfs", "kernel", "initramfs"):
        assert (layout.root / manifest[what]).resolve().is_relative_to(layout.root)
    with BandSox(bandsox.storage_dir, require="hardware") as demanding, pytest.raises(BandSoxError):
        demanding.restore_vm(name)
    _goes_on(bandsox, name)
    bandsox.delete_snapshot(name)


@pytest.mark.parametrize("part", ["memory", "state", "disk.img", "kernel", "config", "manifest"])
def test_a_damaged_blob_is_refused(bandsox: BandSox, elsewhere: BandSox, tampering: Tampering, part: str) -> None:
    damaged = tampering
    index = json.loads((damaged.path / "index.json").read_text())
    manifest = json.loads(damaged.blob(index["manifests"][0]["digest"]).read_text())
    titles = {layer["annotations"]["org.opencontainers.image.title"]: layer["digest"] for layer in manifest["layers"]}
    digest = {**titles, "config": manifest["config"]["digest"], "manifest": index["manifests"][0]["digest"]}[part]
    content = bytearray(damaged.blob(digest).read_bytes())
    content[len(content) // 2] ^= 1
    damaged.put(damaged.blob(digest), bytes(content))
    with pytest.raises((CorruptSnapshot, CorruptImage, DigestMismatch)):
        (elsewhere if part == "kernel" else bandsox).import_snapshot(f"oci:{damaged.path}", "damaged")
    damaged.blob(digest).unlink()
    with pytest.raises((CorruptSnapshot, CorruptImage)):
        (elsewhere if part == "kernel" else bandsox).import_snapshot(f"oci:{damaged.path}", "damaged")


@pytest.mark.parametrize("length", [0, 100, 5000, 1 << 20])
def test_an_archive_that_is_broken_off_is_refused(elsewhere: BandSox, archive: Path, tmp_path: Path, length: int) -> None:
    (tmp_path / "broken.tar").write_bytes(archive.read_bytes()[:length])
    with pytest.raises((CorruptSnapshot, CorruptImage, DigestMismatch)):
        elsewhere.import_snapshot(tmp_path / "broken.tar")
    assert elsewhere.list_snapshots() == []


def test_what_is_no_snapshot_is_named(bandsox: BandSox, tmp_path: Path) -> None:
    for source in (tmp_path / "missing", f"oci:{tmp_path}"):
        with pytest.raises(SnapshotNotFound):
            bandsox.import_snapshot(source)
    (tmp_path / "text").write_text("no archive\n" * 1000)
    with pytest.raises(CorruptImage):
        bandsox.import_snapshot(tmp_path / "text")
