"""References: containers-transports(5) and distribution's reference grammar."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandsox.errors import InvalidReference
from bandsox.images import Transport, parse_reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("python", "docker.io/library/python:latest", "python:latest"),
        ("python:3-alpine", "docker.io/library/python:3-alpine", "python:3-alpine"),
        ("user/app", "docker.io/user/app:latest", "user/app:latest"),
        ("docker.io/library/python:3", "docker.io/library/python:3", "python:3"),
        ("index.docker.io/python", "docker.io/library/python:latest", "python:latest"),
        ("docker://ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1"),
        (f"host:5000/a/b@{DIGEST}", f"host:5000/a/b@{DIGEST}", f"host:5000/a/b@{DIGEST}"),
        (f"host:5000/a/b:t@{DIGEST}", f"host:5000/a/b:t@{DIGEST}", f"host:5000/a/b:t@{DIGEST}"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("[::1]:5000/x:y", "[::1]:5000/x:y", "[::1]:5000/x:y"),
        ("UPPER/x", "UPPER/x:latest", "UPPER/x:latest"),
        ("a__b/c-d.e--f", "docker.io/a__b/c-d.e--f:latest", "a__b/c-d.e--f:latest"),
        ("oci:5000", None, None),
        ("docker-daemon:python:3", "docker-daemon:docker.io/library/python:3", "docker-daemon:docker.io/library/python:3"),
        ("debootstrap:bookworm", "debootstrap:bookworm", "debootstrap:bookworm"),
        (
            "debootstrap:bookworm?variant=minbase&include=git,python3,git",
            "debootstrap:bookworm?include=git,python3&variant=minbase",
            "debootstrap:bookworm?include=git,python3&variant=minbase",
        ),
        ("debootstrap:bookworm?include=g++", "debootstrap:bookworm?include=g++", "debootstrap:bookworm?include=g++"),
    ],
)
def test_a_reference_has_one_canonical_text(text: str, canonical: str | None, familiar: str | None) -> None:
    reference = parse_reference(text)
    if canonical is None:
        assert reference.transport is Transport.OCI
        return
    assert (str(reference), reference.familiar) == (canonical, familiar)
    assert parse_reference(str(reference)) == reference
    assert parse_reference(reference.familiar) == reference


def test_local_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(parse_reference("oci:layout:tag")) == f"oci:{tmp_path}/layout:tag"
    assert str(parse_reference("oci:./sub/../layout")) == f"oci:{tmp_path}/layout"
    assert str(parse_reference("rootfs:a:b.tar")) == f"rootfs:{tmp_path}/a:b.tar"
    assert str(parse_reference("dir:/x")) == "dir:/x"
    assert str(parse_reference("docker-archive:x.tar:python:3")) == f"docker-archive:{tmp_path}/x.tar:docker.io/library/python:3"


def test_a_path_with_a_colon_is_taken_whole_where_it_exists(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    assert parse_reference(f"oci:{tmp_path}/a:b").path == tmp_path / "a:b"
    assert parse_reference(f"oci:{tmp_path}/c:b").tag == "b"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        (" python", "blanks"),
        ("pyth\non", "control"),
        ("x" * 5000, "too long"),
        ("Python", "did you mean 'python'"),
        ("a//b", "''"),
        ("a_-b", "single"),
        ("python:", "not a tag"),
        ("python:3 alpine", "not a tag"),
        ("python:" + "t" * 129, "at most 128"),
        ("python@sha256:abc", "not a digest"),
        ("python@sha512:" + "a" * 128, "not a digest"),
        ("https://docker.io/python", "leave out https://"),
        ("containers-storage://x", "known transports"),
        ("docker:python", "not"),
        ("docker://", "nothing follows|''"),
        ("oci:", "nothing follows"),
        ("oci::tag", "path is missing"),
        ("oci:dir:", "last colon"),
        ("a" * 300, "at most 255"),
        ("-bad.host/x", "not a host name"),
        ("debootstrap:", "nothing follows"),
        ("debootstrap:Book worm", "release"),
        ("debootstrap:bookworm?include=--evil", "not the name of a Debian package"),
        ("debootstrap:bookworm?hook=rm", "no option 'hook'"),
        ("debootstrap:bookworm?variant=huge", "not a variant"),
    ],
)
def test_what_cannot_be_read_says_why(text: str, says: str) -> None:
    if text == "docker:python":
        assert str(parse_reference(text)) == "docker.io/library/docker:python"
        return
    with pytest.raises(InvalidReference, match=says):
        parse_reference(text)


def test_only_registries_leave_this_host_alone() -> None:
    assert not parse_reference("python").reads_host
    assert all(parse_reference(text).reads_host for text in ("rootfs:/etc/x", "dir:/", "docker-daemon:x", "debootstrap:sid", "oci:/x"))


@given(st.text(max_size=60))
def test_no_text_at_all_does_worse_than_an_error(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidReference:
        return
    assert parse_reference(str(reference)) == reference
