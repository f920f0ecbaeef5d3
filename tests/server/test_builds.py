"""Machines of Dockerfiles through a server, and who may name images by what lies on its host."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bandsox import BandSox, Progress, errors
from bandsox.core.remote import RemoteBandSox
from bandsox.server.auth import keys
from bandsox.server.auth.file import AuthFile
from bandsox.settings import Layout
from tests.server.servers import Server, serving

DOCKERFILE = "ARG WORD=none\nFROM python:3-alpine\nARG WORD\nENV WORD=$WORD\nCOPY --chmod=755 run.sh sub /srv/\n"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "run.sh").write_text("#!/bin/sh\ncat /srv/note; echo $WORD\n")
    (tmp_path / "sub/note").write_text("a note\n")
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    return tmp_path


def test_a_machine_of_a_dockerfile_and_its_context(server: Server, context: Path, storage: Path) -> None:
    remote, steps = BandSox(server.url), list[Progress]()
    with remote.create_vm_from_dockerfile(
        context / "Dockerfile", build_args={"WORD": "word"}, mem_mib=256, metadata={"a": [1]}, progress=steps.append
    ) as vm:
        assert vm.run("sh /srv/run.sh").text == "a note\nword\n"
        assert vm.info()["metadata"] == {"a": [1]}
        image = vm.info()["image_id"]
    assert any("COPY" in step.label for step in steps)
    remote.remove_image(image)
    assert not list(storage.glob("**/build-*/context")), "nothing is left of the context"


def tar(**files: str) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content.encode()))
    return data.getvalue()


@pytest.mark.parametrize(
    ("form", "files", "status", "code"),
    [
        ({"dockerfile": "FROM scratch\nRUN"}, {}, 422, "invalid_dockerfile"),
        ({}, {}, 400, "invalid_request"),
        ({"dockerfile": "FROM scratch", "vcpu": "many"}, {}, 400, "invalid_request"),
        ({"dockerfile": "FROM scratch", "env_vars": "{"}, {}, 400, "invalid_request"),
        ({"dockerfile": "FROM scratch", "colour": "red"}, {}, 400, "invalid_request"),
        ({"dockerfile": "FROM python:3-alpine\nCOPY x /"}, {"context": b"no archive" * 100}, 400, "invalid_request"),
        ({"dockerfile": "FROM python:3-alpine\nCOPY x /"}, {"context": tar(**{"../x": "y"})}, 400, "invalid_request"),
        ({"dockerfile": "FROM python:3-alpine\nCOPY x /"}, {"context": tar(**{"/x": "y"})}, 400, "invalid_request"),
        ({"dockerfile": "FROM python:3-alpine\nCOPY x /"}, {"context": tar(y="y")}, 422, "invalid_dockerfile"),
    ],
)
def test_what_cannot_be_built(http: httpx.Client, form: dict[str, str], files: dict[str, bytes], status: int, code: str) -> None:
    before = len(http.get("/api/vms").json())
    answer = http.post("/api/vms/from-dockerfile", files={**{name: (None, value) for name, value in form.items()}, **files} or {"x": b""})
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert len(http.get("/api/vms").json()) == before


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[Server, AuthFile]]:
    with BandSox(tmp_path / "storage"):
        file = AuthFile(tmp_path / "storage")
    file.set_password("long enough")
    with serving(tmp_path / "storage") as server:
        yield server, file


def test_files_of_the_server_are_no_images_for_others(guarded: tuple[Server, AuthFile], tmp_path: Path) -> None:
    server, file = guarded
    secret = tmp_path / "secret.tar"
    secret.write_bytes(tar(password="secret"))
    with server.client(keys.create(file, "ci", ["exec"]).key) as client:
        for image in (f"rootfs:{secret}", f"oci-archive:{secret}", "docker-daemon:x", "debootstrap:sid", f"dir:{tmp_path}"):
            answers = [
                client.post("/api/vms", json={"image": image}),
                client.post("/api/images/pull", json={"reference": image}),
                client.post("/api/images/pull", json={"reference": image, "policy": "missing"}),
                client.post("/api/vms/from-dockerfile", files={"dockerfile": (None, f"FROM {image}\n")}),
            ]
            assert [answer.status_code for answer in answers] == [403, 403, 403, 422]
            assert "secret" not in json.dumps(client.get("/api/images").json())
        form = {"dockerfile": (None, "FROM scratch"), "tag": (None, "python:3-alpine")}
        named = client.post("/api/vms/from-dockerfile", files=form)
        assert named.status_code == 403
    assert not list(Layout.open(tmp_path / "storage").root.glob("**/build-*/context"))


def test_what_is_not_offered_is_refused(server: Server, context: Path) -> None:
    remote = BandSox(server.url)
    with pytest.raises(errors.Unsupported):
        remote.create_vm_from_dockerfile(context / "Dockerfile", kernel_path="/x")
    with pytest.raises(errors.InvalidDockerfile):
        remote.create_vm_from_dockerfile(context / "none")
    assert isinstance(remote._async, RemoteBandSox)
