"""`bandsox init` and the CNI plugins: an archive of them from a file of this host, what else may be in it, and who needs them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from bandsox.errors import Unsupported
from bandsox.network import plugins
from bandsox.network.cni import Places
from tests.cli.conftest import Cli

PROGRAMS = ("bridge", "host-local", "portmap")
SKIPPED = ("--skip-kernel", "--skip-rootfs", "--skip-firecracker")


def archive(*names: str, links: dict[str, str] | None = None) -> bytes:
    """An archive like those of the releases, with programs that do nothing."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as made:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size, member.mode = 10, 0o644
            made.addfile(member, io.BytesIO(b"#!/bin/sh\n"))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            made.addfile(member)
    return buffer.getvalue()


@pytest.fixture
def fresh(tmp_path: Path) -> Cli:
    """The command line with a storage directory of the test's own."""
    return Cli(tmp_path / "storage")


def init(cli: Cli, tmp_path: Path, content: bytes, sha256: str | None = None) -> Any:
    path = tmp_path / "plugins.tgz"
    path.write_bytes(content)
    digest = ("--cni-sha256", sha256) if sha256 is not None else ()
    return cli("--json", "init", *SKIPPED, "--cni-url", str(path), *digest)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_plugins_are_installed_beside_their_link(fresh: Cli, tmp_path: Path) -> None:
    content = archive(*(f"./{name}" for name in PROGRAMS), "./README.md", "./LICENSE", "../../outside", links={"./loopback": "/bin/sh"})
    answer = init(fresh, tmp_path, content, sha256(content)).json
    link = tmp_path / "storage/plugins/cni"
    assert answer["cni"] == str(link.resolve())
    assert sorted(entry.name for entry in link.iterdir()) == ["bridge", "host-local", "outside", "portmap"]
    assert all(entry.stat().st_mode & 0o777 == 0o755 for entry in link.iterdir())
    assert not (tmp_path / "outside").exists()
    again = fresh("--json", "init", *SKIPPED, "--cni", check=True).json  # nothing is fetched
    assert again["cni"] == answer["cni"]


def test_another_archive_takes_the_place_of_the_first(fresh: Cli, tmp_path: Path) -> None:
    for content in (archive(*PROGRAMS), archive(*PROGRAMS, "ptp")):
        assert init(fresh, tmp_path, content, sha256(content)).status == 0
    assert (tmp_path / "storage/plugins/cni/ptp").exists()


def test_an_archive_that_is_not_the_pinned_release_is_refused(fresh: Cli, tmp_path: Path) -> None:
    done = init(fresh, tmp_path, archive(*PROGRAMS))
    assert done.error["code"] == "digest_mismatch"
    assert not (tmp_path / "storage/plugins/cni").exists()


@pytest.mark.parametrize(
    "content",
    [archive("bridge"), archive(*PROGRAMS, *(f"x{number}" for number in range(100))), b"no archive", archive(*PROGRAMS)[:60]],
    ids=["one is lacking", "too many", "none", "cut"],
)
def test_what_is_no_archive_of_plugins_is_refused(fresh: Cli, tmp_path: Path, content: bytes) -> None:
    done = init(fresh, tmp_path, content, sha256(content))
    assert done.error["code"] == "corrupt_image"
    assert not (tmp_path / "storage/plugins/cni").exists()


def test_there_is_a_release_for_each_machine_that_hosts_are() -> None:
    for machine, name in {"x86_64": "amd64", "aarch64": "arm64"}.items():
        url, digest = plugins.archive(machine)
        assert url.endswith(f"/v{plugins.VERSION}/cni-plugins-linux-{name}-v{plugins.VERSION}.tgz")
        assert len(bytes.fromhex(digest)) == 32
    with pytest.raises(Unsupported):
        plugins.archive("riscv64")


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A network with two plugins and one that nobody can read, a directory of the host's plugins, and one of installed ones."""
    configurations, host, own = (tmp_path / name for name in ("net.d", "host", "own"))
    for directory in (configurations, host, own):
        directory.mkdir()
    steps = [{"type": "bridge", "ipam": {"type": "host-local"}}, {"type": "portmap"}]
    (configurations / "10-lan.conflist").write_text(json.dumps({"cniVersion": "1.0.0", "name": "lan", "plugins": steps}))
    (configurations / "20-bad.conf").write_text('{"name": "bad", "type": ')
    (configurations / "30-no.txt").write_text("no configuration")
    return Places((configurations,), (own, host))


def test_networks_are_read_from_their_files(places: Places) -> None:
    lan, bad = plugins.networks(places.configurations)
    assert (lan.name, lan.plugins, lan.fault) == ("lan", ("bridge", "portmap", "host-local"), None)
    assert (bad.file.name, bad.name) == ("20-bad.conf", "")
    assert bad.fault


def test_a_plugin_is_missing_where_neither_the_host_nor_init_has_it(places: Places) -> None:
    lan, _ = plugins.networks(places.configurations)
    own, host = places.plugins
    assert plugins.missing(lan, places.plugins) == ["bridge", "portmap", "host-local"]
    for directory, name in ((own, "bridge"), (host, "portmap"), (host, "host-local")):
        (directory / name).write_text("")
        assert name in plugins.missing(lan, places.plugins)  # it cannot be run
        (directory / name).chmod(0o755)
    assert plugins.missing(lan, places.plugins) == []


def test_what_is_installed_comes_before_the_hosts_and_a_setting_in_the_place_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BANDSOX_CNI_PLUGINS", raising=False)
    assert Places.of(tmp_path).plugins[0] == tmp_path
    assert Path("/opt/cni/bin") in Places.of(tmp_path).plugins[1:]
    monkeypatch.setenv("BANDSOX_CNI_PLUGINS", f"{tmp_path}/a:{tmp_path}/b")
    assert Places.of(tmp_path).plugins == (tmp_path / "a", tmp_path / "b")
