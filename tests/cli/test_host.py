"""Images, and what a host needs: `image`, `init`, `doctor`."""

from __future__ import annotations

import io
import os
import secrets
import tarfile
from pathlib import Path

import pytest

from bandsox.settings import DEFAULT_IMAGE
from tests.cli.conftest import Cli

IMAGE_KEYS = {
    "id", "references", "manifest_digest", "rootfs_digest", "rootfs", "size", "architecture", "created_at", "config", "source",
}  # fmt: skip


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The root file system of a very small image, as a tar archive."""
    path = tmp_path / "rootfs.tar"
    with tarfile.open(path, "w") as made:
        member = tarfile.TarInfo("etc/motd")
        member.size = 6
        made.addfile(member, io.BytesIO(secrets.token_bytes(3).hex().encode()))
    return path


def test_import_tag_inspect_and_remove(cli: Cli, archive: Path) -> None:
    name, other = f"imported-{secrets.token_hex(4)}", f"other-{secrets.token_hex(4)}"
    image = cli("--json", "image", "import", str(archive), name, check=True).json
    assert set(image) == IMAGE_KEYS
    assert cli("--json", "image", "tag", name, other).json["id"] == image["id"]
    assert cli("--json", "image", "inspect", other).json["id"] == cli("--json", "inspect", name).json["id"] == image["id"]
    assert image["id"] in cli("image", "list", "-q").text.split()
    table = cli("image", "ls").text
    assert table.splitlines()[0].split() == ["NAME", "ID", "SIZE", "ARCHITECTURE", "CREATED"]
    assert f"\n{name}:latest " in table
    assert cli("image", "rm", name, check=True).text == f"untagged: {name}:latest\n"
    removed = cli("--json", "image", "rm", other).json
    assert set(removed) == {"untagged", "deleted", "freed"}
    assert removed["deleted"] == [image["id"]]
    assert cli("image", "rm", other).status == 1


def test_import_from_standard_input(cli: Cli, archive: Path) -> None:
    name = f"piped-{secrets.token_hex(4)}"
    image_id = cli("image", "import", "-", name, stdin=archive.read_bytes(), check=True).text.strip()
    assert image_id.startswith("sha256:")
    cli("image", "rm", name, check=True)


def test_pull_of_an_archive(cli: Cli, archive: Path) -> None:
    image_id = cli("image", "pull", f"rootfs:{archive}", check=True).text.strip()
    cli("image", "rm", image_id, check=True)
    assert set(cli("--json", "image", "prune").json) == {"untagged", "deleted", "freed"}


def test_an_image_in_use_stays(cli: Cli, machine: str) -> None:
    done = cli("--json", "image", "rm", cli("--json", "image", "inspect", DEFAULT_IMAGE).json["id"])
    assert (done.status, done.error["code"]) == (1, "conflict")


def test_an_archive_that_is_none(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "broken.tar").write_bytes(b"nothing like an archive" * 100)
    done = cli("--json", "image", "import", str(tmp_path / "broken.tar"), "broken")
    assert (done.status, done.error["code"]) == (1, "corrupt_image")


def test_init_is_quiet_about_what_is_there(cli: Cli) -> None:
    done = cli("init", "--quiet", check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    lines = cli("init", check=True).text.splitlines()
    assert [line[:14].strip() for line in lines] == ["guest kernel", "default image", "firecracker", "CNI plugins", "accelerator"]
    answer = cli("--json", "init").json
    assert set(answer) == {"storage", "kernel", "image", "firecracker", "cni", "accelerator"}
    assert set(answer["accelerator"]) == {"vmm", "name", "isolation", "reason"}


def test_init_with_a_kernel_of_ones_own(cli: Cli, storage: Path, tmp_path: Path) -> None:
    kernel = storage / "kernels/default/vmlinux"
    other = Cli(tmp_path / "other")
    wrong = other("--json", "init", "--skip-image", "--kernel-url", str(kernel), "--kernel-sha256", "0" * 64)
    assert (wrong.status, wrong.error["code"]) == (1, "digest_mismatch")
    assert not (tmp_path / "other/kernels/default").exists()


def test_doctor(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "lan.conf").write_text('{"cniVersion": "1.0.0", "name": "lan", "type": "no-such-plugin"}')
    done = cli("--json", "doctor", BANDSOX_CNI_CONFIG=str(tmp_path))
    answer = done.json
    assert answer["ok"] is True
    assert done.status == 0
    assert {"host", "guest agent", "guest kernel", "storage", "qemu"} <= {finding["subject"] for finding in answer["findings"]}
    assert set(answer["findings"][0]) == {"subject", "state", "text", "remedy"}
    cni = [(finding["state"], finding["text"]) for finding in answer["findings"] if finding["subject"] == "CNI"]
    assert cni == ([("note", "lan lacks no-such-plugin")] if os.geteuid() == 0 else [])
    assert cli("doctor", "--quiet").stdout == b""


def test_doctor_says_how_to_mend_what_is_missing(empty: Cli) -> None:
    done = empty("doctor")
    assert done.status == 1
    assert "bandsox init" in done.text
    assert empty("doctor", PATH="/nowhere").text.count("apt-get install") >= 2


def test_build(cli: Cli, tmp_path: Path) -> None:
    name = f"built-{secrets.token_hex(4)}"
    (tmp_path / "hello").write_text("from the context\n")
    (tmp_path / "Dockerfile").write_text(
        f'ARG WHO\nFROM {DEFAULT_IMAGE}\nARG WHO\nCOPY hello /hello\nENV WHO=$WHO\nCMD ["cat", "/hello"]\n'
    )
    done = cli("image", "build", "-t", name, "--build-arg", "WHO=me", str(tmp_path), check=True)
    try:
        assert done.text.startswith("sha256:")
        assert "COPY hello /hello" in done.errors
        assert cli("--json", "image", "inspect", name).json["config"]["env"]["WHO"] == "me"
        assert cli("run", name).stdout == b"from the context\n"
    finally:
        cli("image", "rm", name, check=True)


def test_a_dockerfile_that_cannot_be_built(cli: Cli, tmp_path: Path) -> None:
    assert cli("--json", "image", "build", str(tmp_path)).error["code"] == "invalid_dockerfile"
    (tmp_path / "Dockerfile").write_text("FROM scratch\nNONSENSE\n")
    done = cli("--json", "image", "build", str(tmp_path))
    assert (done.status, done.error["code"]) == (2, "invalid_dockerfile")
